"""Find a value among metrics by a short name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any


def get_metric_value(indicator: str, metrics: Mapping[str, Any]) -> Any:
    """Return the value of the metric that an indicator names.

    Args:
        indicator: A full name (``"accuracy/top1"``), or a name without its prefix (``"top1"``).
        metrics: Values by full name, as `Evaluator.evaluate` returns.

    Raises:
        ValueError: No metric matches, or a name without prefix matches several; the message lists the candidates.
    """
    if "/" in indicator:
        matches = [indicator] if indicator in metrics else []
    else:
        matches = [name for name in metrics if name.rpartition("/")[2] == indicator]
    if len(matches) == 1:
        return metrics[matches[0]]
    if matches:
        raise ValueError(f"the metric {indicator!r} is ambiguous: it matches {matches} · use the full name")
    short = {name.rpartition("/")[2]: name for name in metrics}
    near = get_close_matches(indicator, [*metrics, *short], n=1)
    hint = f" · did you mean {short.get(near[0], near[0])!r}?" if near else ""
    raise ValueError(f"no metric is named {indicator!r}; there are {list(metrics)}{hint}")

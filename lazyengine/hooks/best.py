"""Which metric value is better: rules by name, and the best value so far of each metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from ..evaluator import get_metric_value

Rule = Literal["greater", "less"]
# Parts of metric names of which more, or less, is better; compared in lower case.
GREATER_KEYS = ("acc", "top", "ar@", "auc", "precision", "recall", "f1", "map", "dice", "iou", "psnr", "ssim")
LESS_KEYS = ("loss", "perplexity", "error", "mae", "mse")


class BestTracker:
    """Remembers the best value of one or several metrics.

    Args:
        indicators: Metric names with or without their prefix; ``"auto"`` is the first metric of the first evaluation.
        rules: ``"greater"`` or ``"less"``, for all or for each indicator; None decides by the name.
        greater_keys: Parts of names that mean greater is better, instead of `GREATER_KEYS`.
        less_keys: Parts of names that mean less is better, instead of `LESS_KEYS`.

    Raises:
        ValueError: For rules that do not match the indicators, or a metric whose name does not say which is better.
    """

    def __init__(
        self,
        indicators: Sequence[str],
        rules: Rule | Sequence[Rule] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
    ) -> None:
        if isinstance(rules, str):
            rules = cast("list[Rule]", [rules] * len(indicators))
        if rules is not None and (len(rules) != len(indicators) or any(r not in ("greater", "less") for r in rules)):
            raise ValueError(
                f"rule={list(rules)}: expected one of 'greater' and 'less' for each of the {len(indicators)} metrics "
                f"in {list(indicators)}"
            )
        self.indicators = list(indicators)
        self._rules = None if rules is None else dict(zip(indicators, rules))
        self._greater = [k.lower() for k in (greater_keys or GREATER_KEYS)]
        self._less = [k.lower() for k in (less_keys or LESS_KEYS)]
        self._by_name: list[tuple[list[str], Rule]] = [(self._greater, "greater"), (self._less, "less")]
        self.scores: dict[str, float] = {}
        for indicator in self.indicators:
            if indicator != "auto":
                self.rule_of(indicator)

    def rule_of(self, indicator: str) -> Rule:
        """Return ``"greater"`` or ``"less"``.

        Raises:
            ValueError: When the name, without what stands before its last slash, does not say which is better.
        """
        if self._rules is not None and indicator in self._rules:
            return self._rules[indicator]
        name = indicator.lower()
        last = name.rpartition("/")[2]  # before it stands the name of a loader or a metric, which says nothing
        for keys, rule in self._by_name:  # a name that is a key counts before one that contains a key
            if name in keys or last in keys:
                return rule
        for keys, rule in self._by_name:
            if any(key in last for key in keys):
                return rule
        raise ValueError(
            f"is a greater or a smaller {indicator!r} better? Its name does not tell: set rule='greater' or 'less' "
            f"(known: greater {', '.join(self._greater)}; less {', '.join(self._less)})"
        )

    def update(self, metrics: dict[str, Any]) -> dict[str, float]:
        """Take the metrics of an evaluation and return those that are better than before, by indicator.

        NaN is never better.

        Raises:
            ValueError: When a metric is missing, ambiguous, or has no rule.
        """
        if not metrics:
            return {}
        improved = {}
        if self.indicators == ["auto"]:
            first = next(iter(metrics))
            if self._rules is not None:
                self._rules[first] = self._rules.pop("auto")
            self.indicators = [first]
        for indicator in self.indicators:
            score = float(get_metric_value(indicator, metrics))
            best = self.scores.get(indicator)
            greater = self.rule_of(indicator) == "greater"
            if score == score and (best is None or (score > best if greater else score < best)):
                self.scores[indicator] = improved[indicator] = score
        return improved

    def state_dict(self) -> dict[str, Any]:
        """Return the best values by metric."""
        return {"indicators": list(self.indicators), "scores": dict(self.scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the best values of the metrics that are still tracked."""
        if self.indicators == ["auto"]:
            self.indicators = list(state["indicators"])
        self.scores = {key: value for key, value in state["scores"].items() if key in self.indicators}

"""What everyone who follows a metric asks by its name: its value, and whether more or less of it is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..errors import UsageValueError
from ..text import did_you_mean, listed, short

Rule = Literal["greater", "less"]
Keys = Sequence[str] | None  # a single one too
# Words in names of metrics, in lower case; those of four letters and more also count as a word's end (``focalloss``).
WORDS: dict[Rule, tuple[str, ...]] = {
    "greater": ("acc", "accuracy", "aacc", "macc", "top", "ap", "map", "ar", "auc", "auroc", "precision", "recall",
                "f1", "fscore", "dice", "mdice", "iou", "miou", "psnr", "ssim"),
    "less": ("loss", "losses", "error", "errors", "err", "mae", "mape", "mse", "rmse", "nll", "perplexity", "ppl",
             "bpc", "wer", "cer"),
}  # fmt: skip
TURNING_WORDS = ("1-", "-", "minus", "neg", "negative", "inv", "inverse", "drop", "gap", "std", "var")
_WORD = re.compile(r"^1?-|[fF]1(?!\d)|[A-Z]*(?:(?!f1)[a-z])+|[A-Z]+")  # ends at signs, digits and before capitals


def rule_of(name: str, greater_keys: Keys = None, less_keys: Keys = None, rule: Rule | None = None) -> Rule:
    """Return whether a greater or a smaller value of the metric `name` is better.

    The words of the name decide (``bbox_mAP_50``: bbox, m, AP). What stands before its last slash (a loader, a metric's
    class) says nothing.

    Args:
        name: Name of the metric.
        greater_keys: Names, or parts of names, that mean greater is better, instead of the usual words.
        less_keys: The same for less; where both fit, a whole name counts before a part of one, and greater before less.
        rule: The rule, where the user gave one: it is checked and returned.

    Raises:
        UsageValueError: The name speaks for neither, or for both; or `rule` is no rule.
    """
    if rule is not None:
        if rule not in WORDS:
            raise UsageValueError(f"rule={rule!r} of {name!r}: expected 'greater' or 'less'.")
        return rule
    last = name.rpartition("/")[2].lower()
    given: dict[Rule, list[str]] = {"greater": _keys(greater_keys), "less": _keys(less_keys)}
    for is_key in ((name.lower(), last).__contains__, last.__contains__):  # first whole names, then parts
        for side, keys in given.items():
            if any(map(is_key, keys)):
                return side
    words = [word.lower() for word in _WORD.findall(name.rpartition("/")[2].replace("IoU", "Iou"))]
    said: dict[Rule, list[str]] = {}
    for side, known in WORDS.items():
        said[side] = [word for word in words if not given[side] and any(_says(word, each) for each in known)]
    if said["less"] and set(said["greater"]) == {"top"}:  # top1_error: only says of which predictions
        said["greater"] = []
    turned = [word for word in words if word in TURNING_WORDS]
    sides: list[Rule] = [side for side in WORDS if said[side]]
    if len(sides) == 1 and not turned:
        return sides[0]
    both = ", ".join(map(repr, (*said["greater"], *said["less"], *turned)))
    near = [hint for word in words if (hint := did_you_mean(word, [*WORDS["greater"], *WORDS["less"]], 0.75))]
    hint = f".{near[0]} If not" if near else ""
    why = f"It speaks for both, by {both}" if sides else f"Its name does not tell{hint}"
    raise UsageValueError(
        f"is a greater or a smaller {name!r} better? {why}: set rule='greater' or rule='less' (words that tell: "
        f"greater {', '.join(WORDS['greater'])}; less {', '.join(WORDS['less'])})."
    )


def _keys(given: Keys) -> list[str]:
    return [key.lower() for key in ([given] if isinstance(given, str) else given or ())]


def _says(word: str, known: str) -> bool:
    return word == known or (len(known) > 3 and word.endswith(known))


def is_better(value: float, than: float | None, rule: Rule) -> bool:
    """Return whether a metric's value is better than another one (None: the first). Infinite ones and NaN never are."""
    if not math.isfinite(value):
        return False
    return than is None or (value > than if rule == "greater" else value < than)


def get_metric_value(indicator: str, metrics: Mapping[str, Any]) -> Any:
    """Return the value of the metric that an indicator names.

    Args:
        indicator: A full name (``"clean/accuracy/top1"``), or a name without parts before a slash (``"top1"``).
        metrics: Values by full name, as `Evaluator.evaluate` returns.

    Raises:
        UsageValueError: No metric matches, or a short name matches several; the message lists the candidates.
    """
    matches = [name for name in metrics if name == indicator] or [n for n in metrics if n.endswith(f"/{indicator}")]
    if len(matches) == 1:
        return metrics[matches[0]]
    if matches:
        raise UsageValueError(f"the metric {indicator!r} is ambiguous: it matches {listed(matches)}. Use a full name.")
    hint = did_you_mean(indicator, [*metrics, *(name.rpartition("/")[2] for name in metrics)])
    raise UsageValueError(f"no metric is named {indicator!r}; there are {listed(metrics)}.{hint}")


def score_of(indicator: str, metrics: Mapping[str, Any]) -> float:
    """Return the value of the metric that an indicator names as one number.

    Raises:
        UsageValueError: See `get_metric_value`; or the value is not one number.
    """
    from .samples import to_number  # with torch, which the rest of this module does without

    value = to_number(get_metric_value(indicator, metrics))
    if not isinstance(value, int | float):
        raise UsageValueError(f"the metric {indicator!r} is no number but {short(value)}; there are {listed(metrics)}.")
    return float(value)

"""Conditions on runs, as in ``optimizer.lr > 1e-3 and state == finished``."""

from __future__ import annotations

import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UsageValueError
from ..text import did_you_mean, listed
from .comparing import SEED
from .index import Outline

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne,
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_FORM = re.compile(r"\s*(?P<name>[^\s=<>!]+)\s*(?P<sign>==|!=|<=|>=|=|<|>)\s*(?P<value>[^=<>!\s].*?)\s*")
_ABOUT = ("state", "code", "iterations", "run")
_STATES = {"running", "finished", "pruned", "stopped", "failed", "killed", "evaluated", "unknown"}


@dataclass(frozen=True)
class Condition:
    """A comparison of something that is known of a run with a value."""

    name: str
    sign: str
    value: Any

    def holds(self, outline: Outline) -> bool:
        """Return whether it holds; not where the run has no such value."""
        found = value_of(outline, self.name)
        if found is None:
            return False
        if isinstance(found, int | float) != isinstance(self.value, int | float):
            found, value = str(found), str(self.value)
            return self.sign in ("==", "=", "!=") and _OPERATORS[self.sign](found, value)
        return bool(_OPERATORS[self.sign](found, self.value))

    def without_value(self, outlines: Sequence[Outline]) -> str:
        """Return which runs have no such value, as a message; nothing where all have one."""
        names = [each.path.name for each in outlines if value_of(each, self.name) is None]
        return f"left out, no value of {self.name} (defaults are not recorded): {listed(names)}" if names else ""

    def why_none(self, outlines: Sequence[Outline]) -> str:
        """Return what is said where no run has the value: which ones there are; nothing where one has it, or may."""
        if self.sign[0] in "<>" or any(replace(self, sign="=").holds(each) for each in outlines):
            return ""
        found = Counter(value for each in outlines if (value := value_of(each, self.name)) is not None)
        is_name = isinstance(self.value, str) and self.value not in _STATES
        hint = did_you_mean(self.value, [*found, *(_STATES if self.name == "state" else ())]) if is_name else ""
        return f"no run has {self.name} {self.value!r}.{hint} There are: {listed(v for v, _ in found.most_common())}."


def value_of(outline: Outline, name: str) -> Any:
    """Return a value of the config, the last value of a curve, or state, code, iterations, run; None for none."""
    if name == SEED:
        return plain_value(outline.config.get(SEED, "0"))  # the default, as in the columns of seeds
    if name in outline.config:
        return plain_value(outline.config[name])
    if name in outline.extents:
        return outline.extents[name].last.value
    if name in _ABOUT:
        return outline.path.name if name == "run" else getattr(outline, name)
    return None


def plain_value(text: str) -> Any:
    """Return a value of a flat config: a number, a boolean or a text; what is neither stays as it is written."""
    try:
        value = json.loads(text)
    except ValueError:  # Python reads .5 and 5. too
        return float(text) if re.fullmatch(r"[+-]?(\d+\.?|\d*\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE) else text
    return value if isinstance(value, int | float | str) else text


def parse_conditions(texts: Iterable[str], outlines: Sequence[Outline]) -> list[Condition]:
    """Return conditions, with the names spelled out.

    Args:
        texts: Conditions such as ``optimizer.lr > 1e-3``; ``and`` stands between several. What is compared is a value
            of the config or the last value of a curve (the end of its name is enough where it is the only one),
            ``state``, ``code``, ``iterations`` or ``run``.
        outlines: The runs, whose names are known.

    Raises:
        ValueError: A condition has another form, nothing has that name, there is no such state, or numbers are to be
            more or less than a text.
    """
    found = []
    for part in (part for text in texts for part in re.split(r"\s+and\s+", text)):
        match = _FORM.fullmatch(part)
        if match is None:
            raise UsageValueError(f"{part!r} is no condition; expected name, sign and value, as 'optimizer.lr > 1e-3'.")
        condition = Condition(_spelled_out(match["name"], outlines), match["sign"], plain_value(match["value"]))
        _check_order(part, condition, outlines)
        if condition.name == "state" and condition.value not in _STATES and (said := condition.why_none(outlines)):
            raise UsageValueError(f"{part!r}: {said}")
        found.append(condition)
    return found


def _check_order(text: str, condition: Condition, outlines: Sequence[Outline]) -> None:
    """Refuse ``<`` and ``>`` between a text and what is a number in every run, which would hold for none."""
    if condition.sign[0] not in "<>" or not isinstance(condition.value, str):
        return
    known = [value for each in outlines if (value := value_of(each, condition.name)) is not None]
    if known and not any(isinstance(value, str) for value in known):
        raise UsageValueError(
            f"{text!r}: {condition.name} is a number, such as {known[0]}, and {condition.value!r} none."
        )


def _spelled_out(name: str, outlines: Sequence[Outline]) -> str:
    paths = dict.fromkeys([*_ABOUT, *(path for each in outlines for path in each.config)])
    curves = dict.fromkeys(key for each in outlines for key in each.extents)
    if name in paths or name in curves:
        return name
    if name in ("seed", SEED):  # as the column is headed
        return SEED
    for known in (paths, curves):
        ends = [each for each in known if each.endswith((f".{name}", f"/{name}"))]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise UsageValueError(f"{name!r} may be {listed(ends)}; write more of its name.")
    hint = did_you_mean(name, [*paths, *curves])
    raise UsageValueError(f"no run has {name!r}.{hint} Known are values of configs, curves, {', '.join(_ABOUT)}.")

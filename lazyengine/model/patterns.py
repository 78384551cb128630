"""Choosing modules and parameters by shell-style patterns on their dotted names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UsageTypeError, UsageValueError
from ..text import listed, near


def as_patterns(patterns: str | Iterable[str], argument: str) -> tuple[str, ...]:
    """Return one or several patterns as a tuple.

    Raises:
        TypeError: Something other than text was given; the message names ``argument``.
    """
    result = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in result:
        if not isinstance(pattern, str):
            raise UsageTypeError(f"{argument} takes patterns such as 'backbone.*', got {pattern!r}")
    return result


def match_modules(
    model: nn.Module, patterns: Iterable[str], argument: str, *, open_containers: bool = False
) -> dict[str, nn.Module]:
    """Return the modules whose dotted names match one of ``patterns``, by name, parents before children.

    Args:
        model: Where to look; it is itself never matched.
        patterns: Shell-style patterns.
        argument: What the message names.
        open_containers: For a ``ModuleList`` or ``ModuleDict``, which has no forward, return its children.

    Raises:
        ValueError: A pattern matches nothing; the message names ``argument`` and near matches.
    """
    names = dict(model.named_modules())
    del names[""]
    matched: dict[str, nn.Module] = {}
    for name in match_names(names, patterns, f"{argument}: {{}} matches no module of {type(model).__name__}"):
        if open_containers and isinstance(names[name], nn.ModuleList | nn.ModuleDict):
            matched |= {f"{name}.{key}": child for key, child in names[name].named_children()}
        else:
            matched[name] = names[name]
    return {name: module for name, module in names.items() if name in matched} | matched


def match_names(
    names: Iterable[str], patterns: Iterable[str], refusal: str, matches: Callable[[str, str], bool] = fnmatchcase
) -> dict[str, None]:
    """Return the names that one of the patterns matches, as keys, by pattern.

    Args:
        names: Dotted names.
        patterns: Shell-style patterns.
        refusal: What the message says, with ``{}`` for the pattern.
        matches: Whether a name is matched by a pattern.

    Raises:
        ValueError: A pattern matches nothing; the message names near matches.
    """
    names, matched = list(names), {}
    for pattern in patterns:
        found = dict.fromkeys(name for name in names if matches(name, pattern))
        if not found:
            raise UsageValueError(refusal.format(repr(pattern)) + near_matches(pattern, names))
        matched |= found
    return matched


def near_matches(pattern: str, names: Iterable[str]) -> str:
    """Return the end of an error message: the name closest to ``pattern``, else what there is at the top."""
    stem = pattern.partition("*")[0].rstrip(".") or pattern
    top = list(dict.fromkeys(name.split(".")[0] for name in names))
    close = near(stem, names) or near(stem.split(".")[0], top)  # a misspelt first part hides behind a long tail
    if close is None:
        return f" · names start with {listed(top)}"
    return f" · did you mean {close + ('.*' if pattern.endswith('.*') else '')!r}?"

"""Choosing modules and parameters by shell-style patterns on their dotted names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

__all__ = ["as_patterns", "match_modules", "near_matches"]


def as_patterns(patterns: str | Iterable[str], argument: str) -> tuple[str, ...]:
    """Return one or several patterns as a tuple.

    Raises:
        TypeError: Something other than text was given; the message names ``argument``.
    """
    result = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in result:
        if not isinstance(pattern, str):
            raise TypeError(f"{argument} takes patterns such as 'backbone.*', got {pattern!r}")
    return result


def match_modules(model: nn.Module, pattern: str, argument: str) -> dict[str, nn.Module]:
    """Return the modules whose dotted name matches ``pattern``, by name, parents before children.

    Raises:
        ValueError: Nothing matches; the message names ``argument`` and near matches.
    """
    names = dict(model.named_modules())
    names.pop("")
    matched = {name: module for name, module in names.items() if fnmatchcase(name, pattern)}
    if not matched:
        raise ValueError(
            f"{argument}: {pattern!r} matches no module of {type(model).__name__}{near_matches(pattern, list(names))}"
        )
    return matched


def near_matches(pattern: str, names: Sequence[str]) -> str:
    """Return the end of an error message: the names closest to ``pattern``, else what there is at the top."""
    stem, star, _ = pattern.partition("*")
    stem = stem.rstrip(".") or pattern
    close = difflib.get_close_matches(stem, names, n=3, cutoff=0.6)
    if not close:  # a misspelt first part hides behind a long tail
        heads = list(dict.fromkeys(name.split(".")[0] for name in names))
        close = difflib.get_close_matches(stem.split(".")[0], heads, n=3, cutoff=0.6)
    if close:
        ending = ".*" if star and pattern.endswith(".*") else ""
        return " · did you mean " + " or ".join(repr(name + ending) for name in close) + "?"
    top = list(dict.fromkeys(name.split(".")[0] for name in names))
    return f" · names start with {', '.join(top[:10])}" + (" …" if len(top) > 10 else "")

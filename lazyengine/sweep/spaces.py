"""What a search varies: values that are drawn, and values that are all tried."""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from ..config import OverrideError
from ..config.grammar import read_value
from ..errors import UsageTypeError, UsageValueError
from ..text import did_you_mean, listed

Paths = str | tuple[str, ...]
"""The path of a value in a config, written as for an override; several for `zipped`."""


@dataclass(frozen=True)
class Dimension:
    """What is tried in one place.

    Attributes:
        kind: ``"uniform"`` or ``"log_uniform"``: drawn between two ends; ``"choice"``: one of the values, drawn;
            ``"grid"``: every value.
        values: The two ends, or the values.
    """

    kind: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageValueError(f"{self.kind}() is empty: name at least one value.")
        if self.is_number and not (self.values[0] < self.values[1] and (self.kind == "uniform" or self.values[0] > 0)):
            least = "low < high" if self.kind == "uniform" else "0 < low < high"
            raise UsageValueError(f"{self.kind}{self.values}: expected {least}.")

    def __repr__(self) -> str:
        texts = [repr(value) if isinstance(value, str) else as_text(value) for value in self.values]
        return f"{self.kind}({', '.join(texts)})"

    @property
    def is_number(self) -> bool:
        """Whether it is a range of numbers."""
        return self.kind in ("uniform", "log_uniform")

    @property
    def is_drawn(self) -> bool:
        """Whether one value is drawn, instead of every one being tried."""
        return self.kind != "grid"


def uniform(low: float, high: float) -> Dimension:
    """Draw a number from ``[low, high]``, all alike."""
    return Dimension("uniform", (float(low), float(high)))


def log_uniform(low: float, high: float) -> Dimension:
    """Draw a number from ``[low, high]``, each order of magnitude alike."""
    return Dimension("log_uniform", (float(low), float(high)))


def choice(*values: Any) -> Dimension:
    """Draw one of the values."""
    return Dimension("choice", values)


def grid(*values: Any) -> Dimension:
    """Try every value, with every combination of the other grids; a ``range`` does the same."""
    return Dimension("grid", values)


def zipped(*rows: Sequence[Any]) -> Dimension:
    """Try rows of values for several paths at once: the key of the space is a tuple of as many paths."""
    for row in rows:
        if not isinstance(row, list | tuple):
            raise UsageTypeError(f"a row is a value for each path, as in zipped((64, 0.1), (128, 0.05)); got {row!r}")
    return Dimension("grid", tuple(tuple(row) for row in rows))


MAKERS = {"uniform": uniform, "log_uniform": log_uniform, "choice": choice, "grid": grid, "zipped": zipped}
"""What a command line may call, besides ``range``."""


def parse_dimension(text: str) -> tuple[Paths, Dimension] | None:
    """Return what ``optimizer.lr=log_uniform(1e-4,1e-1)`` says; None for what is an ordinary override.

    Raises:
        UsageValueError: It is a call of something else, or with arguments that are no plain values.
    """
    path, equals, value = text.partition("=")
    call = parse_call(value.strip()) if equals else None
    if call is None:
        return None
    name, args, kwargs = call
    if name == "range":
        return path, grid(*_called(name, range, args, kwargs))
    if name not in MAKERS:
        hint = did_you_mean(name, [*MAKERS, "range"])
        raise UsageValueError(f"{text}: {name} makes no values.{hint} There are {listed([*MAKERS, 'range'])}.")
    paths: Paths = tuple(each.strip() for each in path.split(",")) if name == "zipped" else path
    return paths, _called(name, MAKERS[name], args, kwargs)


def parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]] | None:
    """Return name, arguments and named arguments of a call as it is written in Python; None for anything else.

    Raises:
        UsageValueError: An argument is no plain value.
    """
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    try:
        named = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        return call.func.id, [ast.literal_eval(each) for each in call.args], named
    except (ValueError, SyntaxError) as error:
        raise UsageValueError(f"{text}: the arguments are to be plain values, with quotes around texts.") from error


def _called(name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        raise UsageValueError(f"{name}{tuple(args)}: {error}.") from None


def normal_space(space: Mapping[Any, Any], where: str) -> dict[Paths, Dimension]:
    """Return a space whose values are all dimensions: a ``range`` is a grid, and a plain value a grid of one.

    Raises:
        UsageTypeError: It is no dict of paths.
        UsageValueError: The rows of a `zipped` have another length than its paths.
    """
    if not isinstance(space, Mapping):
        raise UsageTypeError(f"{where}: expected a dict of paths and what is tried there, got {type(space).__name__}.")
    found: dict[Paths, Dimension] = {}
    for paths, value in space.items():
        if isinstance(value, range):
            value = grid(*value)
        elif not isinstance(value, Dimension):
            value = grid(value) if isinstance(paths, str) else zipped(value)
        if isinstance(paths, tuple) and not value.is_number:
            if wrong := [row for row in value.values if not isinstance(row, tuple) or len(row) != len(paths)]:
                raise UsageValueError(f"{where}: {paths} are {len(paths)} paths, and the row {wrong[0]} does not fit.")
        elif not isinstance(paths, str):
            raise UsageTypeError(f"{where}: {paths!r}: expected the path of a value, or several and zipped(...).")
        found[paths] = value
    return found


def as_overrides(values: Mapping[Paths, Any]) -> list[str]:
    """Return values by path as overrides for a command line."""
    pairs: list[tuple[str, Any]] = []
    for paths, value in values.items():
        pairs += [(paths, value)] if isinstance(paths, str) else zip(paths, value)
    return [f"{path}={as_text(value)}" for path, value in pairs]


def as_text(value: Any) -> str:
    """Return a value as an override writes it: text that would be read as something else stands in quotes."""
    if isinstance(value, type | FunctionType):
        return f"{value.__module__}:{value.__qualname__}"
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        with contextlib.suppress(OverrideError):  # such as a pattern, [0-9]*.png
            if value == value.strip() == read_value(value):
                return value
    return repr(value)


def combinations(space: Mapping[Paths, Dimension]) -> list[dict[Paths, Any]]:
    """Return every combination of the grids of a space, the last one fastest; one empty one where there is no grid."""
    grids = {paths: each.values for paths, each in space.items() if not each.is_drawn}
    return [dict(zip(grids, row)) for row in itertools.product(*grids.values())]

"""Nested values (dicts, lists, tuples, named tuples, dataclasses): one walk over them, and one way to rebuild them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_LEAVES: set[type] = set()  # classes that turned out to be no containers: asking again costs more than moving a tensor


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the same nesting with `function` applied to everything that is no container.

    Containers are dataclass instances (copied with `copy.copy`, frozen ones too; the outputs of transformers are some),
    mappings (rebuilt as dicts, whatever their class), lists and tuples of any subclass, and named tuples. None of the
    given containers is changed.

    Args:
        function: Called with each leaf.
        value: Any nesting.
    """
    kind = type(value)
    if kind in _LEAVES:
        return function(value)
    if kind is dict:
        mapped = {}
        for key, item in value.items():
            mapped[key] = function(item) if type(item) in _LEAVES else map_leaves(function, item)
        return mapped
    if kind is list or kind is tuple:
        return kind([function(item) if type(item) in _LEAVES else map_leaves(function, item) for item in value])
    if hasattr(kind, "__dataclass_fields__"):
        return _map_fields(function, value)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(function, item) for item in value]
        return kind(*items) if hasattr(kind, "_fields") else kind(items)
    _LEAVES.add(kind)
    return function(value)


def _map_fields(function: Callable[[Any], Any], value: Any) -> Any:
    changed = copy.copy(value)
    assign = object.__setattr__ if value.__dataclass_params__.frozen else setattr
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            assign(changed, field.name, map_leaves(function, getattr(value, field.name)))
    return changed


def children(value: Any) -> list[tuple[str, Any]] | None:
    """Return what a container holds, each with how it is reached (``['key']``, ``[0]``, ``.name``); None for a leaf."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    kind = type(value)
    if isinstance(value, list | tuple):
        names = getattr(kind, "_fields", None)
        return [(f".{names[i]}" if names else f"[{i}]", item) for i, item in enumerate(value)]
    if hasattr(kind, "__dataclass_fields__"):
        return [(f".{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value) if hasattr(value, f.name)]
    return None


def iter_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of everything in a nesting that is no container, in order."""
    inner = children(value)
    if inner is None:
        yield path, value
        return
    for step, item in inner:
        yield from iter_leaves(item, path + step)


def leaves_of(kind: type | tuple[type, ...], value: Any, name: str) -> dict[str, Any]:
    """Return what a nesting holds by how it is reached, all of one type.

    Args:
        kind: The type, as for `isinstance`.
        value: Any nesting.
        name: What the nesting is called in errors, and what the paths begin with.

    Raises:
        TypeError: There is something else in it.
        ValueError: There is nothing in it.
    """
    expected = kind.__name__.lower() if isinstance(kind, type) else " or ".join(each.__name__.lower() for each in kind)
    found = dict(iter_leaves(value, name))
    for path, leaf in found.items():
        if not isinstance(leaf, kind):
            raise TypeError(f"{path} must be a {expected} or a list, tuple or dict of them, not {type(leaf).__name__}")
    if not found:
        raise ValueError(f"{name} holds no {expected}; it must hold at least one")
    return found

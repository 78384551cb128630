"""What can be done with a graph of nodes: copy, compare, replace, freeze. Sharing between nodes is kept throughout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NoReturn, TypeVar

from .errors import FrozenError, TargetError
from .node import (
    ATOMIC,
    NEW,
    SET_ARGUMENTS,
    SET_EXTRA,
    SET_OWNER,
    SET_SIG,
    SET_WHERE,
    Config,
    Node,
    adopt,
    check_editable,
    is_partial,
)
from .ref import Ref
from .sources import Extra, describe_source, source_here

T = TypeVar("T")


# --------------------------------------------------------------------------------------------------- copies
def copy_graph(value: Any, memo: dict[int, Any]) -> Any:
    """Deep copy: what `copy.deepcopy` does, several times faster on nodes and plain containers."""
    t = type(value)
    if t in ATOMIC:
        return value
    key = id(value)
    found = memo.get(key)
    if found is not None:
        return found
    if t is Node:
        extra, owner = value.__extra__, value.__owner__
        arguments: dict[Any, Any] = value.__arguments__.copy()
        new = memo[key] = NEW(Node)  # `new_node`, written out: configs have thousands
        SET_SIG(new, value.__sig__)
        SET_ARGUMENTS(new, arguments)
        SET_WHERE(new, value.__where__)
        SET_EXTRA(new, extra and extra.copy())
        SET_OWNER(new, owner and memo.get(id(owner), owner))
        for name, v in arguments.items():
            if type(v) not in ATOMIC:
                arguments[name] = copy_graph(v, memo)
        return new
    if t is list or t is FrozenList:
        items = memo[key] = list(value)
        for i, v in enumerate(items):
            if type(v) not in ATOMIC:
                items[i] = copy_graph(v, memo)
        return items
    if t is dict or t is FrozenDict:
        mapping = memo[key] = dict(value)
        for k, v in mapping.items():
            mapping[k] = copy_graph(v, memo)
        return mapping
    if t is Config:
        config = memo[key] = Config({}, value.__file__, value.__record__, value.__extra__.copy())
        for name, v in value.__arguments__.items():
            config.__arguments__[name] = copy_graph(v, memo)
        return config
    return copy.deepcopy(value, memo)


def clone(node: T, /, *, keep: Any = ()) -> T:
    """Return an independent copy of a node or container: building both gives two instances.

    Args:
        node: What to copy, with all that it refers to.
        keep: A node, or several, that the copy shares with the original: `clone(optimizer, keep=model)`.
    """
    kept = [keep] if isinstance(keep, Node) else list(keep)
    return copy_graph(node, {id(k): k for k in kept})


def repeat(node: T, n: int, /, *, keep: Any = ()) -> list[T]:
    """Return a list of `n` independent copies of a node, for a list of equal layers or blocks.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"repeat needs n >= 0, got {n}.")
    return [clone(node, keep=keep) for _ in range(n)]


# ------------------------------------------------------------------------------------------------ replacing
def replace(old: T, new: Any, /) -> T:
    """Put `new` wherever `old` is used, and return it: `optimizer = replace(optimizer, LazyCall(SGD)(...))`.

    The node `old` itself takes over target and arguments of `new`, so that every reference to it sees the change.
    `new` may use `old` (a wrapper): inside of it the former `old` lives on.

    Raises:
        TargetError: One of them is not a node. (To remove a part, set the argument that holds it.)
        FrozenError: `old` is frozen.
    """
    source = source_here(1)
    if not (isinstance(old, Node) and isinstance(new, Node)):
        kinds = f"{type(old).__name__} and {type(new).__name__}"
        raise TargetError(f"{describe_source(source)}: replace(old, new) takes two nodes, got {kinds}.")
    check_editable(old, "_target_", source)
    if new is old:
        return old
    swap(new, old, copy.copy(old), lambda holder, name, value: holder.__arguments__.update({name: value}))
    extra = new.__extra__.copy() if new.__extra__ else Extra()
    past = old.__extra__.history.get("_target_") if old.__extra__ else None
    extra.history["_target_"] = [*(past or [old.__where__]), source]
    SET_SIG(old, new.__sig__)
    SET_ARGUMENTS(old, dict(new.__arguments__))
    SET_WHERE(old, new.__where__)
    SET_EXTRA(old, extra)
    if old.__owner__ is not None:
        adopt(old.__owner__, list(old.__arguments__.values()))
    return old  # type: ignore[return-value]


def swap(root: Any, old: Any, new: Any, put: Callable[[Any, Any, Any], None]) -> Any:
    """Replace an object wherever `root` holds it: `put(holder, name, value)` changes nodes and configs.

    Lists, tuples and dicts around it are replaced by copies, so that no other holder of them sees a change.
    """
    memo: dict[int, tuple[Any, Any]] = {id(old): (old, new)}  # with what the ids belong to, to keep it alive

    def visit(value: Any) -> Any:
        if id(value) in memo:
            return memo[id(value)][1]
        if isinstance(value, Node | Config):
            memo[id(value)] = value, value
            for name, child in list(value.__arguments__.items()):
                if (now := visit(child)) is not child:
                    put(value, name, now)
        elif isinstance(value, list | tuple | dict):
            keys = value if isinstance(value, dict) else range(len(value))
            changes = {key: now for key in keys if (now := visit(value[key])) is not value[key]}
            memo[id(value)] = value, changed(value, changes) if changes else value
        return memo[id(value)][1] if id(value) in memo else value

    return visit(root)


def changed(container: Any, changes: dict[Any, Any]) -> Any:
    """Return a copy of a list, tuple or dict (or a subclass) with some items replaced."""
    new: Any = list(container) if isinstance(container, tuple) else copy.copy(container)
    for key, value in changes.items():
        new[key] = value
    return rebuilt_tuple(container, new) if isinstance(container, tuple) else new


def rebuilt_tuple(old: Any, items: list[Any]) -> Any:
    """Return a tuple of the type of `old`, named or not, with other items."""
    return type(old)._make(items) if hasattr(old, "_make") else type(old)(items)


# ------------------------------------------------------------------------------------------------- freezing
def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise FrozenError(
        f"{describe_source(source_here(1))}: cannot change a {plain_type(self).__name__} of a frozen config. "
        "Change a copy instead: clone(...)."
    )


class FrozenList(list[Any]):
    """A list in a frozen config: equal to a plain one, refuses changes, becomes a plain one in copies and builds."""

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse  # type: ignore[assignment]
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (list(self),)


class FrozenDict(dict[Any, Any]):
    """A dict in a frozen config: equal to a plain one, refuses changes, becomes a plain one in copies and builds."""

    update = pop = popitem = clear = setdefault = _refuse  # type: ignore[assignment]
    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)


def plain_type(value: Any) -> type:
    """Return the type of a value; that of a frozen list or dict is `list` or `dict`."""
    t = type(value)
    return list if t is FrozenList else dict if t is FrozenDict else t


def freeze(config: T) -> T:
    """Make every later change of the config's nodes, lists, dicts and names a `FrozenError`; return the same config.

    Copies (`clone`, `copy.deepcopy`) are not frozen.
    """
    _frozen(config, {})
    return config


def _frozen(x: Any, memo: dict[int, Any]) -> Any:
    if id(x) in memo:
        return memo[id(x)][1]
    t = type(x)
    new: Any = x
    if isinstance(x, Node | Config):
        memo[id(x)] = (x, x)
        if x.__extra__ is None:
            SET_EXTRA(x, Extra())
        for name, value in x.__arguments__.items():
            x.__arguments__[name] = _frozen(value, memo)
        x.__extra__.frozen = True  # type: ignore[union-attr]
    elif t is list:
        new = FrozenList(_frozen(v, memo) for v in x)
    elif t is dict:
        new = FrozenDict((k, _frozen(v, memo)) for k, v in x.items())
    elif t is tuple:
        new = tuple(_frozen(v, memo) for v in x)
    if new is not x:
        memo[id(x)] = (x, new)
    return new


# ------------------------------------------------------------------------------------------------- equality
def is_equal(a: Any, b: Any) -> bool:
    """Compare two configs, nodes or values by structure.

    Targets, arguments, types of values (`1`, `1.0` and `True` differ, a tuple is not a list) and sharing must agree;
    arrays are compared element by element, `nan` equals `nan`, functions are equal if their code is. Where nodes were
    defined and what set their values does not matter.
    """
    return _equal(a, b, {}, {})


def _equal(a: Any, b: Any, left: dict[int, Any], right: dict[int, Any]) -> bool:
    t = plain_type(a)
    if t is not plain_type(b):
        return False
    if t in (Node, Config):
        if id(a) in left or id(b) in right:  # seen before: the partner must be the same one
            return left.get(id(a)) is b and right.get(id(b)) is a
        left[id(a)], right[id(b)] = b, a
        if t is Node and not (
            is_partial(a) == is_partial(b) and _equal(a.__sig__.target, b.__sig__.target, left, right)
        ):
            return False
        return _equal(a.__arguments__, b.__arguments__, left, right)
    if isinstance(a, dict):
        same_keys = a.keys() == b.keys() and (t is dict or list(a) == list(b))
        return same_keys and all(_equal(v, b[k], left, right) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y, left, right) for x, y in zip(a, b))
    return a is b or _equal_leaves(a, b, left, right)


def _equal_leaves(a: Any, b: Any, left: dict[int, Any], right: dict[int, Any]) -> bool:
    t = type(a)
    if isinstance(a, type):  # classes written in a config file are new in every load
        return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)
    if t in _PARTS:
        return _equal(_PARTS[t](a), _PARTS[t](b), left, right)
    if hasattr(a, "shape") and hasattr(a, "dtype"):  # numpy, torch, jax: none of them is imported here
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        same = (a == b) | ((a != a) & (b != b))
        return bool(same.all()) if hasattr(same, "all") else bool(same)
    if t.__eq__ is object.__eq__:
        try:
            return _equal(a.__reduce_ex__(2), b.__reduce_ex__(2), left, right)  # of one class and in one state
        except TypeError:  # nothing can be known of what cannot be pickled
            return False
    return bool(a == b) or (a != a and b != b)  # nan


def _function_parts(f: Any) -> list[Any]:
    return [f.__code__, f.__defaults__, f.__kwdefaults__, [c.cell_contents for c in f.__closure__ or ()]]


_PARTS: dict[type, Callable[[Any], list[Any]]] = {
    Ref: lambda r: [r.paths, r.function],
    FunctionType: _function_parts,
    MethodType: lambda m: [m.__func__, m.__self__],
}

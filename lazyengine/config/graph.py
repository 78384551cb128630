"""What can be done with a graph of nodes: copy, compare, replace, freeze. Sharing between nodes is kept throughout."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NoReturn, TypeVar

from .errors import FrozenError, TargetError
from .loaded import Config
from .node import _ARGUMENTS, _EXTRA, _NEW, _OWNER, _SIG, _WHERE, Node, children_of, is_frozen
from .ref import Ref
from .sources import Extra, check_editable, describe_source, source_here

__all__ = ["FrozenDict", "FrozenList", "adopt", "clone", "copy_graph", "freeze", "is_equal", "repeat", "replace"]

T = TypeVar("T")
_ATOMIC = frozenset(
    {int, float, str, bool, type(None), bytes, complex, type, FunctionType, type(len), range, ModuleType}
)


_CONTAINERS = (dict, list, tuple)


def adopt(owner: Config, value: Any) -> tuple[list[Ref], list[list[Any]]]:
    """Tell all nodes and refs in `value` which config they belong to (refs are looked up there).

    Returns:
        What the same walk finds out: the refs, and the lists that hold something more than once.
    """
    refs: list[Ref] = []
    repeated: list[list[Any]] = []
    stack: list[Any] = [value]
    seen: set[int] = set()
    while stack:
        x = stack.pop()
        t = type(x)
        if t is Node:
            if x.__owner__ is not owner:
                _OWNER(x, owner)
                for v in x.__arguments__.values():
                    if type(v) not in _ATOMIC:
                        stack.append(v)
        elif t is Ref:
            x.owner = owner
            refs.append(x)
        elif (t is list or isinstance(x, _CONTAINERS)) and x and id(x) not in seen:
            seen.add(id(x))
            inner = [v for v in (x.values() if isinstance(x, dict) else x) if type(v) not in _ATOMIC]
            stack += inner
            if isinstance(x, list) and len(inner) > 1 and len(set(map(id, inner))) < len(inner):
                repeated.append(x)
    return refs, repeated


# --------------------------------------------------------------------------------------------------- copies
def copy_graph(value: Any, memo: dict[int, Any]) -> Any:
    """Deep copy: what `copy.deepcopy` does, several times faster on nodes and plain containers."""
    t = type(value)
    if t in _ATOMIC:
        return value
    key = id(value)
    found = memo.get(key)
    if found is not None:
        return found
    if t is Node:
        extra, owner = value.__extra__, value.__owner__
        arguments: dict[str | int, Any] = value.__arguments__.copy()
        new = memo[key] = _NEW(Node)  # `new_node`, written out: configs have thousands
        _SIG(new, value.__sig__)
        _ARGUMENTS(new, arguments)
        _WHERE(new, value.__where__)
        _EXTRA(new, extra and extra.copy())
        _OWNER(new, owner and memo.get(id(owner), owner))
        for name, v in arguments.items():
            if type(v) not in _ATOMIC:
                arguments[name] = copy_graph(v, memo)
        return new
    if t is list or t is FrozenList:
        items = memo[key] = list(value)
        for i, v in enumerate(items):
            if type(v) not in _ATOMIC:
                items[i] = copy_graph(v, memo)
        return items
    if t is dict or t is FrozenDict:
        mapping = memo[key] = dict(value)
        for k, v in mapping.items():
            if type(v) not in _ATOMIC:
                mapping[k] = copy_graph(v, memo)
        return mapping
    if t is Config:
        config = memo[key] = Config({}, value.__file__, value.__record__, value.__extra__.copy())
        values = config.__values__
        for name, v in value.__values__.items():
            values[name] = copy_graph(v, memo)
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
    check_editable(is_frozen(old), f"{old.__sig__.label} node", "_target_", source)
    if new is old:
        return old
    inner = copy.copy(old)
    _substitute(new, old, inner)
    extra = new.__extra__.copy() if new.__extra__ else Extra()
    past = old.__extra__.history.get("_target_") if old.__extra__ else None
    extra.history["_target_"] = [*(past or [old.__where__]), source]
    _SIG(old, new.__sig__)
    _ARGUMENTS(old, dict(new.__arguments__))
    _WHERE(old, new.__where__)
    _EXTRA(old, extra)
    if old.__owner__ is not None:
        adopt(old.__owner__, list(old.__arguments__.values()))
    return old  # type: ignore[return-value]


def _substitute(root: Node, old: Node, new: Node) -> None:
    """Let everything in `root` that holds `old` hold `new`."""
    for holder in _containers(root):
        if not isinstance(holder, tuple):  # those are rebuilt where they are held
            items = holder.__arguments__ if isinstance(holder, Node) else holder
            for key, child in children_of(holder) or ():
                items[key] = _swapped(child, old, new)


def _swapped(value: Any, old: Node, new: Node) -> Any:
    if not isinstance(value, tuple):
        return new if value is old else value
    items = [_swapped(v, old, new) for v in value]
    if all(a is b for a, b in zip(items, value)):
        return value
    return type(value)._make(items) if hasattr(value, "_make") else type(value)(items)  # type: ignore[attr-defined]


def _containers(root: Any) -> Iterator[Any]:
    """Yield every config, node and container below and including `root`, once."""
    stack, seen = [root], set()
    while stack:
        x = stack.pop()
        children = children_of(x)
        if children is not None and id(x) not in seen:
            seen.add(id(x))
            yield x
            stack.extend(child for _, child in reversed(children))


# ------------------------------------------------------------------------------------------------- freezing
def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise FrozenError(
        f"{describe_source(source_here(1))}: cannot change a {_PLAIN[type(self)].__name__} of a frozen config. "
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


def freeze(config: T) -> T:
    """Make every later change of the config's nodes, lists, dicts and names a `FrozenError`; return the same config.

    Copies (`clone`, `copy.deepcopy`) are not frozen.
    """
    _frozen(config, {})
    return config


def _frozen(x: Any, memo: dict[int, Any]) -> Any:
    if id(x) in memo:
        return memo[id(x)][1]
    if isinstance(x, Node | Config):
        memo[id(x)] = (x, x)
        if x.__extra__ is None:
            _EXTRA(x, Extra())
        values: Any = x.__arguments__ if isinstance(x, Node) else x.__values__
        for name, value in values.items():
            values[name] = _frozen(value, memo)
        x.__extra__.frozen = True  # type: ignore[union-attr]
        return x
    t = type(x)
    if t is list:
        new: Any = FrozenList(_frozen(v, memo) for v in x)
    elif t is dict:
        new = FrozenDict((k, _frozen(v, memo)) for k, v in x.items())
    elif t is tuple:
        new = tuple(_frozen(v, memo) for v in x)
    else:
        return x
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
    ta, tb = (_PLAIN.get(type(x), type(x)) for x in (a, b))
    if ta is not tb:
        return False
    if ta in (Node, Config):
        if id(a) in left or id(b) in right:  # seen before: the partner must be the same one
            return left.get(id(a)) is b and right.get(id(b)) is a
        left[id(a)], right[id(b)] = b, a
        if ta is Config:
            return _equal(a.__values__, b.__values__, left, right)
        partial = [x.__extra__ is not None and x.__extra__.partial for x in (a, b)]
        return (
            partial[0] == partial[1]
            and _equal(a.__sig__.target, b.__sig__.target, left, right)
            and _equal(a.__arguments__, b.__arguments__, left, right)
        )
    if isinstance(a, dict):
        same_keys = a.keys() == b.keys() and (type(a) in _PLAIN or type(a) is dict or list(a) == list(b))
        return same_keys and all(_equal(v, b[k], left, right) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y, left, right) for x, y in zip(a, b))
    return a is b or _equal_leaves(a, b, left, right)


def _equal_leaves(a: Any, b: Any, left: dict[int, Any], right: dict[int, Any]) -> bool:
    t = type(a)
    if t is Ref:
        return a.paths == b.paths and _equal(a.function, b.function, left, right)
    if t is FunctionType:
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (a, b)]
        parts = [[f.__code__, f.__defaults__, f.__kwdefaults__] for f in (a, b)]
        return _equal(parts[0], parts[1], left, right) and _equal(cells[0], cells[1], left, right)
    if isinstance(a, type):  # classes written in a config file are new in every load
        return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)
    if t is MethodType:
        return _equal(a.__func__, b.__func__, left, right) and _equal(a.__self__, b.__self__, left, right)
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


_PLAIN: dict[type, type] = {FrozenList: list, FrozenDict: dict}

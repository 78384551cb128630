"""The graph of a config: one way to walk over it, one way to rebuild it, and what follows from these two.

The bottom of the package: of nodes and configs it knows that they hold arguments (`Holder`), nothing else. Sharing is
kept throughout: what occurs twice is one thing, in copies and in comparisons.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeVar

from ..errors import UsageValueError
from .errors import entries_of

T = TypeVar("T")
ATOMIC = frozenset(  # types of values that hold nothing, for walks that look at the type first
    {int, float, str, bool, type(None), bytes, complex, type, FunctionType, type(len), range, ModuleType}
)
_SEQUENCES = (list, tuple)
COMPARED: dict[type, tuple[str, ...]] = {  # what makes two of a type equal
    FunctionType: ("__code__", "__defaults__", "__kwdefaults__", "__closure__"),
    CellType: ("cell_contents",),
    MethodType: ("__func__", "__self__"),
}
_ENGINE = os.path.dirname(os.path.dirname(__file__)) + os.sep
INTERPOLATION = r"\$\{[\w.:/\[\]-]+\}"  # what other systems write for a ref
INSTEAD = "ref('{}') if this is a path of the config, else Python (os.environ['NAME'])"
ABSENT: Any = object()  # stands for a part that is not there
# A source says what set a value: text for people ("cli:#3 optimizer.lr=1"), or a code object and an offset in it,
# which cost nothing to keep and become "file.py:12" when somebody asks.
Source = Any


class Edit(NamedTuple):
    """A source that replaced a value, and what that was, as one line; ``"-"`` for none."""

    source: Source
    was: str


class Holder:
    """What nodes and configs have in common: values by name, and what set them."""

    __slots__ = ("__arguments__", "__history__")
    __hash__ = None  # type: ignore[assignment]  # equality is structural and values change
    __iter__ = None  # `__getitem__` would make a node iterable

    __arguments__: dict[Any, Any]
    __history__: dict[Any, tuple[Source, ...]] | None  # name -> everything that set it, of edited names only

    def __head__(self) -> list[Any]:
        """Return what it is besides its arguments, for comparisons."""
        return []

    def __eq__(self, other: object) -> bool:
        return is_equal(self, other) if type(other) is type(self) else NotImplemented

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy_graph(self, memo)


# -------------------------------------------------------------------------------------------------- walking
def children(value: Any) -> list[tuple[Any, Any]] | None:
    """Return `(key, child)` of a config, node, dict, list or tuple (subclasses included); None for a leaf."""
    if isinstance(value, Holder):
        value = value.__arguments__
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, _SEQUENCES) else None


def part_of(parent: Any, step: Any) -> tuple[Any, Any]:
    """Return the real key for a step of a path into something, and the part, `ABSENT` where there is none."""
    if type(parent) is list:
        return step, parent[step] if isinstance(step, int) and -len(parent) <= step < len(parent) else ABSENT
    if isinstance(parent, Holder):
        return step, parent.__arguments__.get(step, ABSENT)
    if isinstance(parent, dict):
        key = str(step) if step not in parent and str(step) in parent else step
        return key, parent.get(key, ABSENT)
    if isinstance(parent, _SEQUENCES):
        fields = getattr(parent, "_fields", ())
        key = fields.index(step) if step in fields else step
        return key, parent[key] if isinstance(key, int) and -len(parent) <= key < len(parent) else ABSENT
    return step, ABSENT


def follow(root: Any, steps: Iterable[Any]) -> list[tuple[Any, Any, Any]]:
    """Return parent, real key and part for each step of a path; what is not there is `ABSENT`."""
    trail = []
    for step in steps:
        key, part = part_of(root, step)
        trail.append((root, key, part))
        root = part
    return trail


def rebuild(value: Any, items: list[Any]) -> Any:
    """Return a container of the same type with other children, in the order in which `children` gives them."""
    kind = type(value)
    if kind is list:
        return items
    if kind is dict:
        return dict(zip(value, items))
    if isinstance(value, tuple):
        if len(items) == len(value) and all(a is b for a, b in zip(items, value)):
            return value  # torch.Size and the like need not know how to be rebuilt
        return kind._make(items) if hasattr(kind, "_make") else kind(items)  # type: ignore[attr-defined]
    new = copy.copy(value)
    for key, item in zip(value if isinstance(value, dict) else range(len(value)), items):
        new[key] = item
    return new


def join_path(path: str, key: Any) -> str:
    """Return the path of a child in the override grammar: `a.b`, `a[0]`, `a['odd key']`."""
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def walk(root: Any, path: str = "", breadth_first: bool = False) -> Iterator[tuple[str, Any]]:
    """Visit a config, node or container and everything in it, parents before children, depth first unless told."""
    seen: set[int] = set()
    todo: deque[tuple[str, Any]] = deque([(path, root)])
    while todo:
        path, value = todo.popleft() if breadth_first else todo.pop()
        inner = children(value)
        if inner is not None:
            if id(value) in seen:
                continue
            seen.add(id(value))
        yield path, value
        if inner:
            todo.extend((join_path(path, k), child) for k, child in (inner if breadth_first else reversed(inner)))


def holds(root: Any, *kinds: type) -> bool:
    """Return whether a value is of one of these types or holds such a part."""
    return any(type(value) in kinds for _, value in walk(root))


def reachable(start: T, following: Callable[[T], Iterable[T]]) -> set[T]:
    """Return `start` and everything that follows it, at once or by others."""
    found: set[T] = set()
    todo = [start]
    while todo:
        each = todo.pop()
        todo += following(each) if each not in found else ()
        found.add(each)
    return found


def find_path(root: Any, wanted: Any, path: str = "") -> str | None:
    """Return the shortest path to an object in (or at) `root`, None if it is not there."""
    return next((p for p, value in walk(root, path, breadth_first=True) if value is wanted), None)


def swap(root: Any, old: Any, new: Any, put: Callable[[Any, Any, Any], None]) -> None:
    """Replace an object wherever `root` holds it: `put(holder, name, value)` changes nodes and configs.

    Lists, tuples and dicts around it are replaced by copies, so that no other holder of them sees a change.
    """
    memo: dict[int, tuple[Any, Any]] = {id(old): (old, new)}  # with what the ids belong to, to keep it alive

    def visit(value: Any) -> Any:
        inner = None if id(value) in memo else children(value)
        if inner is not None:
            memo[id(value)] = value, value
            after = [visit(child) for _, child in inner]
            changes = [(name, now) for (name, child), now in zip(inner, after) if now is not child]
            if isinstance(value, Holder):
                for name, now in changes:
                    put(value, name, now)
            elif changes:
                memo[id(value)] = value, rebuild(value, after)
        return memo[id(value)][1] if id(value) in memo else value

    visit(root)


# --------------------------------------------------------------------------------------------------- copies
def copy_graph(value: Any, memo: dict[int, Any]) -> Any:
    """Deep copy: what `copy.deepcopy` does, several times faster on nodes and plain containers."""
    kind = type(value)
    if kind in ATOMIC:
        return value
    if id(value) in memo:
        return memo[id(value)]
    new: Any
    if issubclass(kind, Holder):
        new = value.__twin__(memo)  # an equal one with a dict of its own of the same arguments
        inside = new.__arguments__
    elif kind is list or kind is dict:
        new = inside = value.copy()
    else:
        return copy.deepcopy(value, memo)
    memo[id(value)] = new  # before its children, which may lead back to it
    for key, child in enumerate(inside) if kind is list else inside.items():
        if type(child) not in ATOMIC:
            inside[key] = copy_graph(child, memo)  # of a dict the keys stay, so that it may be changed on the way
    return new


def clone(node: T, /, *, keep: Any = ()) -> T:
    """Return an independent copy of a node or container: building both gives two instances.

    Args:
        node: What to copy, with all that it refers to.
        keep: A node, or several, that the copy shares with the original: `clone(optimizer, keep=model)`.
    """
    kept = [keep] if isinstance(keep, Holder) else list(keep)
    return copy_graph(node, {id(k): k for k in kept})


def repeat(node: T, n: int, /, *, keep: Any = ()) -> list[T]:
    """Return a list of `n` independent copies of a node, for a list of equal layers or blocks.

    Raises:
        UsageValueError: `n` is negative.
    """
    if n < 0:
        raise UsageValueError(f"repeat needs n >= 0, got {n}.")
    return [clone(node, keep=keep) for _ in range(n)]


# ------------------------------------------------------------------------------------------------- equality
def is_equal(a: Any, b: Any) -> bool:
    """Compare two configs, nodes or values by structure.

    Targets, arguments, types of values (`1`, `1.0` and `True` differ, a tuple is not a list) and sharing must agree;
    arrays are compared element by element, `nan` equals `nan`, functions are equal if their code is. Where nodes were
    defined and what set their values does not matter.
    """
    return next(differences(a, b), None) is None


class SameAs(NamedTuple):
    """Stands for a node or config that was found at another path before, unlike its counterpart."""

    path: str


def differences(a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield `(path, part of a, part of b)` wherever two configs, nodes or values differ.

    Both parts are nodes where their targets differ, and the path then ends with `_target_`.
    """
    first: tuple[dict[int, str], ...] = ({}, {})  # for either side: id of a node -> its first path

    def equal(a: Any, b: Any, path: str) -> bool:
        return next(compare(a, b, path), None) is None

    def compare(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
        inner = children(a)
        if isinstance(a, Holder) or isinstance(b, Holder):
            seen = [paths.setdefault(id(side), path) for paths, side in zip(first, (a, b))]
            if seen != [path, path]:
                if seen[0] != seen[1]:
                    one, other = (side if p == path else SameAs(p) for p, side in zip(seen, (a, b)))
                    yield path, one, other
                return
        if type(a) is not type(b):
            yield path, a, b
        elif inner is None:
            if not (a is b or _equal_leaves(a, b, lambda a, b: equal(a, b, path))):
                yield path, a, b
        else:
            if isinstance(a, Holder) and not equal(a.__head__(), b.__head__(), join_path(path, "_target_")):
                yield join_path(path, "_target_"), a, b
            ours, theirs = dict(inner), dict(children(b) or ())
            if isinstance(a, dict) and type(a) is not dict and list(ours) != list(theirs):
                yield path, a, b
                return
            for key in [*ours, *(key for key in theirs if key not in ours)]:
                below = join_path(path, key)
                if key in ours and key in theirs:
                    yield from compare(ours[key], theirs[key], below)
                else:
                    yield below, ours.get(key, ABSENT), theirs.get(key, ABSENT)

    return compare(a, b, "")


def _equal_leaves(a: Any, b: Any, equal: Callable[[Any, Any], bool]) -> bool:
    kind = type(a)
    if isinstance(a, type):  # classes written in a config file are new in every load
        return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)
    if kind in COMPARED:
        return equal(*([getattr(each, name) for name in COMPARED[kind]] for each in (a, b)))
    if hasattr(a, "shape") and hasattr(a, "dtype"):  # numpy, torch, jax: none of them is imported here
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        same = (a == b) | ((a != a) & (b != b))
        return bool(same.all()) if hasattr(same, "all") else bool(same)
    if kind.__eq__ is object.__eq__:
        try:
            # Of one class and in one state; the dict is asked for first, since a partial makes its own late.
            return equal(*((getattr(x, "__dict__", None), x.__reduce_ex__(2)) for x in (a, b)))
        except TypeError:  # nothing can be known of what cannot be pickled
            return False
    if hasattr(kind, "__dataclass_fields__"):  # its `==` has no answer for arrays, and another one for nan
        names = [name for name, field in kind.__dataclass_fields__.items() if field.compare]
        return equal(*([getattr(x, name, ABSENT) for name in names] for x in (a, b)))
    return bool(a == b) or (a != a and b != b)  # nan


# -------------------------------------------------------------------------------------------------- sources
def source_here() -> Source:
    """Return the line of the code that called the engine, as a source."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_ENGINE) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def line_here() -> str:
    """Return `"file.py:12"`, the line of the code that called the engine."""
    return describe_source(source_here())


def describe_source(source: Source) -> str:
    """Return a source as text: `"config.py:12"` (relative where that is shorter) or the text that it already is."""
    source = source.source if isinstance(source, Edit) else source
    if isinstance(source, str):
        return source
    file, (line, *_) = span_of(source) or ("", (0,))
    return f"{display_path(file)}:{line or source[0].co_firstlineno}"


@functools.lru_cache(maxsize=16)
def _positions(code: CodeType) -> list[tuple[int | None, int | None, int | None, int | None]]:
    return list(code.co_positions())


def span_of(source: Source) -> tuple[str, tuple[int, int, int, int]] | None:
    """Return file, and line and column of beginning and end, of the call that a source stands for; None for text."""
    source = source.source if isinstance(source, Edit) else source
    if isinstance(source, str):
        return None
    code, offset = source
    begin, end, column, last = _positions(code)[offset // 2]
    return code.co_filename, (begin or 0, column or 0, end or 0, last or 0)


def failed_line(error: BaseException) -> str:
    """Return `"file.py:12"`, the last line of a file, not of Python's own importing, that an error came through."""
    entries = [(entry.tb_frame.f_code.co_filename, entry.tb_lineno) for entry in entries_of(error)]
    file, line = [each for each in entries if "importlib" not in each[0]][-1]
    return f"{display_path(file)}:{line}"


def display_path(path: str) -> str:
    """Return the path relative to the working directory if it lies inside it, else unchanged."""
    try:
        inside = os.path.relpath(path)
    except (ValueError, OSError):  # another drive; a working directory that was deleted
        return path
    return path if inside.startswith(".") or not os.path.isabs(path) else inside

"""The structural difference of two configs."""

from __future__ import annotations

from typing import Any, NamedTuple

from .graph import is_equal, plain_type
from .node import Node, children_of, is_partial, join_path
from .text import brief, module_of, target_label

_MISSING: Any = object()


class Difference(NamedTuple):
    """One place where two configs differ."""

    path: str
    """As on the command line; `optimizer._target_` for another class."""
    old: str | None
    """The value in the first config as text; None where it is only in the second."""
    new: str | None
    """The value in the second config as text; None where it is only in the first."""

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.path} = {self.new}"
        if self.new is None:
            return f"- {self.path} = {self.old}"
        return f"~ {self.path}: {self.old} -> {self.new}"


def diff(old: Any, new: Any) -> list[Difference]:
    """Compare two configs, nodes or values by structure; an empty list means that they are equal.

    A node used in several places is compared once, at the first. Where one config shares a node and the other has two,
    that is a difference too.
    """
    found: list[Difference] = []
    seen_old: dict[int, tuple[str, Any]] = {}  # id of a node -> its first path, and itself to keep it alive
    seen_new: dict[int, tuple[str, Any]] = {}

    def add(path: str, *values: Any) -> None:
        shown = (None if v is _MISSING else str(v) if type(v) is _Text else brief(v) for v in values)
        found.append(Difference(path, *shown))

    def compare(old: Any, new: Any, path: str) -> None:
        if type(old) is Node or type(new) is Node:
            first = [seen.get(id(value), (None, None))[0] for seen, value in ((seen_old, old), (seen_new, new))]
            if first != [None, None]:
                if first[0] != first[1]:
                    add(path, *(_Text(f"the node of {p}") if p is not None else v for p, v in zip(first, (old, new))))
                return
            seen_old[id(old)], seen_new[id(new)] = (path, old), (path, new)
        if children_of(old) is None or children_of(new) is None or plain_type(old) is not plain_type(new):
            if not is_equal(old, new):
                add(path, old, new)
            return
        if type(old) is Node:
            same = is_equal(old.__sig__.target, new.__sig__.target) and is_partial(old) == is_partial(new)
            labels = [target_label(node) for node in (old, new)]
            if labels[0] == labels[1]:  # two classes of one name
                labels = [f"{module_of(node)}.{label}" for node, label in zip((old, new), labels)]
            if not same:
                add(join_path(path, "_target_"), *map(_Text, labels))
        a, b = (dict(children_of(value) or ()) for value in (old, new))
        for key in [*a, *(key for key in b if key not in a)]:
            if key in a and key in b:
                compare(a[key], b[key], join_path(path, key))
            else:
                add(join_path(path, key), a.get(key, _MISSING), b.get(key, _MISSING))

    compare(old, new, "")
    return found


class _Text(str):
    """Text that is shown as it is, without quotes."""

    __slots__ = ()

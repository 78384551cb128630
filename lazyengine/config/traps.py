"""The traps of sharing nodes between files, as errors.

Python's import semantics let every importer of a base config see the same nodes. Two things then go wrong without a
sound: a file changes a node under the feet of another one that does not know of it, and a file binds an imported name
anew while the old node is still in use. `check_rebound` and `Watch` find them. (The third trap, an override that comes
too late, is found by `overrides`.)
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import syntax
from .errors import ConfigWarning, SharingError
from .graph import plain_type
from .node import Config, Node, children_of, defined_at, find_path, sources_of, walk
from .ref import Ref, lookup
from .sources import display_path

if TYPE_CHECKING:
    from .loader import Load


def holds_node(value: Any) -> bool:
    """Return whether a value is a node or a container with a node inside."""
    return type(value) is Node or any(type(v) is Node for _, v in walk(value))


class Watch:
    """Notices changes of the nodes and containers that finished configs made, and who made them.

    Attributes:
        changes: `(file, what)` for every node or container that a file changed after another one had made it.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, Any]] = []
        self._before: dict[int, tuple[Any, list[Any]]] = {}

    def add(self, module: ModuleType) -> None:
        """Watch everything that the globals of a finished config hold."""
        for value in list(vars(module).values()):
            for _, x in walk(value):
                if id(x) not in self._before and children_of(x) is not None:
                    self._before[id(x)] = (x, _content(x))

    def note_changes(self, file: str) -> None:
        """Put whatever changed since the last call on the account of `file`."""
        for key, (x, before) in self._before.items():
            now = _content(x)
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before)):
                self.changes.append((file, x))
                self._before[key] = (x, now)


def _content(x: Any) -> list[Any]:
    content = [part for pair in children_of(x) or () for part in pair] if not isinstance(x, list) else list(x)
    return [x.__sig__, *content] if type(x) is Node else content


def check_loaded(load: Load, config: Config, refs: list[Ref], repeated: list[list[Any]]) -> None:
    """Check what can only be seen when all files ran; a node twice in one list is a warning."""
    for file, x in load.watch.changes:
        _check_change(load, file, x)
    for x in refs:
        for path in x.paths:
            lookup(config, path, x)
    for items in repeated:
        _warn_repeated(config, items)


def _warn_repeated(config: Config, items: list[Any]) -> None:
    nodes = [v for v in items if type(v) is Node]
    if len({id(v) for v in nodes}) < len(nodes):
        import warnings

        path = find_path(config, items)
        twice = next(v for i, v in enumerate(nodes) if any(v is w for w in nodes[:i]))
        warnings.warn(
            ConfigWarning(
                f"{path}: the {twice.__sig__.label} node defined at {defined_at(twice)} occurs more than once in a "
                "list: all of them become one instance. Write repeat(node, n) for separate ones."
            ),
            stacklevel=5,
        )


def _check_change(load: Load, file: str, x: Any) -> None:
    for other, module in load.modules.items():
        if file in _reached(load, other) or other in _reached(load, file):
            continue
        name = next((n for n, v in vars(module).items() if not n.startswith("__") and find_path(v, x, n)), None)
        if name is None:
            continue
        what = f"a {type(x).__name__}"
        place = display_path(file)
        if type(x) is Node:
            what = f"the {x.__sig__.label} node defined at {defined_at(x)}"
            edits = [s for n in [*x.__arguments__, "_target_"] for s in sources_of(x, n) if s.startswith(f"{place}:")]
            place = edits[-1] if edits else place
        path = find_path(vars(module)[name], x, name)
        raise SharingError(
            f"{place} changes {what}, which {display_path(other)} also uses (as {path}) without importing "
            f"{os.path.basename(file)}: the change would reach it unseen. Change a clone(...) in {display_path(file)}, "
            f"or import one file in the other."
        )


def _reached(load: Load, file: str) -> set[str]:
    """Return `file` and all configs that it imports, directly or not."""
    reached, stack = {file}, [file]
    while stack:
        new = load.imports.get(stack.pop(), set()) - reached
        reached |= new
        stack.extend(new)
    return reached


def check_rebound(load: Load, file: str) -> None:
    """Check a config that ran: no imported name is bound anew while its old node is still used."""
    namespace = vars(load.modules[file])
    for module, taken, bound in load.taken_names(file):
        old = vars(module)[taken]
        if type(old) is not Node and not (plain_type(old) in (list, dict) and holds_node(old)):
            continue
        if namespace.get(bound, old) is old or any(v is old for n, v in namespace.items() if not n.startswith("_")):
            continue
        for name, value in namespace.items():
            path = None if name.startswith("_") else find_path(value, old, name)
            if path is None:
                continue
            lines = syntax.lines_with(load.tree(file), bound, is_read=False)
            place = f"{display_path(file)}:{lines[-1]}" if lines else display_path(file)
            kind = f"{old.__sig__.label} node (defined at {defined_at(old)})" if type(old) is Node else "container"
            raise SharingError(
                f"{place}: {bound!r} is bound anew, but {path} still is the imported {kind}. To change it there too: "
                f"{bound} = replace({bound}, ...), or set {path}; to have both, use another name."
            )

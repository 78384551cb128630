"""The traps of sharing nodes between files, as errors.

Python's import semantics let every importer of a base config see the same nodes. Two things then go wrong without a
sound: a file changes a node under the feet of another one that does not know of it, and a file binds an imported name
anew while the old node is still in use. `check_rebound` and `Watch` find them. (The third trap, an override that comes
too late, is found by `overrides`.)
"""

from __future__ import annotations

import functools
import gc
import os
import warnings
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ..text import listed
from . import graph
from .errors import ConfigFileError, ConfigWarning, RefError, SharingError
from .graph import INSTEAD, children, display_path, find_path, is_equal, reachable, source_here, span_of, walk
from .node import Config, Node, NodeFactory, adopt, brief, defined_at, not_called, set_argument, sources_of
from .reads import followers, names_for, reads_of, reads_of_part
from .ref import REQUIRED, Ref, check_ref, head_of

if TYPE_CHECKING:
    from .loader import Load


_NO_VALUES = (ModuleType, type, FunctionType, NodeFactory)


def holds_node(value: Any) -> bool:
    """Return whether a value is a node or a container with a node inside."""
    return any(type(v) is Node for _, v in walk(value))


class Watch:
    """Notices changes of the nodes and containers that finished configs made, and who made them.

    Attributes:
        changes: `(file, what, its changed keys, the files that ran before)` for every node or container that a file
            changed after another one had made it.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, Any, list[Any], list[str]]] = []
        self._before: dict[int, tuple[Any, dict[Any, Any]]] = {}

    def add(self, module: ModuleType) -> None:
        """Watch everything that the globals of a finished config hold."""
        for value in list(vars(module).values()):
            for _, x in walk(value):
                if id(x) not in self._before and children(x) is not None:
                    self._before[id(x)] = (x, _content(x))

    def note_changes(self, file: str, ran: Iterable[str]) -> None:
        """Put whatever changed since the last call on the account of `file`; `ran` are the files that ran so far."""
        for number, (x, before) in self._before.items():
            now = _content(x)
            keys = [key for key in {**before, **now} if before.get(key, self) is not now.get(key, self)]
            if keys or list(before) != list(now):
                self.changes.append((file, x, keys, [each for each in ran if each != file]))
                self._before[number] = (x, now)


def _content(x: Any) -> dict[Any, Any]:
    content = dict(children(x) or ())
    return {"_target_": x.__sig__, **content} if type(x) is Node else content


def check_loaded(load: Load, config: Config, found: list[Any]) -> None:
    """Check what can only be seen when all files ran; a node twice in one list is a warning.

    Args:
        load: The load.
        config: What it loaded.
        found: The refs and containers in it.
    """
    for change in load.watch.changes:
        _check_change(load, *change[:2])
        _check_parts(load, config, *change)
    for file, module in load.modules.items():
        _check_text(load, config, file, module)
    _check_code(load)
    for x in found:
        if children(x) is None and type(x) is not Ref:
            _check_inside(config, x)
        if type(x) is Ref:
            _settle_ref(load, config, x)
            check_ref(config, x)
        nodes = [v for v in x if type(v) is Node] if isinstance(x, list) else []
        if len(set(map(id, nodes))) < len(nodes):
            twice = next(v for i, v in enumerate(nodes) if any(v is w for w in nodes[:i]))
            message = (
                f"{find_path(config, x)}: the {_described(twice)} occurs more than once in a list: all of them become "
                "one instance. Write repeat(node, n) for separate ones."
            )
            warnings.warn(ConfigWarning(message), stacklevel=5)


def _check_text(load: Load, config: Config, file: str, module: ModuleType) -> None:
    """Check for what is legal Python and never meant: makers that nobody calls, interpolations of other systems."""
    for name, value in list(vars(module).items()):
        is_library = name[0].isupper() and file != load.file  # makers for others, of which a config uses some
        if isinstance(value, NodeFactory) and not is_library and not reads_of(load, file, name):
            raise not_called(value)
    if "_base_" in load.text(file).stores:
        raise ConfigFileError(f"{load.assigned_at('_base_', file)}: `_base_` is not read. Write from .base import *.")
    if b"${" in load.sources[file]:
        for line, text in load.text(file).interpolations:
            if any(type(value) is str and value == text for _, value in walk(config)):
                raise ConfigFileError(
                    f"{display_path(file)}:{line}: {text!r} is a text like any other, nothing is put in its place. "
                    f"Write {INSTEAD.format(text[2:-1])}."
                )


def _check_code(load: Load) -> None:
    """Warn of code that imports a config: the nodes that it gets are others than those of the load."""
    for file in load.namespaces.keys() - load.modules.keys():
        nodes = {name: value for name, value in load.namespaces[file].items() if type(value) is Node}
        homes = {(span_of(node.__where__) or ("",))[0]: name for name, node in nodes.items()}
        for home in homes.keys() & load.modules.keys():
            message = (
                f"{display_path(file)} is code, with which a config shares no nodes: its {homes[home]!r} is another "
                f"node than that of {display_path(home)}. Pass the node to its functions as an argument."
            )
            warnings.warn(ConfigWarning(message), stacklevel=6)


def _check_inside(config: Config, x: Any) -> None:
    """Warn of nodes and the like that an object of another kind holds, where they are not built."""
    inside = [x]
    for _ in range(3):
        inside = [each for each in gc.get_referents(*inside[:1000]) if type(each) not in graph.ATOMIC]
        hidden = [each for each in inside if type(each) in (Node, Ref, NodeFactory) or each is REQUIRED]
        paths = [path for path, value in walk(config) if value is x and not path.isidentifier()] if hidden else []
        if paths:
            made = getattr(x.func if isinstance(x, functools.partial) else type(x), "__name__", "function")
            message = (
                f"{paths[0]}: {type(x).__name__} is no node, so what it holds is passed on as it is, not built: "
                f"{brief(hidden[0])}. Write {'LazyPartial' if isinstance(x, functools.partial) else 'L'}({made})(...)."
            )
            return warnings.warn(ConfigWarning(message), stacklevel=6)


def _settle_ref(load: Load, config: Config, ref: Ref) -> None:
    """Let a ref that a base wrote mean in the config what it meant there: under its new name, or brought along."""
    file, values = (span_of(ref.where) or ("",))[0], config.__arguments__
    home = vars(load.modules[file]) if file in load.modules else {}
    for path in ref.paths:
        name = head_of(path)
        if name not in home or values.get(name, load) is home[name] or isinstance(home[name], _NO_VALUES):
            continue
        same = names_for(load, file, name)
        taken = [b for m, n, b in load.taken_names(load.file) if (m.__file__, n) in same]
        bound = next((b for b in taken if b in values), None)
        if bound is None and name in values and load.origins.get(name, load.file) == load.file:
            raise RefError(
                f"{graph.describe_source(ref.where)}: {ref!r} means the {name!r} of {display_path(file)}, but "
                f"{load.assigned_at(name)} binds another one without importing it. Import it there, or choose another "
                "name."
            )
        if bound is None:
            values.setdefault(name, home[name])
            adopt(config, home[name])
        elif bound != name:
            ref.paths = tuple(bound + p[len(name) :] if p == path else p for p in ref.paths)


def _described(x: Any) -> str:
    return f"{x.__sig__.label} node defined at {defined_at(x)}" if type(x) is Node else type(x).__name__


def _held(content: dict[str, Any], hidden: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if not name.startswith(hidden)}


def _check_change(load: Load, file: str, x: Any) -> None:
    for other, module in load.modules.items():
        if any(a in reachable(b, lambda each: load.imports.get(each, ())) for a, b in ((file, other), (other, file))):
            continue
        idle = {bound for _, _, bound in load.taken_names(other)} - {read.name for read in load.text(other).reads}
        used = {name: value for name, value in _held(vars(module), "__").items() if name not in idle}
        path = find_path(used, x)
        if path is None:
            continue
        raise SharingError(
            f"{_place_of_change(file, x)} changes the {_described(x)}, which {display_path(other)} also uses (as "
            f"{path}) without importing {os.path.basename(file)}: the change would reach it unseen. Change a "
            f"clone(...) in {display_path(file)}, import one file in the other, or, to apply both in order: --config "
            "base.py --with "
            f"{os.path.basename(file)} {os.path.basename(other)}."
        )


def _place_of_change(file: str, x: Any) -> str:
    place = display_path(file)
    names = [*x.__arguments__, "_target_"] if type(x) is Node else []
    return [place, *(s for name in names for s in sources_of(x, name) if s.startswith(f"{place}:"))][-1]


def _check_parts(load: Load, config: Config, file: str, x: Any, keys: list[Any], ran: list[str]) -> None:
    """Warn of what was made of a part that a node or container had before another file changed it."""
    reads = [each for key in keys for each in reads_of_part(load, x, key) if each[0] in ran and not each[1].is_late]
    paths, others = followers(load, config, reads)
    if paths or others:
        homes = [(home, find_path(_held(load.namespaces[home], "__"), x)) for home in ran]
        home, path = next(pair for pair in homes if pair[1] is not None)
        follow = listed([*(f"{path} ({source})" for path, source in paths), *others], 5)
        message = (
            f"{_place_of_change(file, x)} changes {path!r} of {display_path(home)}, but Python has read the old value "
            f"already: {follow} still follow it. Set them too, or write a ref there."
        )
        warnings.warn(ConfigWarning(message), stacklevel=6)


def add_mixin(load: Load, config: Config, new: dict[str, Any], file: str) -> None:
    """Set in a config what a mix-in binds; a node or container that it replaces must not be in use any more."""
    values = {**config.__arguments__, **new}
    for name, value in new.items():
        old = config.__arguments__.get(name)
        source = load.assigned_at(name, file) or display_path(file)
        if isinstance(old, Node | list | dict):
            if (path := find_path(values, old)) is not None:
                raise SharingError(_bound_anew(source, name, path, old))
        elif name in config.__arguments__ and name not in {bound for *_, bound in load.taken_names(file)}:
            _check_plain(load, file, (load.origins[name], name), (name, source, old), values)
        set_argument(config, name, value, source=source, add=True)


def _bound_anew(place: str, name: str, path: str, old: Any) -> str:
    return (
        f"{place}: {name!r} is bound anew, but {path} still is the imported {_described(old)}. To change it there "
        f"too: {f'{name} = replace({name}, ...)' if type(old) is Node else f'change {name} itself'}, or set {path}; to "
        "have both, use another name."
    )


def check_rebound(load: Load, file: str) -> None:
    """Check a config that ran: no imported name is bound anew while its old value is still used."""
    content = load.namespaces[file]
    public = _held(content, "_")
    taken = list(load.taken_names(file))
    for module, name, bound in taken:
        old, new = getattr(module, name), content.get(bound, load)
        if old is new or new is load:
            continue
        stores = load.text(file).stores.get(bound)
        brought = [m for m, n, b in taken if b == bound and getattr(m, n) is new]  # by a later import
        place = f"{display_path(file)}:{stores[-1][0]}" if stores else display_path(file)
        if brought and brought[-1] is not module:
            other = str(brought[-1].__file__)
            place = load.assigned_at(bound, other) or display_path(other)
            place = f"{display_path(file)}, by its import of {place}"
        if type(old) in (Node, list, dict) and holds_node(old):
            is_gone = bound in public and not any(value is old for value in public.values())
            if is_gone and (path := find_path(public, old)) is not None:
                raise SharingError(_bound_anew(place, bound, path, old))
        elif not callable(old) and not isinstance(old, ModuleType) and not is_equal(old, new):
            _check_plain(load, file, (str(module.__file__), name), (bound, place, old))


def check_assigned(load: Load, file: str, name: str) -> None:
    """Check that a name of a config, which another file is about to bind anew, was not read by the config itself."""
    places = [f"{display_path(file)}:{read.place[0]}" for there, read in reads_of(load, file, name) if there == file]
    if places:
        where = graph.describe_source(source_here(2))
        raise SharingError(
            f"{where}: {name!r} of {display_path(file)} is bound anew, but Python has read the old value at "
            f"{listed(places, 3)}. Change what was made of it: set its arguments, or replace(old, new)."
        )


def check_set(load: Load, config: Config, name: str, old: Any) -> None:
    """Warn of what still is, or was made of, the former value of a name of a loaded config that was set anew."""
    if isinstance(old, Node | list | dict):
        follow = [path for path, value in walk({**config.__arguments__, name: None}) if value is old]
    else:
        reads = reads_of(load, load.origins.get(name, load.file), name)
        follow = [path for path, _ in followers(load, config, reads)[0]]
    if follow:
        way = f"replace(cfg.{name}, ...)" if type(old) is Node else "an override"
        message = (
            f"{name} is set anew, but {listed(follow, 5)} still follow the former value: set them too, or use {way}."
        )
        warnings.warn(ConfigWarning(message), stacklevel=5)


def _check_plain(
    load: Load, file: str, former: tuple[str, str], bound: tuple[str, str, Any], root: dict[str, Any] | None = None
) -> None:
    """Check a plain value that was bound anew: what has read the old one does not follow."""
    name, place, old = bound
    reads = [(there, read) for there, read in reads_of(load, *former) if there != file]
    values = root or _held(load.namespaces[file], "_")
    paths, others = followers(load, values, reads)
    follow = listed([f"{path} ({source})" for path, source in paths], 5)
    what = f"{place}: {name!r} is bound anew, but Python has read the old value, {old!r:.60}, already"
    is_ref = any(type(x) is Ref and former[1] in map(head_of, x.paths) for _, x in walk(values))
    if is_ref or any(there == file for there, _ in reads_of(load, file, name)):
        if paths:
            warnings.warn(ConfigWarning(f"{what}: {follow} still follow it."), stacklevel=6)
    elif paths or others:
        made = f": {follow} would not change" if paths else f" at {listed(others, 3)}"
        instead = f"Write {paths[0][0]} = {name} too" if paths else "Change it there"
        raise SharingError(
            f"{what}{made}. {instead}, or ref({former[1]!r}) in {display_path(former[0])} instead of {former[1]}."
        )

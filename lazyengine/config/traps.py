"""The traps of sharing nodes between files, as errors.

Python's import semantics let every importer of a base config see the same nodes. Two things then go wrong without a
sound: a file changes a node under the feet of another one that does not know of it, and a file binds an imported name
anew while the old node is still in use. `check_rebound` and `Watch` find them. (The third trap, an override that comes
too late, is found by `overrides`.)
"""

from __future__ import annotations

import ast
import functools
import gc
import itertools
import os
import re
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ..text import near
from . import graph
from .errors import ConfigFileError, RefError, SharingError, warn
from .graph import children, display_path, find_path, join_path, span_of, walk
from .node import Config, Node, NodeFactory, adopt, brief, defined_at, not_called, set_argument, sources_of
from .reads import (
    MODULE,
    Followers,
    PartReads,
    content_of,
    followers,
    made_nodes,
    names_for,
    parsed,
    reads_of,
    scoped_nodes,
)
from .ref import REQUIRED, Ref, check_ref, head_of

if TYPE_CHECKING:
    from .loader import Load


_NO_VALUES = (ModuleType, type, FunctionType, NodeFactory)
_IDLE = re.compile(rb"(?m)^[ \t]*[^\W\d][\w.\[\]'\"-]*[ \t]*(?:==|:[^=\n]*[^=\s][^=\n]*$)")  # `model.width: 8`


class Watch:
    """Notices changes of the names, nodes, containers and objects of finished configs, and who made them.

    Attributes:
        changes: `(file, what, its name, its changed keys, what it held before, the files that ran before)` for every
            node, container, other object or config that a file changed after another one had made it.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, Any, str, list[Any], dict[Any, Any], list[str]]] = []
        self._before: dict[int, tuple[Any, tuple[str, str], dict[Any, Any]]] = {}

    def add(self, module: ModuleType) -> None:
        """Watch the globals of a finished config and everything that they hold, attributes of objects included."""

        def is_own(x: Any) -> bool:
            return getattr(x, "__module__", None) == module.__name__ or not isinstance(x, _NO_VALUES)

        parts = [("", vars(module)), *walk(_held(vars(module), "__"))]
        objects = [(p, x) for p, x in parts if children(x) is None and is_own(x) and hasattr(x, "__dict__")]
        small = [(p, {k: v for k, v in vars(x).items() if len(children(v) or ()) <= 1000}) for p, x in objects]
        parts += [part for p, inner in small for part in walk(inner, p)]
        for path, x in parts:
            if id(x) not in self._before and is_own(x) and ((content := content_of(x)) or children(x) is not None):
                self._before[id(x)] = (x, (path, str(module.__file__)), content)

    def former(self, module: Any) -> dict[str, Any]:
        """Return the globals of a config as they were when its changes were last noted; of other modules none."""
        return self._before.get(id(vars(module)), (None, None, {}))[2]

    def note_changes(self, file: str, ran: Iterable[str]) -> None:
        """Put whatever changed since the last call on the account of `file`; `ran` are the files that ran so far."""
        for number, (x, name, before) in self._before.items():
            now = content_of(x)
            keys = [key for key in {**before, **now} if before.get(key, self) is not now.get(key, self)]
            if keys or list(before) != list(now):
                called = f"{name[0]!r} of {display_path(name[1])}"
                self.changes.append((file, x, called, keys, before, [each for each in ran if each != file]))
                self._before[number] = (x, name, now)


def check_loaded(load: Load, config: Config, found: list[Any]) -> None:
    """Check what can only be seen when all files ran; a node twice in one list is a warning.

    Args:
        load: The load.
        config: What it loaded.
        found: The refs and containers in it.
    """
    for file, x, name, keys, before, ran in load.watch.changes:
        if home := next((each for each in ran if load.namespaces[each] is x), None):
            for key in [k for k in keys if k in before and k in x and not graph.is_equal(before[k], x[k])]:
                bound = (key, _place_of(load, file, key), before[key])
                _check_plain(load, file, (home, key), bound, config.__arguments__, ran)
            continue
        if children(x) is not None:
            _check_change(load, file, x)
        _check_parts(load, config, file, x, name, keys, ran)
    for file, module in load.modules.items():
        _check_text(load, config, file, module)
        if type(runner := config.__arguments__.get("runner")) is Node:
            _check_new(load, file, runner)
    _check_code(load)
    for x in found:
        if children(x) is None and type(x) is not Ref:
            _check_inside(config, x)
        if type(x) is Ref:
            _settle_ref(load, config, x)
            check_ref(config, x, is_final=False)
            _check_moved(load, x)
        nodes = [v for v in x if type(v) is Node] if isinstance(x, list) else []
        if len({id(v) for v in nodes}) < len(nodes):
            twice = [v for v in nodes if sum(v is w for w in nodes) > 1]
            warn(
                f"{find_path(config, x)}: the {_described(twice[0])} occurs more than once in a list: all of them "
                "become one instance. Write repeat(node, n) for separate ones."
            )


def _check_text(load: Load, config: Config, file: str, module: ModuleType) -> None:
    """Check for what is legal Python and never meant: makers that nobody calls, interpolations of other systems."""
    for name, value in list(vars(module).items()):
        is_library = name[0].isupper() and file != load.file  # makers for others, of which a config uses some
        if isinstance(value, NodeFactory) and not is_library and not reads_of(load, file, name):
            raise not_called(value)
    if "_base_" in vars(module):
        raise ConfigFileError(f"{load.assigned_at('_base_', file)}: `_base_` is not read. Write from .base import *.")
    for node, _, level in scoped_nodes(parsed(source)) if _IDLE.search(source := load.sources[file]) else ():
        if level == MODULE and (written := _unset(node)):
            what = f"{display_path(file)}:{node.lineno}: `{ast.unparse(node)}` sets nothing"
            raise ConfigFileError(f"{what}. Write {' = '.join(map(ast.unparse, written))}.")
    if b"${" in load.sources[file]:
        texts = [value for _, value in walk(config) if type(value) is str and re.fullmatch(graph.INTERPOLATION, value)]
        for line, text in enumerate(load.sources[file].decode(errors="replace").splitlines(), 1):
            for value in texts:
                if value in text:
                    raise ConfigFileError(
                        f"{display_path(file)}:{line}: {value!r} is a text like any other, nothing is put in its "
                        f"place. Write {graph.INSTEAD.format(value[2:-1])}."
                    )


def _unset(node: Any) -> tuple[Any, Any] | None:
    """Return place and value of a statement that was meant to set it: `model.width: 8`, `model.width == 8`."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare) and type(node.value.ops[0]) is ast.Eq:
        return node.value.left, node.value.comparators[0]
    if not isinstance(node, ast.AnnAssign) or node.value is not None:
        return None
    is_type = isinstance(node.annotation, ast.Constant) and isinstance(node.annotation.value, str | None)
    is_value = isinstance(node.annotation, ast.Constant | ast.UnaryOp | ast.List | ast.Dict) and not is_type
    return (node.target, node.annotation) if is_value or not isinstance(node.target, ast.Name) else None


def _check_new(load: Load, file: str, runner: Node) -> None:
    """Warn of a plain value that nothing reads, where a near name is imported and read, or the runner takes it."""
    own, bases = load.namespaces[file], [load.namespaces[each] for each in load.imports[file]]
    known = {n for base in bases for n, x in _held(base, "_").items() if not isinstance(x, _NO_VALUES)}

    def is_read(name: str) -> bool:
        word = rf"(?m)(?!^{name}\s*:[^=\n]*=)\b{name}\b(?!\s*=[^=])"  # neither bound nor a keyword there
        files = ((each, load.text(each) and load.sources[each]) for each in [file, *load.namespaces])
        of_code = rf"(import\b.*|(?<!self)\.|['\"]){word[4:]}"  # which reads a config's own name not as its own
        words = ((word if each in load.modules else of_code, source.decode(errors="replace")) for each, source in files)
        return any(itertools.starmap(re.search, words))

    for name in [n for n in load.text(file).stores if n in _held(own, "_") and n not in known] if known else ():
        if graph.holds(value := own[name], Node) or isinstance(value, _NO_VALUES) or is_read(name):
            continue
        like = near(name, known, 0.81)
        same = arguments_named(runner, name)
        others = [p for node, p in same if not graph.is_equal(node.__arguments__.get(name), value)]
        if like and is_read(like):
            warn(f"{load.assigned_at(name, file)}: nothing reads {name!r}. Did you mean {like!r}, which is imported?")
        elif len(others) == len(same) > 0 and (type(value) is not str or others[0] == f"runner.{name}"):
            warn(f"{load.assigned_at(name, file)}: nothing reads {name!r}. Write {others[0]} = {name} too.")


def arguments_named(runner: Node, name: Any) -> list[tuple[Node, str]]:
    """Return the nodes that a runner is built from and that have an argument of this name, with its path."""
    nodes = [(path, node) for path, node in walk(runner, "runner") if type(node) is Node]
    return [(n, join_path(path, name)) for path, n in nodes if name in n.__sig__.names or name in n.__arguments__]


def _check_code(load: Load) -> None:
    """Warn of code that imports a config: the nodes that it gets are others than those of the load."""
    for file in load.namespaces.keys() - load.modules.keys():
        nodes = {name: value for name, value in load.namespaces[file].items() if type(value) is Node}
        homes = {(span_of(node.__where__) or ("",))[0]: name for name, node in nodes.items()}
        for home in homes.keys() & load.modules.keys():
            warn(
                f"{display_path(file)} is code, with which a config shares no nodes: its {homes[home]!r} is another "
                f"node than that of {display_path(home)}. Pass the node to its functions as an argument."
            )


def _check_inside(config: Config, x: Any) -> None:
    """Warn of nodes and the like that an object of another kind holds, where they are not built."""
    inside = [x]
    for _ in range(3):
        inside = [each for each in gc.get_referents(*inside[:1000]) if type(each) not in graph.ATOMIC]
        hidden = [each for each in inside if type(each) in (Node, Ref, NodeFactory) or each is REQUIRED]
        paths = [path for path, value in walk(config) if value is x and not path.isidentifier()] if hidden else []
        if paths:
            made = getattr(x.func if isinstance(x, functools.partial) else type(x), "__name__", "function")
            return warn(
                f"{paths[0]}: {type(x).__name__} is no node, so what it holds is passed on as it is, not built: "
                f"{brief(hidden[0])}. Write {'LazyPartial' if isinstance(x, functools.partial) else 'L'}({made})(...)."
            )


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


def _check_moved(load: Load, ref: Ref) -> None:
    """Check that no file moves the items of a list that a ref of another file counts."""
    from .grammar import parse_path  # its patterns take a millisecond to compile

    home = (span_of(ref.where) or ("",))[0]
    for holder, key, part in (step for path in ref.paths for step in graph.follow(ref.owner, parse_path(path))):
        for file, x, _, _, before, _ in load.watch.changes:
            old = before.get(key, part) if x is holder and isinstance(x, list) else part
            if file != home and old is not part and any(each is old for each in x):
                raise RefError(
                    f"{display_path(file)} moves the items of a list, which {ref!r}, written at "
                    f"{graph.describe_source(ref.where)}, counts: it would lead to another one. Change items in place, "
                    "or write the ref anew."
                )


def _described(x: Any) -> str:
    return f"{x.__sig__.label} node defined at {defined_at(x)}" if type(x) is Node else type(x).__name__


def _held(content: dict[str, Any], hidden: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if not name.startswith(hidden)}


def _check_change(load: Load, file: str, x: Any) -> None:
    for other, module in load.modules.items():
        below, above = (graph.reachable(each, lambda each: load.imports.get(each, ())) for each in (file, other))
        if other in below or file in above:
            continue
        text = load.text(other)
        idle = {bound for _, _, bound in load.taken_names(other) if not text.reads_of(bound)}
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


def _viewed(part: Any) -> Any:
    """Return the array or tensor of which another one is a part that follows it."""
    return getattr(part, "base", getattr(part, "_base", None)) if hasattr(type(part), "tolist") else part


def _place_of(load: Load, file: str, name: str) -> str:
    """Return the line that binds a name, else the last one that has it, such as `globals()["lr"] = 3`."""
    lines = [place[0] for place in load.text(file).stores.get(name, ())]
    texts = enumerate(load.sources[file].decode(errors="replace").splitlines(), 1)
    lines = lines or [number for number, text in texts if re.search(rf"\b{name}\b", text)]
    return ":".join([display_path(file), *map(str, lines[-1:])])


def _check_parts(load: Load, config: Config, file: str, x: Any, name: str, keys: list[Any], ran: list[str]) -> None:
    """Warn of what was made of a part that a node or container had before another file changed it."""
    parts = PartReads(load)
    reads = [each for key in keys for each in parts.of(x, key) if each[0] in ran and not each[1].is_late]
    made = made_nodes(load, config) if reads else {}
    if any(found := followers(made, reads, True, lambda part: _viewed(part) is x)):
        warn(
            f"{_place_of_change(file, x)} changes {name}, but Python has read the old value already: {found} still "
            "follow it. Set them too, or write a ref there."
        )


def add_mixin(load: Load, config: Config, new: dict[str, Any], file: str) -> None:
    """Set in a config what a mix-in binds; a node or container that it replaces must not be in use any more."""
    values = {**config.__arguments__, **new}
    for name, value in new.items():
        old = config.__arguments__.get(name)
        source = _place_of(load, file, name)
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
        if old is new or new is load or new is load.watch.former(module).get(name, load):
            continue
        brought = [m for m, n, b in taken if b == bound and getattr(m, n) is new]  # by a later import
        place = _place_of(load, file, bound)
        if brought and brought[-1] is not module:
            other = str(brought[-1].__file__)
            place = load.assigned_at(bound, other) or display_path(other)
            place = f"{display_path(file)}, by its import of {place}"
        if type(old) in (Node, list, dict) and graph.holds(old, Node):
            is_gone = bound in public and not any(value is old for value in public.values())
            if is_gone and (path := find_path(public, old)) is not None:
                raise SharingError(_bound_anew(place, bound, path, old))
        elif not callable(old) and not isinstance(old, ModuleType) and not graph.is_equal(old, new):
            _check_plain(load, file, (str(module.__file__), name), (bound, place, old))


def check_set(load: Load, holder: Any, name: Any, old: Any) -> None:
    """Warn of what still is, or was made of, the former value of a name or argument of a loaded config."""
    config: Any = holder.__owner__ if type(holder) is Node else holder
    if type(holder) is Config and isinstance(old, Node | list | dict):
        found = Followers([], [path for path, value in walk({**config.__arguments__, name: None}) if value is old])
    else:
        is_part, home = type(holder) is Node, load.origins.get(name, load.file)
        reads = PartReads(load).of(holder, name) if is_part else reads_of(load, home, name)
        found = followers(made_nodes(load, config) if reads else {}, reads, only_parts=is_part)
    if any(found):
        path = join_path(find_path(config, holder) or "", name)
        way = f"replace(cfg.{name}, ...)" if type(old) is Node else "an override"
        warn(f"{path} is set anew, but {found} still follow the former value: set them too, or use {way}.")


def exported(module: Any) -> list[str]:
    """Return the names that a star import takes from a module."""
    return list(getattr(module, "__all__", None) or [name for name in vars(module) if name[:1] != "_"])


def check_hidden(load: Load, file: str, module: ModuleType) -> None:
    """Warn of values that a file has bound, and nothing has read, when its star import binds their names anew."""
    text, content = load.text(file), load.namespaces[file]
    line = (span_of(graph.source_here()) or ("", (0,)))[1][0]
    for name in content.keys() & text.stores.keys() & set(exported(module)):
        stores = [place for place in text.stores[name] if place[0] < line]
        is_read = any(stores and stores[-1] <= read.place < (line, 0) for read in text.reads_of(name))
        if stores and not is_read and not graph.is_equal(content[name], getattr(module, name, content[name])):
            warn(
                f"{display_path(file)}:{stores[-1][0]}: {name!r} is bound anew by the import of "
                f"{display_path(str(module.__file__))} in line {line}: write it after the import."
            )


def _check_plain(
    load: Load, file: str, former: tuple[str, str], bound: tuple[str, str, Any], root: Any = None, ran: Any = None
) -> None:
    """Check a value that was bound anew: what has read the old one does not follow.

    Args:
        load: The load.
        file: The file that binds the name.
        former: File and name of the old value.
        bound: Name, place and old value.
        root: What is built in the end; by default what the file holds.
        ran: Of a name of another file, the files that may have read the old value; a function that binds names of its
            own file reads them when it is called.
    """
    name, place, old = bound
    home, values = former if ran else (file, name), root or _held(load.namespaces[file], "_")
    reads = [(there, read) for there, read in reads_of(load, *former) if there != file]
    if ran:
        reads = [(f, read) for f, read in reads if f in ran and (place != display_path(file) or not read.is_late)]
    new = load.namespaces[home[0]][name]  # what was made since may follow it
    found = followers(made_nodes(load, values), reads, is_new=lambda part: bool(ran) and graph.is_equal(part, new))
    what = f"{place}: {name!r} is bound anew, but Python has read the old value, {old!r:.60}, already"
    is_ref = any(type(x) is Ref and former[1] in map(head_of, x.paths) for _, x in walk(values))
    if is_ref or any(there == file for there, _ in reads_of(load, *home)):
        if found.paths:
            warn(f"{what}: {found._replace(others=[])} still follow it.")
    elif any(found):
        made = f": {found._replace(others=[])} would not change" if found.paths else f" at {found}"
        instead = f"Write {found.paths[0][0]} = {name} too" if found.paths else "Change it there"
        raise SharingError(
            f"{what}{made}. {instead}, or ref({former[1]!r}) in {display_path(former[0])} instead of {former[1]}."
        )

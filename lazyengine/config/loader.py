"""Load config files: Python's own import semantics, afresh for every load."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, GenericAlias, ModuleType, UnionType
from typing import Any

from . import finding, syntax, traps
from .errors import ConfigFileError, ConfigImportError, ConfigNotFoundError
from .graph import copy_graph
from .lazy_call import NodeFactory
from .node import REQUIRED, Config, Node, adopt
from .signature import near
from .sources import display_path

_NO_DATA = (ModuleType, type, FunctionType, BuiltinFunctionType, NodeFactory, GenericAlias, UnionType)


def load_file(path: str) -> Config:
    """Run a config file and what it imports, and return its public data."""
    file = os.path.abspath(path)
    _check_file(file, path)
    root = finding.project_root(file)
    if root is not None:
        finding.keep_root(root)
    load = Load(file)
    try:
        module = load.run(file, finding.spell_name(file, root))
        config = Config({}, file, load)
        values = config.__arguments__
        values.update({k: v for k, v in vars(module).items() if _is_data(k, v)})
        traps.check_loaded(load, config, *adopt(config, values))
    except BaseException as error:
        if root is not None:
            finding.release_root(root)
        error.add_note(f"while loading config {display_path(file)}")
        raise
    return config


def _check_file(file: str, given: str) -> None:
    folder, base = os.path.split(file)
    if not os.path.exists(file):
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        where = f"{display_path(folder)} has no {base!r}.{near(base, entries)}" if entries else f"no folder {folder!r}"
        raise ConfigNotFoundError(f"Config file {given!r} does not exist: {where}")
    if not os.path.isfile(file):
        inside = [entry for entry in sorted(os.listdir(file)) if entry.endswith(".py")] if os.path.isdir(file) else []
        hint = f" It has: {', '.join(inside)}." if inside else ""
        raise ConfigFileError(f"Config {given!r} is a folder; give a file inside of it.{hint}")
    if not file.endswith(".py"):
        raise ConfigFileError(f"Config {given!r} is not a .py, .json or .pkl file.")


def _is_data(name: str, value: Any) -> bool:
    if name.startswith("_") or isinstance(value, _NO_DATA) or (value is REQUIRED and name == "REQUIRED"):
        return False
    return type(value).__module__ not in ("typing", "__future__")


class _View(ModuleType):
    """A module as a config sees it: with copies of its nodes, and configs of this load in place of real modules."""

    def __init__(self, name: str, real: ModuleType | None, own: dict[str, Any]):
        super().__init__(name)
        vars(self).update(own, __real__=real)

    def __getattr__(self, name: str) -> Any:
        real = vars(self)["__real__"]
        if real is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(real, name)


class Load:
    """One load: every config file runs once in it.

    Attributes:
        file: The file that was asked for.
        modules: File to module, of every config that ran.
        sources: File to its text.
        imports: File to the config files that it imports.
        taken: File to `(config module, names)` of each of its `from ... import`.
        watch: Notices which file changes what another one made.
    """

    def __init__(self, file: str):
        self.file = file
        self.modules: dict[str, ModuleType] = {}
        self.sources: dict[str, bytes] = {}
        self.imports: dict[str, set[str]] = {}
        self.taken: dict[str, list[tuple[ModuleType, Sequence[str]]]] = {}
        self.watch = traps.Watch()
        self._stack: list[str] = []
        self._files: dict[str, str] = {}
        self._copies: dict[int, Any] = {}  # memo of the copies of nodes that real modules hold
        self._builtins = {**vars(builtins), "__import__": self._import}

    def run(self, file: str, name: str | None = None) -> ModuleType:
        """Run a config file, or return its module if it already ran in this load."""
        file = self._files.setdefault(os.path.realpath(file), file)  # one file may be reached by several links
        if self._stack:
            self.imports[self._stack[-1]].add(file)
        if file in self._stack:
            chain = " -> ".join(os.path.basename(f) for f in [*self._stack[self._stack.index(file) :], file])
            raise ConfigImportError(f"Configs import one another: {chain}. Move what both need to a third file.")
        if file in self.modules:
            return self.modules[file]
        if self._stack:
            self.watch.note_changes(self._stack[-1])
        with open(file, "rb") as stream:
            source = stream.read()
        module = ModuleType(name or os.path.splitext(os.path.basename(file))[0])
        module.__file__ = file
        module.__package__ = module.__name__.rpartition(".")[0]
        vars(module)["__builtins__"] = self._builtins
        self.modules[file], self.sources[file] = module, source
        self.imports[file], self.taken[file] = set(), []
        try:
            code = _compile(source, file)
        except ValueError as error:  # Python 3.11 about null bytes; it names no file
            raise ConfigFileError(f"{display_path(file)} is not Python source: {error}.") from None
        self._stack.append(file)
        try:
            exec(code, vars(module))
            if self.imports[file]:
                traps.check_rebound(self, file)
            if len(self._stack) > 1:
                self.watch.note_changes(file)
                self.watch.add(module)
        finally:
            self._stack.pop()
        return module

    def _import(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """The `__import__` of config files: configs run in this load, everything else is a real import."""
        file = (globals or {}).get("__file__")
        names = tuple(fromlist or ())
        if not isinstance(file, str):
            return builtins.__import__(name, globals, locals, names, level)

        if level:
            folder = os.path.dirname(file)
            for _ in range(level - 1):
                folder = os.path.dirname(folder)
            module = self._import_relative(name.split(".") if name else [], folder, names, "." * level + name, file)
        else:
            module = self._import_absolute(name, names)
        if any(module is m for m in self.modules.values()):
            self.taken.setdefault(file, []).append((module, names))
        for item in names:
            if item != "*" and not hasattr(module, item):
                origin = getattr(module, "__file__", None) or module.__name__
                has = [n for n in vars(module) if not n.startswith("_")] + list(getattr(module, "__all__", ()))
                raise ConfigImportError(
                    f"{_running_line(file)}: cannot import name {item!r} from {display_path(origin)}.{near(item, has)}"
                )
        return module

    def _import_relative(
        self, parts: list[str], folder: str, names: Sequence[str], shown: str, asking: str
    ) -> ModuleType:
        folders, origin = [folder], os.path.join(folder, "__init__.py")
        for i, part in enumerate(parts):
            spec, here = finding.find_in(folders, part), _running_line(asking)
            if spec is not None and i < len(parts) - 1 and spec.submodule_search_locations is None:
                raise ConfigImportError(f"{here}: no module {parts[i + 1]!r} in {part!r}, which is a file.")
            if spec is None:
                hint = near(part, finding.names_in(folders))
                raise ConfigImportError(f"{here}: no module {part!r} in {display_path(folders[0])}.{hint}")
            folders = list(spec.submodule_search_locations or ())
            origin = spec.origin or ""
        if not folders:
            return self._module_of(origin, names)
        own: dict[str, Any] = {}
        for item in names:
            spec = finding.find_in(folders, item)
            if spec is not None and spec.has_location and spec.origin is not None:
                own[item] = self._module_of(spec.origin, ())
            elif spec is not None:
                own[item] = _View(item, None, {})
        rest = [item for item in names if item not in own]
        real = None
        if rest and os.path.isfile(origin):
            real = self._module_of(origin, rest)
        return _View(shown, real, own) if own or real is None else real

    def _module_of(self, file: str, names: Sequence[str]) -> ModuleType:
        if syntax.is_config_file(file):
            return self.run(file, finding.spell_name(file, finding.project_root(file)))
        return self._with_copies(finding.import_file(file), names)

    def _import_absolute(self, name: str, names: Sequence[str]) -> ModuleType:
        spec = finding.find_name(name)
        if spec is not None and spec.has_location and spec.origin and syntax.is_config_file(spec.origin):
            module = self.run(os.path.abspath(spec.origin), name)
            return module if names else self._top_view(name, module)
        own: dict[str, Any] = {}
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for item in names:
                file = os.path.join(folder, f"{item}.py")
                if item not in own and os.path.isfile(file) and syntax.is_config_file(file):
                    own[item] = self.run(os.path.abspath(file), f"{name}.{item}")
        rest = tuple(item for item in names if item not in own)
        try:
            real = importlib.import_module(name) if own else builtins.__import__(name, None, None, rest, 0)
        except ModuleNotFoundError as error:
            self._suggest(error, name)
            raise
        if own:
            return _View(name, real, {**own, **self._copies_in(real, rest)})
        if names:
            return self._with_copies(real, names)
        leaf = importlib.import_module(name)
        seen = self._with_copies(leaf, ())
        return real if seen is leaf else self._top_view(name, seen)

    def _suggest(self, error: ModuleNotFoundError, name: str) -> None:
        """Note a near match for the part of a dotted name that does not exist."""
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            return  # something inside of the module is missing, not the module
        parent, _, last = missing.rpartition(".")
        root = finding.project_root(self.file)
        package = importlib.import_module(parent) if parent else None
        folders = list(getattr(package, "__path__", [])) if package else [root] if root else []
        if hint := near(last, finding.names_in(folders)):
            error.add_note(f"{hint.strip()} (in {', '.join(map(display_path, folders))})")

    def _top_view(self, name: str, leaf: ModuleType) -> ModuleType:
        """Return what `import a.b.c` binds, module `a`, in such a way that `a.b.c` is `leaf`."""
        parent, _, last = name.rpartition(".")
        while parent:
            leaf = _View(parent, importlib.import_module(parent), {last: leaf})
            parent, _, last = parent.rpartition(".")
        return leaf

    def _with_copies(self, real: ModuleType, names: Sequence[str]) -> ModuleType:
        own = self._copies_in(real, names)
        return _View(real.__name__, real, own) if own else real

    def _copies_in(self, real: ModuleType, names: Sequence[str]) -> dict[str, Any]:
        """Copy the nodes among these names of a real module (all of them for `*` and plain imports), once per load."""
        content = vars(real)
        if not names or "*" in names:
            found = {n: v for n, v in list(content.items()) if type(v) is Node or (names and traps.holds_node(v))}
            if found and names:  # `from m import *` reads the namespace itself
                public = getattr(real, "__all__", [n for n in content if not n.startswith("_")])
                return {n: copy_graph(found[n], self._copies) if n in found else getattr(real, n) for n in public}
        else:
            found = {n: content[n] for n in names if n in content and traps.holds_node(content[n])}
        return {n: copy_graph(value, self._copies) for n, value in found.items()}

    def tree(self, file: str) -> ast.Module:
        """Return the syntax tree of a config that ran."""
        return syntax.parse(self.sources[file])

    def assigned_at(self, name: str, file: str | None = None) -> str | None:
        """Return `"file.py:12"`, where a top-level name was written: in `file` or where that imported it from."""
        file = file or self.file
        if lines := syntax.lines_with(self.tree(file), name, is_read=False):
            return f"{display_path(file)}:{lines[-1]}"
        for module, taken, bound in reversed(list(self.taken_names(file))):
            if bound == name and (found := self.assigned_at(taken, str(module.__file__))):
                return found
        return None

    def taken_names(self, file: str) -> Iterator[tuple[ModuleType, str, str]]:
        """Yield `(config module, name, bound name)` of everything that a file takes by `from ... import` of configs."""
        pairs = list(syntax.from_imports(self.tree(file)))
        for module, names in self.taken.get(file, ()):
            public = [(n, n) for n in vars(module) if not n.startswith("_")] if "*" in names else []
            yield from (
                (module, n, bound) for n, bound in [*public, *(p for p in pairs if p[0] in names)] if n in vars(module)
            )

    def read_at(self, name: str) -> list[str]:
        """Return the places (`"file.py:12"`) where files computed something from a top-level name."""
        missing = object()
        value = vars(self.modules[self.file]).get(name, missing)
        return [
            f"{display_path(file)}:{line}"
            for file, module in self.modules.items()
            if vars(module).get(name, missing) is value
            for line in syntax.lines_with(self.tree(file), name, is_read=True)
        ]


@functools.lru_cache(maxsize=64)
def _compile(source: bytes, file: str) -> CodeType:
    """Compile a file; the same text is not compiled twice, as Python itself does by `.pyc` files."""
    return compile(source, file, "exec", dont_inherit=True)


def _running_line(file: str) -> str:
    """Return `"file.py:12"`, the line that is running in a file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return f"{display_path(file)}:{frame.f_lineno}"

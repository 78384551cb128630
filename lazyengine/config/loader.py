"""Load config files: Python's own import semantics, afresh for every load."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import linecache
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, GenericAlias, ModuleType, UnionType
from typing import Any

from ..text import did_you_mean
from . import finding, reads, traps
from .errors import ConfigError, ConfigFileError, ConfigImportError, ConfigNotFoundError, UnknownNameError, entries_of
from .graph import copy_graph, display_path, holds, line_here
from .node import Config, Node, NodeFactory, adopt
from .ref import REQUIRED

_NO_DATA = (ModuleType, type, FunctionType, BuiltinFunctionType, NodeFactory, GenericAlias, UnionType, Config)
_OF_JSON = {n: f"Did you mean {n.title().replace('Null', 'None')!r}?" for n in ("true", "false", "null", "none")}
_lock = threading.RLock()  # a file is in `sys.modules` while it runs


def load_file(path: str, mixins: Sequence[str] = ()) -> Config:
    """Run a config file and what it imports, then `mixins` in their order, and return the public data."""
    files = [os.path.abspath(each) for each in (path, *mixins)]
    for file, given in zip(files, (path, *mixins)):
        _check_file(file, given)
    roots = [finding.project_root(file) for file in files]
    with _lock:
        path_before = list(sys.path)
        try:
            for root in roots:
                finding.keep_root(root)
            load = Load(files[0])
            while True:
                try:
                    return load.load_all(files, roots)
                except Exception:  # perhaps because a config and real code saw different objects
                    if not (real := load.imported_for_real()):
                        raise
                load = Load(files[0], load.real_files | real)
        except BaseException as error:
            sys.path[:] = path_before
            _explain(error)
            error.add_note(f"while loading config {display_path(files[0])}")
            error.config_file = files[0]  # type: ignore[attr-defined]  # the command line tells mistakes by it
            raise


def _check_file(file: str, given: str) -> None:
    folder, base = os.path.split(file)
    if os.path.islink(file) and not os.path.exists(file):
        raise ConfigNotFoundError(f"Config file {given!r} is a link to {os.readlink(file)!r}, which does not exist.")
    if not os.path.exists(file):
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        where = f"{display_path(folder)} has no {base!r}" if entries else f"there is no folder {display_path(folder)}"
        hint = did_you_mean(base, entries) or _elsewhere(given)
        raise ConfigNotFoundError(f"Config file {given!r} does not exist: {where}.{hint}")
    if not os.path.isfile(file):
        inside = [entry for entry in sorted(os.listdir(file)) if entry.endswith(".py")] if os.path.isdir(file) else []
        hint = f" It has: {', '.join(inside)}." if inside else ""
        raise ConfigFileError(f"Config {given!r} is a folder; give a file inside of it.{hint}")
    if not file.endswith(".py"):
        raise ConfigFileError(
            f"Config {given!r} is not a .py file. `lazyengine port` converts the configs of other systems."
        )


def _elsewhere(given: str) -> str:
    """Return where a file lies that was named from a wrong folder, or by a wrong one."""
    below = [path for path in Path().glob("*") if not os.path.isabs(given) and (path / given).is_file()]
    if below:
        return f" There is {below[0] / given}: cd {below[0]}"
    folder, base = os.path.split(given)
    beside = [path.name for path in Path(os.path.dirname(folder)).glob("*") if (path / base).is_file()]
    hint = did_you_mean(os.path.basename(folder), beside)
    return hint or f" The current folder is {os.getcwd()}."


def _is_data(name: str, value: Any) -> bool:
    if name.startswith("_") or isinstance(value, _NO_DATA) or (value is REQUIRED and name == "REQUIRED"):
        return False
    return type(value).__module__ not in ("typing", "__future__")


class _ConfigModule(ModuleType):
    """A config, as other files see it."""


class _View(ModuleType):
    """A module as a config sees it: with copies of its nodes, and configs of this load in place of real modules."""

    def __init__(self, real: ModuleType, own: dict[str, Any]):
        super().__init__(real.__name__)
        vars(self).update(own, __real__=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["__real__"], name)


class Load:
    """One load: every config file runs once in it.

    Attributes:
        file: The file that was asked for.
        modules: File to module, of every config that ran.
        sources: File to its text, also of real code that was looked at.
        namespaces: File to its globals, also of real code of the project that a config has imported.
        imports: File to the config files that it imports.
        taken: File to the modules that it takes names from, by `from ... import`, as it writes them.
        origins: Public name to the file that bound it last: the config, or one of its mix-ins.
        watch: Notices which file changes what another one made.
    """

    def __init__(self, file: str, real_files: frozenset[str] = frozenset()):
        self.file = file
        self.real_files = real_files  # what other code imports for real, and no config may run anew
        self.modules: dict[str, ModuleType] = {}
        self.sources: dict[str, bytes] = {}
        self.namespaces: dict[str, dict[str, Any]] = {}
        self.imports: dict[str, set[str]] = {}
        self.taken: dict[str, dict[str, ModuleType]] = {}
        self.origins: dict[str, str] = {}
        self.watch = traps.Watch()
        self._has_mixins = False
        self._stack: list[str] = []
        self._files: dict[str, str] = {}
        self._copies: dict[int, Any] = {}  # memo of the copies of nodes that real modules hold
        self._builtins = {**vars(builtins), "__import__": self._import}

    @property
    def configs(self) -> dict[str, bytes]:
        """File to its text, of every config that ran."""
        return {file: self.sources[file] for file in self.modules}

    def load_all(self, files: Sequence[str], roots: Sequence[str | None]) -> Config:
        """Run a config and its mix-ins, and return the config."""
        config = Config({}, self.file, self)
        values = config.__arguments__
        self._has_mixins = len(files) > 1
        for number, (file, root) in enumerate(zip(files, roots)):
            found = vars(self.run(file, finding.spell_name(file, root)))
            self.imports[file].update(files[:number])  # it is meant to change what they made
            new = {k: v for k, v in found.items() if _is_data(k, v)}
            if number:
                base = self.namespaces[self.file]
                new = {k: v for k, v in new.items() if v is not base.get(k, self)}
                traps.add_mixin(self, config, new, file)
            values.update(new)
            self.origins.update(dict.fromkeys(new, file))
        traps.check_loaded(self, config, adopt(config, values))
        if self.imported_for_real():
            raise ConfigError("A config and real code see different objects of a file.")  # run again, as real code
        return config

    def imported_for_real(self) -> frozenset[str]:
        """Return the files without nodes that ran as configs although other code has imported them."""
        plain = {f for f in self.modules if f != self.file and finding.judge(f) != finding.NODES}
        return frozenset(plain & _real_files()) if plain else frozenset()

    def run(self, file: str, name: str | None = None) -> ModuleType:
        """Run a config file, or return its module if it already ran in this load."""
        file = self._files.setdefault(os.path.realpath(file), file)  # one file may be reached by several links
        if self._stack:
            self.imports[self._stack[-1]].add(file)
        if file in self._stack:
            chain = " -> ".join(os.path.basename(f) for f in [*self._stack[self._stack.index(file) :], file])
            raise ConfigImportError(
                f"{line_here()}: configs import each other: {chain}. Move what both need to a third file."
            )
        if file in self.modules:
            return self.modules[file]
        if self._stack:
            self.watch.note_changes(self._stack[-1], self.modules)
        with open(file, "rb") as stream:
            source = stream.read()
        module = _ConfigModule(name or os.path.splitext(os.path.basename(file))[0])
        module.__file__ = file
        module.__package__ = module.__name__.rpartition(".")[0]
        vars(module)["__builtins__"] = self._builtins
        self.modules[file], self.sources[file], self.namespaces[file] = module, source, vars(module)
        self.imports[file], self.taken[file] = set(), {}
        try:
            code = reads.text_of(source, file).code
        except ValueError as error:  # Python 3.11 about null bytes; it names no file
            raise ConfigFileError(f"{display_path(file)} is not Python source: {error}.") from None
        former = sys.modules.get(module.__name__)
        known = former
        if former is None and name is None and "." not in module.__name__:
            known = finding.find(module.__name__, tries=1)  # a package called like it
        is_free = known is None or file in (getattr(known, "__file__", None), getattr(known, "origin", None))
        self._stack.append(file)
        try:
            if is_free:  # as `dataclasses` and `sys.modules[__name__]` expect
                sys.modules[module.__name__] = module
            exec(code, vars(module))
        finally:
            self._stack.pop()
            if is_free:
                sys.modules.pop(module.__name__, None)
            if is_free and former is not None:
                sys.modules[module.__name__] = former
        if self.taken[file]:
            traps.check_rebound(self, file)
        self.watch.note_changes(file, self.modules)
        if self._stack or self._has_mixins:  # somebody may change it
            self.watch.add(module)
        return module

    def _import(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        """The `__import__` of config files: configs run in this load, everything else is a real import."""
        file, names = (globals or {}).get("__file__"), tuple(fromlist or ())
        if not isinstance(file, str):
            return builtins.__import__(name, globals, locals, names, level)
        root = (globals or {}).get("__roots__", {}).get(name) if not level else None  # of a saved config
        if root is not None:
            spec = self._find_saved(name, root, file)
        else:
            spec = self._find_relative(name, level, file) if level else finding.find(name)
        try:
            package = vars(self.modules[file])["__package__"].split(".") if file in self.modules else []
            near = ".".join([*package[: len(package) + 1 - level], name]) if level and package != [""] else None
            absolute = None if level or root is not None else name
            module = self._module(spec, absolute, names, near)
            if "*" in names and (late := [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)]):
                module = self._module(spec, absolute, (*names, *late), near)  # submodules, as Python imports them
        except ModuleNotFoundError as error:
            if not level:
                self._suggest(error, name, file)
            raise
        if names and getattr(module, "__file__", None) in self.namespaces:
            self.taken.setdefault(file, {})["." * level + name] = module
            if "*" in names and file in self.modules:
                traps.check_hidden(self, file, module)
        for item in names:
            if item != "*" and not hasattr(module, item):
                origin = getattr(module, "__file__", None) or module.__name__
                has = [n for n in vars(module) if not n.startswith("_")] + list(getattr(module, "__all__", ()))
                has += finding.names_in(list((spec and spec.submodule_search_locations) or ()))
                raise ConfigImportError(
                    f"{line_here()}: cannot import name {item!r} from {display_path(origin)}.{did_you_mean(item, has)}"
                )
        if level or names:
            return module
        while "." in name:  # `import a.b.c` binds module `a`, in which `a.b.c` must be this module
            parent, _, last = name.rpartition(".")
            real = importlib.import_module(parent)
            module, name = real if vars(real).get(last) is module else _View(real, {last: module}), parent
        return module

    def _find_relative(self, name: str, level: int, asking: str) -> ModuleSpec:
        """Find a file or folder from the place of the file that asks; nothing on the way is run."""
        folder = os.path.dirname(asking)
        for _ in range(level - 1):
            folder = os.path.dirname(folder)
        spec = finding.folder_spec("." * level, folder)
        for part in name.split(".") if name else ():
            folders = list(spec.submodule_search_locations or ())
            if not folders:
                file = os.path.basename(spec.origin or "")
                hint = f" Write from .{file[:-3]}, without .py." if part == "py" else ""
                raise ConfigImportError(f"{line_here()}: no module {part!r} in {file!r}, which is a file.{hint}")
            found = finding.find(part, folders)
            if found is None:
                hint = did_you_mean(part, finding.names_in(folders))
                if level > 1 and finding.find_below(name, os.path.dirname(asking)):
                    hint = f" Write from .{name}: one dot is the folder of the file itself."
                raise ConfigImportError(f"{line_here()}: no module {part!r} in {display_path(folders[0])}.{hint}")
            spec = found
        return spec

    def _find_saved(self, name: str, root: str, asking: str) -> ModuleSpec:
        """Find a module of the project that a config was saved with: where it was, else in the code kept beside it."""
        spec = finding.find_below(name, root) if root else None
        if os.path.isfile(root):  # an archive, in which only the import path finds anything
            finding.keep_root(root)
        if spec is None and (kept := finding.kept_code(asking, name, root)):
            spec = finding.find_below(name, kept)
        if spec is not None:
            return spec
        raise ConfigImportError(
            f"{line_here()}: no module {name!r} in {root!r}, where it was when this config was saved, and no "
            "code/*.zip beside the config holds it. Change __roots__ in the config to the folder where it is now."
        )

    def _module(
        self, spec: ModuleSpec | None, name: str | None, names: Sequence[str], near: str | None = None
    ) -> ModuleType:
        """Run a config or import a real module, of which `names` are wanted.

        Args:
            spec: Where it was found.
            name: Its absolute name; None after a relative import, when it need not be on an import path.
            names: The names after `from ... import`.
            near: Its name seen from the config that imports it relatively.
        """
        origin = spec.origin if spec is not None and spec.has_location else None
        real = sys.modules.get(name or "")
        is_real = type(real) is not _ConfigModule and getattr(real, "__file__", None) == origin
        kind = finding.CODE
        if origin and origin not in self.real_files:
            kind = finding.judge(origin, real if is_real else None)
        if origin and (kind == finding.NODES or (kind != finding.CODE and origin not in _real_files())):
            file = os.path.abspath(origin)
            return self.run(file, name or finding.spell_name(file, finding.project_root(file)))
        own: dict[str, Any] = {}
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for item in names:
                file = os.path.join(folder, f"{item}.py")
                found = finding.find(item, [folder]) if name is None or os.path.isfile(file) else None
                if item not in own and found is not None and (name is None or finding.judge(file) != finding.CODE):
                    own[item] = self._module(found, name and f"{name}.{item}", ())
        rest = tuple(item for item in names if item not in own)
        real = ModuleType("a folder")
        if name is not None:
            real = builtins.__import__(name, None, None, rest or ("__name__",), 0)
        elif origin and (rest or not own):
            real = finding.import_file(origin, near)
        own |= self._copies_in(real, rest)
        return _View(real, own) if own else real

    def _suggest(self, error: ModuleNotFoundError, name: str, asking: str) -> None:
        """Note a near match for the part of a dotted name that does not exist."""
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            return  # something inside of the module is missing, not the module
        parent, _, last = missing.rpartition(".")
        root = finding.project_root(self.file)
        folders = [*getattr(importlib.import_module(parent), "__path__", ())] if parent else [root] if root else []
        if finding.find_below(name, os.path.dirname(asking)):
            error.add_note(f"A file in the folder of {display_path(asking)} is imported with a dot: from .{name}")
        elif hint := did_you_mean(last, finding.names_in(folders)):
            error.add_note(f"{hint.strip()} (in {', '.join(map(display_path, folders))})")
        elif not parent:
            where = f"the project of this config, {root}" if root else "the current folder"
            error.add_note(
                f"A package is found if it is installed, or lies in {where}. A project has a pyproject.toml at its top."
            )

    def _keep(self, content: dict[str, Any]) -> None:
        """Keep the globals of real code of the project; of a package also those of what it takes its names from."""
        file = content.get("__file__") or ""
        if file in self.namespaces or not finding.is_project_file(file):
            return
        self.namespaces[file] = content
        for written, *_ in self.text(file).taken if file.endswith("__init__.py") else ():
            self._keep(vars(_imported(written, content)))

    def _copies_in(self, real: ModuleType, names: Sequence[str]) -> dict[str, Any]:
        """Copy the nodes among these names of a real module (all of them for `*` and plain imports), once per load."""
        content, is_whole = vars(real), not names or "*" in names
        self._keep(content)
        wanted = {n: content[n] for n in (list(content) if is_whole else names) if n in content}
        copies = {
            n: copy_graph(value, self._copies)
            for n, value in wanted.items()
            if type(value) is Node or (names and holds(value, Node))
        }
        return {**content, **copies} if copies and "*" in names else copies  # `*` reads the namespace itself

    def text(self, file: str) -> reads.Text:
        """Return what a file does with its top-level names."""
        if file not in self.sources:
            loader = self.namespaces.get(file, {}).get("__loader__")
            read = getattr(loader, "get_data", lambda file: Path(file).read_bytes())  # a module may lie in an archive
            self.sources[file] = read(file)
        return reads.text_of(self.sources[file], file)

    def taken_names(self, file: str) -> Iterator[tuple[ModuleType, str, str]]:
        """Yield `(module, name, bound name)` of everything that a file takes from others by `from ... import`."""
        content, is_config = self.namespaces[file], file in self.modules
        for written, name, bound in self.text(file).taken:
            module: Any = self.taken[file].get(written) if is_config else _imported(written, content)
            if getattr(module, "__file__", None) in self.namespaces:
                names = traps.exported(module) if name == "*" else [name]
                yield from ((module, n, n if name == "*" else bound) for n in names if hasattr(module, n))

    note_set = traps.check_set

    def assigned_at(self, name: str, file: str | None = None) -> str | None:
        """Return `"file.py:12"`, where a top-level name was written: in `file` or where that imported it from."""
        file = file or self.origins.get(name, self.file)
        if stores := self.text(file).stores.get(name):
            return f"{display_path(file)}:{stores[-1][0]}"
        for module, taken, bound in reversed(list(self.taken_names(file))):
            if bound == name and (found := self.assigned_at(taken, str(module.__file__))):
                return found
        return None


def _imported(written: str, content: dict[str, Any]) -> Any:
    """Return the module that real code with these globals means by a name, such as `.parts`."""
    with contextlib.suppress(ImportError):  # of an import that has failed there, too
        return sys.modules.get(importlib.util.resolve_name(written, content.get("__package__")), object)
    return object


def _real_files() -> set[str]:
    """Return the files of all modules of the process; configs that are running are none."""
    modules = [m for m in list(sys.modules.values()) if type(m) is not _ConfigModule]
    return {str(getattr(m, "__dict__", {}).get("__file__")) for m in modules}


def _explain(error: BaseException) -> None:
    """Note what Python's message leaves out: the near name; that a node is no object, and a dict's items no names."""
    frames = [(entry.tb_frame, entry.tb_lineno) for entry in entries_of(error)]
    file, line = frames[-1][0].f_code.co_filename, frames[-1][1]
    if isinstance(error, AttributeError) and str(error).startswith("'dict' object"):
        name = str(error).split("'")[-2]
        written = re.search(rf"([\w.]+)\.{name}\b", linecache.getline(file, line))
        item = f"{written[1] if written else 'd'}[{'key' if hasattr(list, name) else name!r}]"
        raise UnknownNameError(
            f"{display_path(file)}:{line}: {error}. A plain dict has items: {item} = value. Write L(dict)(...) where "
            "they are to be attributes."
        ) from error
    if isinstance(error, NameError):
        meant = {"cfg": "In a config its own names stand alone: model.width.", **_OF_JSON}.get(error.name or "")
        if hint := meant or did_you_mean(error.name, frames[-1][0].f_globals):
            error.add_note(hint.strip())
    if isinstance(error, ImportError) and str(error).startswith("attempted relative import"):
        error.add_note(
            f"{display_path(file)} is no config: Python imports it from the project's root on, "
            f"{finding.project_root(file)}. Write its imports from there on, or an empty __init__.py beside it."
        )
    if isinstance(error, ConfigError) or not isinstance(error, TypeError | AttributeError):
        return
    if re.search(r"_Required|\bRef\b", str(error)):
        error.add_note("REQUIRED and ref have no value yet. Set one before, or compute later: ref(path, function).")
    elif re.match(r"Lazy(Call|Partial)\(\)", str(error)):
        error.add_note("A node takes two calls: the class alone in the first, L(Cls)(argument=value).")
    elif "unhashable type: 'Node'" in str(error):
        error.add_note("A node can be an item of a list or tuple, or a value of a dict.")
    elif re.search(r"\bNode\b", str(error)):
        own = [i for i, (f, _) in enumerate(frames) if finding.is_project_file(f.f_code.co_filename)]
        called = [f.f_code.co_qualname.removesuffix(".__init__") for f, _ in frames[own[-1] + 1 :]] if own else []
        made = f"L({(called or ['function'])[0]})(...)"
        error.add_note(f"A node describes what is built later: write {made} to describe the call that takes it, too.")

"""Read mmengine's config files, with its rules of inheritance and without mmengine or any other library of the project.

Two dialects: `_base_ = [...]` with dicts that are merged (also as YAML and JSON), and `with read_base():` with plain
Python semantics. A class that a file imports is not imported here; it becomes a `Symbol`.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from .classes import parsed
from .errors import PortError
from .expressions import Symbol

_FILE_VARIABLES = {
    "fileDirname": lambda path: str(path.parent),
    "fileBasename": lambda path: path.name,
    "fileBasenameNoExtension": lambda path: path.stem,
    "fileExtname": lambda path: path.suffix,
}


class Box(dict):
    """A dict whose entries are attributes too, as mmengine's `ConfigDict`; `update` and `merge` go into nested ones."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, boxed(value))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config dict has no entry {name!r}; it has {', '.join(map(str, self))}") from None

    __setattr__ = __setitem__

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> Box:
        return Box({key: copy.deepcopy(value, memo) for key, value in self.items()})

    def copy(self) -> Box:
        """Return a copy whose values are the same objects."""
        twin = Box()
        for key, value in self.items():
            dict.__setitem__(twin, key, value)
        return twin

    def pop(self, key: Any, default: Any = None) -> Any:  # type: ignore[override]
        """Remove an entry and return its value; a missing one is no error, as in mmengine."""
        return super().pop(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set entries; dicts on both sides are updated recursively."""
        for key, value in dict(*args, **kwargs).items():
            if isinstance(self.get(key), Box) and isinstance(value, dict):
                self[key].update(value)
            else:
                self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Set an entry that is missing, and return its value."""
        if key not in self:
            self[key] = default
        return self[key]

    def merge(self, other: dict[Any, Any]) -> None:
        """Merge another dict into this one; `_delete_` is honoured."""
        merged = _deep_merge(copy.deepcopy(other), copy.deepcopy(self))
        self.clear()
        for key, value in merged.items():
            self[key] = value


def boxed(value: Any) -> Any:
    """Return the value with its plain dicts as boxes."""
    if type(value) is dict:
        return Box(value)
    if type(value) in (list, tuple):
        return type(value)(map(boxed, value))
    return value


def _deep_merge(new: Any, old: Any) -> Any:
    if not isinstance(new, dict):
        return new
    delete = dict.pop(new, "_delete_", False)
    if not isinstance(old, dict):
        return new
    kept = {} if delete else old
    both = [*kept, *(key for key in new if key not in kept)]
    return {k: (_deep_merge(new[k], kept.get(k)) if k in new else kept[k]) for k in both}


@dataclass
class ConfigFile:
    """A config file that was read.

    Attributes:
        path: The file.
        values: Its resolved top-level values, inherited ones included.
        bases: The files that it inherits from directly.
        imported: Names that the file and its bases import from code, with what they stand for.
    """

    path: Path
    values: dict[str, Any]
    bases: list[Path] = field(default_factory=list)
    imported: dict[str, Any] = field(default_factory=dict)


def is_config(path: Path, text: str) -> bool:
    """Return whether a file is one of mmengine's configs rather than code, by its syntax."""
    if path.suffix in (".yaml", ".yml", ".json"):
        return bool(re.search(r"^\W{0,3}(_base_|default_scope|train_cfg)\W?\s*:", text, re.M))
    if path.name == "__init__.py" or not re.search(r"dict\(|_base_|read_base|=", text):
        return False
    if (tree := parsed(text)) is None:
        return False
    body = tree.body
    if re.search(r"^_base_\s*=|^with read_base\(\)", text, re.M):
        return True
    if any(isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Try) for node in body):
        return False
    if re.search(r"\bLazyCall\b|__name__\s*==", text):
        return False
    assigned = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
    names = {target.id for target in assigned if isinstance(target, ast.Name)}
    return bool(names & _KNOWN_NAMES) or (bool(names) and "dict(" in text and "type=" in text)


_KNOWN_NAMES = {
    *("model", "optim_wrapper", "train_cfg", "val_cfg", "test_cfg", "train_dataloader", "val_dataloader"),
    *("test_dataloader", "default_hooks", "custom_hooks", "param_scheduler", "default_scope", "dataset_type"),
    *("train_pipeline", "test_pipeline", "env_cfg", "visualizer", "data_preprocessor", "dataset_info"),
}


class Reader:
    """Reads config files, each once.

    Args:
        packages: Name of a package -> its folder, for `_base_ = "package::file"` and absolute imports of base configs.
    """

    def __init__(self, packages: dict[str, Path] | None = None):
        self.packages = dict(packages or {})
        self.scopes: dict[Path, str] = {}  # base configs of another package, which mmengine builds in its scope
        self._read: dict[Path, ConfigFile] = {}
        self._running: list[Path] = []

    def read(self, path: str | os.PathLike[str]) -> ConfigFile:
        """Return a config file with everything it inherits.

        Raises:
            PortError: It cannot be read; the message says why.
        """
        file = Path(os.path.abspath(path))
        if file not in self._read:
            if file in self._running:
                raise PortError(f"{file} inherits from itself. Move what both files need to a third one.")
            if not file.is_file():
                raise PortError(f"{file} does not exist. It is named as a base config; give --classes its project.")
            self._running.append(file)
            try:
                self._read[file] = self._read_now(file)
            except PortError:
                raise
            except Exception as error:
                raise PortError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
            finally:
                self._running.pop()
        return self._read[file]

    def _read_now(self, file: Path) -> ConfigFile:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".py" and self._is_lazy(file, text):
            return self._read_lazy(file, text)
        return self._read_merged(file, text)

    @staticmethod
    def _is_lazy(file: Path, text: str) -> bool:
        for node in ast.parse(text, str(file)).body:
            if isinstance(node, ast.With):
                return True
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
                return False
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += ["." * node.level + (node.module or "")] if isinstance(node, ast.ImportFrom) else []
            if any(not _is_ordinary(module) for module in modules):
                return True
        return False

    # ------------------------------------------------------------------------------------------- `_base_`
    def _read_merged(self, file: Path, text: str) -> ConfigFile:
        text = _with_environment(_with_file_variables(text, file))
        holes = {f"_{name}_port_{i}": name for i, name in enumerate(_BASE_VARIABLE.findall(text))}
        for hole, name in holes.items():
            text = re.sub(r"\{\{\s*_base_\." + re.escape(name) + r"\s*\}\}", f'"{hole}"', text)
        own, bases = self._own_values(file, text)
        inherited = Box()
        for base, package in bases.items():
            values = copy.deepcopy(self.read(base).values)
            if package:
                _put_scope(values, package)
                self.scopes.update(dict.fromkeys([base, *walk_bases(self.read(base), self)], package))
            if twice := inherited.keys() & values.keys():
                raise PortError(f"{file}: two of its base configs set {', '.join(sorted(twice))}.")
            inherited.update(values)
        if file.suffix == ".py":
            scope = {"_base_": inherited}
            tree = ast.parse(text, str(file))
            tree.body = [node for node in tree.body if not _assigns_base(node)]
            exec(compile(tree, str(file), "exec"), scope)
            own = {k: v for k, v in scope.items() if k != "_base_" and not k.startswith("__")}
            own = {k: v for k, v in own.items() if not isinstance(v, FunctionType | ModuleType)}
        own.pop("_deprecation_", None)
        own = {key: _filled(value, holes, inherited) for key, value in own.items()}
        return ConfigFile(file, _merged(own, inherited), list(bases))

    def _own_values(self, file: Path, text: str) -> tuple[dict[str, Any], dict[Path, str]]:
        """Return what a data file holds (nothing yet for Python), and its bases with the packages that name them."""
        own: dict[str, Any] = {}
        if file.suffix == ".py":
            body = ast.parse(text, str(file)).body
            assigned = [node for node in body if isinstance(node, ast.Assign) and _assigns_base(node)]
            value = eval(compile(ast.Expression(assigned[-1].value), str(file), "eval")) if assigned else []
        else:
            if file.suffix == ".json":
                own = json.loads(text)
            else:
                import yaml

                own = yaml.safe_load(text) or {}
            value = own.pop("_base_", [])
        names = [value] if isinstance(value, str) else value
        return own, {self._base_path(name, file): name.partition("::")[0] if "::" in name else "" for name in names}

    def _base_path(self, name: str, file: Path) -> Path:
        package, separator, inside = name.partition("::")
        if not separator:
            return Path(os.path.normpath(file.parent / name))
        folder = self._package(package, file)
        places = [folder / ".mim" / "configs" / inside, folder.parent / "configs" / inside, folder / "configs" / inside]
        return next((place for place in places if place.is_file()), places[0])

    def _package(self, name: str, file: Path) -> Path:
        if name not in self.packages:
            spec = importlib.util.find_spec(name)
            if spec is None or not spec.submodule_search_locations:
                raise PortError(f"{file}: package {name!r} is not installed. Give its source tree with --classes.")
            self.packages[name] = Path(spec.submodule_search_locations[0])
        return self.packages[name]

    # ----------------------------------------------------------------------------------------- `read_base`
    def _read_lazy(self, file: Path, text: str) -> ConfigFile:
        tree = ast.parse(text, str(file))
        scope: dict[str, Any] = {"__file__": str(file), "__name__": file.stem}
        result = ConfigFile(file, {})
        body: list[ast.stmt] = []
        for node in tree.body:
            if isinstance(node, ast.With):
                for inner in node.body:
                    self._take_bases(inner, file, scope, result)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                ordinary = self._bind_imports(node, scope, result)
                body += [ordinary] if ordinary is not None else []
            else:
                body.append(node)
        tree.body = body
        exec(compile(tree, str(file), "exec"), scope)
        result.imported.update({name: scope[name] for name in result.imported if name in scope})
        for name, value in scope.items():
            is_code = isinstance(value, FunctionType | ModuleType | type)
            if not name.startswith("__") and name not in result.imported and not is_code:
                result.values[name] = copy.deepcopy(boxed(value))
        return result

    def _take_bases(self, node: ast.stmt, file: Path, scope: dict[str, Any], result: ConfigFile) -> None:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            raise PortError(f"{file}:{node.lineno}: only `from module import names` may stand in `with read_base()`.")
        if node.level:
            folder, parts = file.parents[node.level - 1], node.module.split(".")
        else:
            package, *parts = node.module.split(".")
            folder = self._package(package, file)
        path = folder.joinpath(*parts).with_suffix(".py") if "." not in parts[-1] else folder.joinpath(*parts)
        base = self.read(path)
        result.bases.append(base.path)
        values = {**base.imported, **copy.deepcopy(base.values)}
        result.imported.update(base.imported)
        for alias in node.names:
            if alias.name == "*":
                scope.update(values)
            elif alias.name in values:
                scope[alias.asname or alias.name] = values[alias.name]
            else:
                raise PortError(f"{file}:{node.lineno}: {base.path.name} has no {alias.name!r}.")

    @staticmethod
    def _bind_imports(node: ast.Import | ast.ImportFrom, scope: dict[str, Any], result: ConfigFile) -> ast.stmt | None:
        """Bind symbols for what is not the standard library; return what is left to be run."""
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            result.imported.update({alias.asname or alias.name: None for alias in node.names})
            if module.startswith("mmengine.config"):
                return None
            if _is_ordinary(module):
                return node
            for alias in node.names:
                scope[alias.asname or alias.name] = Symbol(module, alias.name)
            return None
        ordinary = [alias for alias in node.names if _is_ordinary(alias.name)]
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            result.imported[name] = None
            if alias not in ordinary:
                scope[name] = Symbol(alias.name if alias.asname else name, "")
        return ast.copy_location(ast.Import(ordinary), node) if ordinary else None


_BASE_VARIABLE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_ENVIRONMENT = re.compile(r"\{\{['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}")


@functools.lru_cache
def _is_ordinary(module: str) -> bool:
    """Return whether mmengine imports a module for real when it reads a config of the second dialect."""
    return module.startswith("mmengine.config") or module.partition(".")[0] in sys.stdlib_module_names


def _assigns_base(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_base_"


def _with_file_variables(text: str, file: Path) -> str:
    for name, value in _FILE_VARIABLES.items():
        text = re.sub(r"\{\{\s*" + name + r"\s*\}\}", lambda _, v=value: v(file).replace("\\", "/"), text)
    return text


def _with_environment(text: str) -> str:
    def found(match: re.Match[str]) -> str:
        value = os.environ.get(match[1], match[2])
        if not value:
            raise PortError(f"The environment has no variable {match[1]!r}, which the config reads. Set it.")
        return value

    return _ENVIRONMENT.sub(found, text)


def _filled(value: Any, holes: dict[str, str], inherited: Box) -> Any:
    """Return the value with its holes filled from the base configs."""
    if isinstance(value, dict):
        filled = ((key, _filled(inner, holes, inherited)) for key, inner in value.items())
        return type(value)(filled)
    if isinstance(value, list | tuple):
        return type(value)(_filled(inner, holes, inherited) for inner in value)
    if isinstance(value, str) and value in holes:
        return functools.reduce(lambda outer, name: outer[name], holes[value].split("."), inherited)
    return value


def _put_scope(value: Any, package: str) -> None:
    """Put the scope into the outermost dicts with a type, as mmengine does with what it inherits from a package."""
    if isinstance(value, dict) and "type" in value:
        value.setdefault("_scope_", package)
        return
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _put_scope(inner, package)


def scopes_in(value: Any) -> Iterator[str]:
    """Yield the scopes that a config names, by `default_scope`, `_scope_` or `type="scope.Name"`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("default_scope", "_scope_") and inner:
                yield str(inner)
            elif key == "type" and isinstance(inner, str) and inner.count(".") == 1:
                yield inner.partition(".")[0]
            else:
                yield from scopes_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from scopes_in(inner)


def _merged(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Return `old` with `new` merged into it, as mmengine merges a config into its bases."""
    result = Box(old)
    for key, value in new.items():
        if isinstance(value, dict) and key in result and not value.pop("_delete_", False):
            if not isinstance(result[key], dict):
                raise PortError(
                    f"{key!r} is {type(result[key]).__name__} in the base config and a dict in its child: neither can "
                    "be merged into the other. Set _delete_=True in the child."
                )
            result[key] = _merged(value, result[key])
        else:
            result[key] = copy.deepcopy(value)
    return result


def walk_bases(file: ConfigFile, reader: Reader) -> Iterator[Path]:
    """Yield all files that a config inherits from, nearest first."""
    for base in file.bases:
        yield base
        yield from walk_bases(reader.read(base), reader)

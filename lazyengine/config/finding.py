"""Where an import of a config leads: to which file, whether that is a config, and else to which module."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import keyword
import os
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path, PurePath
from types import FunctionType, ModuleType

from .errors import ConfigImportError
from .reads import CLASS, parsed, scoped_nodes

_MAKERS = ("LazyCall", "LazyPartial")
_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_ENGINE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_STANDARD = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}", _STANDARD, _ENGINE)


def marked_folder(folder: str, marks: tuple[str, ...] = ("pyproject.toml", ".git")) -> str | None:
    """Return the nearest folder, from one on upwards, that holds a file or folder of one of some names."""
    folders = [folder, *map(str, PurePath(folder).parents)]
    return next((each for each in folders if any(os.path.exists(os.path.join(each, mark)) for mark in marks)), None)


def project_root(file: str) -> str | None:
    """Return the folder from which `file` is imported: above its top package, else the nearest project's.

    A project is a folder with `pyproject.toml` or `.git`. An entry of `sys.path` that is nearer wins (`src`), unless it
    is the current folder. None if there is no project.
    """
    folder = above = os.path.dirname(file)
    while os.path.isfile(os.path.join(above, "__init__.py")):
        above = os.path.dirname(above)
    if above != folder:
        return above
    above = marked_folder(folder) or ""
    entries = [os.path.abspath(entry) for entry in sys.path if entry and os.path.abspath(entry) != os.getcwd()]
    near = [entry for entry in entries if f"{folder}{os.sep}".startswith(f"{entry}{os.sep}")]
    is_submodule = above and os.path.isfile(os.path.join(above, ".git")) and "pyproject.toml" not in os.listdir(above)
    return max(near if near and is_submodule else [above, *near], key=len) or None


def keep_root(root: str | None) -> None:
    """Make sure that `root` is on `sys.path` (at its end)."""
    if root is not None and not any(os.path.abspath(entry) == root for entry in sys.path):
        sys.path.append(root)


def spell_name(file: str, root: str | None) -> str | None:
    """Return the dotted name of `file` seen from `root`; None where it has none."""
    if root is None:
        return None
    parts = os.path.relpath(os.path.splitext(file)[0], root).split(os.sep)
    if parts[-1] == "__init__":
        parts.pop()
    legal = parts and all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    return ".".join(parts) if legal else None


def folder_spec(name: str, folder: str) -> ModuleSpec:
    """Return what Python would find where `name` is a package or namespace in this folder."""
    init = os.path.join(folder, "__init__.py")
    spec = spec_from_file_location(name, init, submodule_search_locations=[folder]) if os.path.isfile(init) else None
    if spec is None:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [folder]
    return spec


def find(name: str, folders: list[str] | None = None, tries: int = 2) -> ModuleSpec | None:
    """Find an absolute name (its parent packages are imported), or one inside of folders; it itself is not run.

    In a second try folders are listed anew, which takes a millisecond.
    """
    if folders is None and name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    for _ in range(tries):
        with contextlib.suppress(ModuleNotFoundError, ValueError):
            spec = find_spec(name) if folders is None else PathFinder.find_spec(name, folders)
            if spec is not None:
                return spec
        if tries > 1:
            importlib.invalidate_caches()  # a file may be younger than the finder's listing of its folder
    return None


def names_in(folders: list[str]) -> list[str]:
    """Return the names of modules and packages in folders, for near matches."""
    found = [entry for folder in folders if os.path.isdir(folder) for entry in os.listdir(folder)]
    return sorted(
        {os.path.splitext(entry)[0] for entry in found if entry.endswith(".py") or "." not in entry} - {"__init__"}
    )


def import_file(file: str, near: str | None) -> ModuleType:
    """Import `file` for real, as every process can: under the name that it already has, else the one that it has near
    the config that imports it, else from its project's root, else by its path.
    """
    base = os.path.basename(file)
    for name, module in list(sys.modules.items()):
        origin = str(getattr(module, "__dict__", {}).get("__file__"))
        if name not in ("__main__", "__mp_main__") and origin.endswith(base) and _same_file(origin, file):
            return importlib.import_module(name)
    root = project_root(file)
    for name in (near, spell_name(file, root)):
        keep_root(root if name != near else None)
        spec = find(name) if name else None
        if name and spec is not None and spec.origin is not None and _same_file(spec.origin, file):
            return importlib.import_module(name)
    _check_imports(file, root)
    folder, stem = os.path.split(os.path.splitext(file)[0])  # the name leads to another project, or there is none
    if stem == "__init__":
        folder, stem = os.path.split(folder)
    return importlib.import_module(f"{__package__}.by_path.{spell_folder(folder)}.{stem}")


def spell_folder(folder: str) -> str:
    """Spell a folder as the name of a module of `by_path`."""
    return "".join(chr(b) if chr(b).isalnum() and b < 128 else f"_{b:02x}" for b in os.fsencode(folder))


def without_folder(name: str) -> str:
    """Return a dotted name as an import from the project has it, where it is one of a module named by its folder."""
    if not is_by_path(name):
        return name
    head, dot, rest = name.removeprefix(f"{__package__}.by_path.").partition(".")
    package = re.sub("_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), head.rpartition("_2f")[2])
    return package + dot + rest


def find_below(name: str, root: str) -> ModuleSpec | None:
    """Find a dotted name from a folder on, whatever `sys.path` and `sys.modules` say; nothing is run."""
    spec: ModuleSpec | None = folder_spec("root", root)
    for part in name.split("."):
        folders = list((spec and spec.submodule_search_locations) or ())
        spec = find(part, folders) if folders else None
    return spec


def _check_imports(file: str, root: str | None) -> None:
    """Refuse a file whose absolute imports lead to another project that has modules of the same names."""
    with open(file, "rb") as stream:
        tree = ast.parse(stream.read())
    names: set[str] = set()
    for node in ast.walk(tree) if root else ():
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name in sorted(names):
        own = find_below(name, root or "")
        taken = find(name) if own is not None and own.origin else None
        if taken is not None and taken.origin and not _same_file(str(own and own.origin), taken.origin):
            raise ConfigImportError(
                f"{file} imports {name!r}, which in this process is {taken.origin}, of another project. Load the two "
                "projects in two processes, or import it relatively."
            )


@functools.cache
def _unpacked(archive: str, mtime_ns: int) -> str:
    """Unpack an archive into a temporary folder, which is removed when the process ends."""
    import atexit
    import shutil
    import tempfile
    import zipfile

    folder = tempfile.mkdtemp(prefix="lazyengine-code-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def kept_code(config_file: str, name: str, root: str) -> str | None:
    """Return where a module's root is in the code that was kept beside a saved config; None where it is not kept.

    The code of the config's own start is asked first. An archive holds one project at its top, further ones in `@1` and
    so on; their tops are above the roots.

    Args:
        config_file: The config.
        name: The dotted name of the module.
        root: The folder from which it was imported.
    """
    import glob
    import zipfile

    folder = os.path.dirname(os.path.abspath(config_file))
    own, inner = _own_code(folder), name.replace(".", "/")
    paths = [(end, f"{root}/{inner}{end}".replace(os.sep, "/")) for end in (".py", "/__init__.py")]
    archives = [a for up in (folder, os.path.dirname(folder)) for a in glob.glob(os.path.join(up, "code", "*.zip"))]
    for archive in sorted(archives, key=lambda a: (own in a, os.path.getmtime(a)), reverse=True):
        with zipfile.ZipFile(archive) as file:
            entries = file.namelist()
        found: dict[str, int] = {}
        for entry in entries:
            below = entry.partition("/")[2] if entry.startswith("@") else entry
            for end, path in paths:
                if path.endswith(f"/{below}") and f"/{below}".endswith(f"/{inner}{end}"):
                    found[entry.removesuffix(f"{inner}{end}")] = len(below)
        if found:  # the one of most folders that are the same
            return os.path.join(_unpacked(archive, os.stat(archive).st_mtime_ns), max(found, key=lambda e: found[e]))
    return None


def _own_code(folder: str) -> str:
    """Return the hash of the code of the start that a folder belongs to: the start's own, or a run's."""
    import json

    start = Path(folder)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        if not (start / "env.json").is_file():
            run = json.loads((start / "run.json").read_text("utf-8"))
            start /= [Path(each["folder"]).name for each in run["starts"] if each["run_id"] == run["run_id"]][-1]
        return str(json.loads((start / "env.json").read_text("utf-8"))["code"]["hash"])
    return "unknown"


def _same_file(a: str, b: str) -> bool:
    return a == b or os.path.realpath(a) == os.path.realpath(b)


# ----------------------------------------------------------------------------------- what a config's text says
def is_by_path(module: str) -> bool:
    """Return whether a module is named by the folder that it lies in."""
    return module.startswith(f"{__package__}.by_path.")


def is_project_file(file: str) -> bool:
    """Return whether a file is Python code that was not installed."""
    return file.endswith(".py") and not any(part in file for part in _INSTALLED)


CODE, PLAIN, NODES = "code", "plain values", "nodes"


def judge(file: str, real: ModuleType | None = None) -> str:
    """Judge whether a file that a config imports is a config too: run afresh for every load, its nodes shared with it.

    It is if it makes nodes at module level (`NODES`), or defines no class or function (`PLAIN`). An `__init__.py` never
    is (`CODE`), and an installed file only if it makes nodes, as one that other code has imported (`real`).
    """
    if not file.endswith(".py") or os.path.basename(file) == "__init__.py":
        return CODE
    try:
        stat = os.stat(file)
    except OSError:
        return CODE
    return _judge_version(file, stat.st_mtime_ns, stat.st_size, real)


@functools.lru_cache(maxsize=4096)
def _judge_version(file: str, mtime_ns: int, size: int, real: ModuleType | None) -> str:
    without_nodes = PLAIN if is_project_file(file) and real is None else CODE
    try:
        with open(file, "rb") as stream:
            source = stream.read()
        has_makers = any(maker.encode() in source for maker in _MAKERS)
        if has_makers and real is not None and b".Lazy" not in source and b"del " not in source:
            has_makers = any(type(x) is FunctionType and x.__name__ in _MAKERS for x in vars(real).values())
        if without_nodes == CODE and not has_makers:
            return CODE
        tree = parsed(source)
    except (SyntaxError, ValueError, OSError):
        return without_nodes  # running it as a config reports the error best
    makers: set[str] = set()
    called: set[str] = set()
    is_code = False
    for node, _, level in scoped_nodes(tree):
        if level >= CLASS:
            continue
        if isinstance(node, _DEFINITIONS):
            is_code = True
            if not has_makers:
                break
        elif isinstance(node, ast.ImportFrom):
            makers |= {alias.asname or alias.name for alias in node.names if alias.name in _MAKERS}
        elif isinstance(node, ast.Call):
            called.add(getattr(node.func, "id", ""))
            if getattr(node.func, "attr", None) in _MAKERS or called & makers:
                return NODES
    return NODES if called & makers else CODE if is_code else without_nodes

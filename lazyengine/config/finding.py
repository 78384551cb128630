"""Where an import of a config leads: to which file, and under which name that file is a real module."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
import threading
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

_roots: dict[str, int] = {}  # roots that were appended to sys.path -> loads that rely on it
_roots_lock = threading.Lock()


def project_root(file: str) -> str | None:
    """Return the folder from which `file` is imported: above its top package, else the nearest project's.

    A project is a folder with `pyproject.toml` or `.git`. None if there is neither.
    """
    folder = os.path.dirname(file)
    if os.path.isfile(os.path.join(folder, "__init__.py")):
        while os.path.isfile(os.path.join(folder, "__init__.py")):
            folder = os.path.dirname(folder)
        return folder
    while True:
        if any(os.path.exists(os.path.join(folder, mark)) for mark in ("pyproject.toml", ".git")):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def keep_root(root: str) -> None:
    """Make sure that `root` is on `sys.path` (at its end)."""
    with _roots_lock:
        is_listed = any(os.path.abspath(entry) == root for entry in sys.path)
        if root in _roots:
            _roots[root] += 1
        elif not is_listed:
            _roots[root] = 1
        if not is_listed:
            sys.path.append(root)


def release_root(root: str) -> None:
    """Undo `keep_root` after a load that failed, unless another one relies on the same root."""
    with _roots_lock:
        if root in _roots:
            _roots[root] -= 1
            if _roots[root] == 0:
                del _roots[root]
                if root in sys.path:
                    sys.path.remove(root)


def spell_name(file: str, root: str | None) -> str | None:
    """Return the dotted name of `file` seen from `root`; None where it has none."""
    if root is None:
        return None
    parts = os.path.relpath(os.path.splitext(file)[0], root).split(os.sep)
    if parts[-1] == "__init__":
        parts.pop()
    legal = parts and all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    return ".".join(parts) if legal else None


def find_in(folders: list[str], name: str) -> ModuleSpec | None:
    """Find module or package `name` inside of folders, as Python does, without running anything."""
    spec = PathFinder.find_spec(name, folders)
    if spec is None:
        importlib.invalidate_caches()  # a file may be younger than the finder's listing of its folder
        spec = PathFinder.find_spec(name, folders)
    return spec


def find_name(name: str) -> ModuleSpec | None:
    """Find an absolute module name; its parent packages are imported, itself it is not. None if there is none."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__spec__", None)
    try:
        return find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None


def names_in(folders: list[str]) -> list[str]:
    """Return the names of modules and packages in folders, for near matches."""
    found = [entry for folder in folders if os.path.isdir(folder) for entry in os.listdir(folder)]
    return sorted({os.path.splitext(entry)[0] for entry in found if not entry.startswith(("_", "."))})


def import_file(file: str) -> ModuleType:
    """Import `file` for real, as every process can: under the name that it already has, else from its project's root,
    else by its path.
    """
    name = _imported_name(file)
    if name is not None:
        return importlib.import_module(name)
    root = project_root(file)
    name = spell_name(file, root)
    if name is not None and root is not None:
        keep_root(root)
        spec = find_name(name)
        if spec is None:
            importlib.invalidate_caches()
            spec = find_name(name)
        if spec is not None and spec.origin is not None and _same_file(spec.origin, file):
            return importlib.import_module(name)
    from .by_path import module_name  # the name leads elsewhere: another project has the same one

    folder, stem = os.path.split(os.path.splitext(file)[0])
    if stem == "__init__":
        folder, stem = os.path.split(folder)
    return importlib.import_module(module_name(folder, stem))


def _imported_name(file: str) -> str | None:
    base = os.path.basename(file)
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__dict__", {}).get("__file__")
        if name in ("__main__", "__mp_main__") or not isinstance(origin, str) or not origin.endswith(base):
            continue
        if _same_file(origin, file):
            return name
    return None


def _same_file(a: str, b: str) -> bool:
    return a == b or os.path.realpath(a) == os.path.realpath(b)

"""The code of a project that a run imported: found, and kept as one file for each version of it.

The project is what was imported outside of the standard library, of installed packages and of lazyengine itself;
editable installs belong to it. Which of its files git knows does not matter.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import io
import json
import linecache
import os
import site
import struct
import sys
import sysconfig
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..config.finding import marked_folder
from ..errors import UsageFileNotFoundError, UsageValueError
from ..fileio import atomic_write
from ..fileio.remote import sha256_of
from .run_file import ENV_FILE

MAX_DATA_BYTES = 200_000
"""Of a file beside the code; larger ones are listed as not contained."""
MAX_BESIDE_BYTES = 1_000_000
"""Of all files beside the code together."""
MAX_FILE_BYTES = 1_000_000
"""Of any file; of larger ones only the hash is kept."""
MANIFEST = "manifest.json"
NOTEBOOK = "__notebook__"
_MAX_ENTRIES = 1000  # of a folder that is looked through for data
_JUST_NOW_S = 60.0  # a file written so shortly before the start may be newer than its import
_ENGINE = Path(__file__).resolve().parents[1]
_NO_DATA = {".pyc", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".ipynb", ".md", ".log", ".out", ".err"}
_WEIGHTS = {".pth", ".pt", ".ckpt", ".safetensors"}
_COMPILED = (".so", ".pyd")
_SECRET_ENDINGS = (".env", ".pem", ".key", ".p12", ".pfx", ".netrc")
_SECRET_WORDS = ("secret", "credential", "password", "id_rsa", "id_ed25519")
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_DATE = (1980, 1, 1, 0, 0, 0)
_STARTED = time.time()


@dataclass
class CodeRecord:
    """The files of a project at one moment.

    Names are paths below the project's top folder, with slashes, so that another checkout gives the same ones; files
    of a second project begin with ``@1/``.

    Attributes:
        files: Content by name.
        by_hash: SHA-256 of files that are too large to be kept, by name.
        configs: Names of files that were run as configs.
        paths: Folders inside, from which modules are imported; ``.`` for the top.
        not_contained: Why a file is not among them, by name. Not part of the hash.
        edited: Names of files that were changed after they had been imported. Not part of the hash.
        tops: The project's folder and those of further ones. Not part of the hash.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    by_hash: dict[str, str] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    not_contained: dict[str, str] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)
    tops: list[str] = field(default_factory=list)

    def manifest(self) -> dict[str, Any]:
        """Return the hashes of all files, and how they are used."""
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.files.items())}
        by_hash = dict(sorted(self.by_hash.items()))
        return {"files": hashes, "by_hash": by_hash, "configs": sorted(self.configs), "paths": self.paths}

    @property
    def hash(self) -> str:
        """The first 16 characters of a hash over names and contents: the same code, the same hash."""
        return hashlib.sha256(json.dumps(self.manifest()).encode()).hexdigest()[:16]

    def restore(self, former: CodeRecord) -> None:
        """Return the files of an earlier record of this process to what they were then, whoever has changed them."""
        if self.tops[: len(former.tops)] != former.tops:  # further projects, which change the names
            return
        for name in (*former.files, *former.by_hash):
            for found in (self.files, self.by_hash, self.not_contained):
                found.pop(name, None)
        self.files |= former.files
        self.by_hash |= former.by_hash
        changed = (name for name in self.edited if name not in former.files)
        self.edited = [*former.edited, *changed]

    def where(self, name: str) -> str:
        """Return the path that a file was read from."""
        if name.startswith("@files/"):
            return name.removeprefix("@files")
        number, _, rest = name.removeprefix("@").partition("/")
        if name.startswith("@") and number.isdecimal() and 0 < int(number) < len(self.tops):
            return os.path.join(self.tops[int(number)], rest)
        return os.path.join(self.tops[0], name)  # also a folder of such a name, as the tree of a re-run has them


def collect_code(configs: Mapping[str, bytes] | None = None, globs: Iterable[str] = ()) -> CodeRecord:
    """Return the code of the project that this process has imported.

    Args:
        configs: Files that were run without being imported, such as config files: what was run, by path.
        globs: Patterns of further files, relative to the current folder.
    """
    sources = {os.path.abspath(path): content for path, content in (configs or {}).items()}
    modules = {path: (root, module) for path, root, module in _project_modules()}
    roots = sorted({root for root, _ in modules.values() if root is not None}, key=_import_rank)
    folders = sorted({os.path.dirname(path) for path in (*sources, *modules)})
    tops = dict.fromkeys(map(_top_of, [*map(os.path.dirname, sources), *roots, *folders]))
    outer = [top for top in tops if not any(_is_inside(top, other) for other in tops)]
    record = CodeRecord(tops=outer)
    for path, content in sources.items():
        name = _name_of(path, outer)
        record.files[name] = content
        record.configs.append(name)
    for path, (_, module) in modules.items():
        _add_module(record, path, module)
    record.paths = [_name_of(root, outer) for root in roots]
    _add_cells(record)
    _add_beside(record, folders)
    for file in sorted({os.path.abspath(file) for pattern in globs for file in glob.glob(pattern, recursive=True)}):
        if os.path.isfile(file) and not file.endswith(".py") and not _may_be_secret(file):
            record.not_contained.pop(_name_of(file, outer), None)
            _add(record, file)
    return record


def save_code(record: CodeRecord, folder: str | os.PathLike[str]) -> str:
    """Write a record into a folder as ``<hash>.zip``, unless it is there, and return the path.

    The same code gives the same bytes: names are sorted, and dates left out.
    """
    path = os.path.join(folder, f"{record.hash}.zip")
    if os.path.exists(path):
        return path
    buffer = io.BytesIO()
    manifest = json.dumps(record.manifest(), indent=1).encode()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*sorted(record.files.items()), (MANIFEST, manifest)]:
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    os.makedirs(folder, exist_ok=True)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return path


def load_code(path: str | os.PathLike[str]) -> CodeRecord:
    """Read what `save_code` wrote.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged, or a name in it leads out of a folder.
    """
    if not os.path.isfile(path):
        raise UsageFileNotFoundError(f"the code {os.fspath(path)} is not there; it was never kept, or was deleted.")
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist() if name != MANIFEST}
            manifest = json.loads(archive.read(MANIFEST))
        record = CodeRecord(files, manifest["by_hash"], manifest["configs"], manifest["paths"])
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise UsageValueError(f"the code {os.fspath(path)} is damaged: {error}.") from error
    for name in (*files, *manifest["by_hash"], *manifest["paths"]):
        if os.path.isabs(name) or ".." in name.split("/") or "\\" in name:
            raise UsageValueError(f"the code {os.fspath(path)} was not kept by lazyengine: {name!r} leads out of it.")
    return record


# ------------------------------------------------------------------------------------------------ what was imported
def _project_modules() -> Iterator[tuple[str, str | None, ModuleType]]:
    """Yield the file of each module of a project, the folder on the import path that leads to it, and the module."""
    for name, module in sorted(sys.modules.items()):
        path = str(getattr(module, "__file__", None))
        if name == "__mp_main__" or not _is_of_a_project(path):
            continue
        path = os.path.normpath(path)
        spec = getattr(module, "__spec__", None)
        parts = getattr(spec, "name", name).split(".")
        if os.path.basename(path) == "__init__.py":
            parts.append("__init__")
        stem, inside = os.path.splitext(path)[0], os.sep + os.path.join(*parts)
        is_script = name == "__main__" and spec is None
        root = stem.removesuffix(inside) if stem.endswith(inside) else os.path.dirname(path) if is_script else None
        yield path, root, module


@functools.cache  # thousands of modules, which every start and many saves look through
def _is_of_a_project(path: str) -> bool:
    """Whether a file holds code that is not Python's, an installed package's or lazyengine's."""
    if not os.path.isabs(path) or not path.endswith((".py", *_COMPILED)):
        return False
    return not (path.startswith(_foreign_folders()) or any(mark in path for mark in _INSTALLED))


def _top_of(folder: str) -> str:
    """Return the folder of the project that a folder belongs to: the next one with a mark, else itself."""
    if (marked := marked_folder(folder)) is not None:
        return marked
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder = os.path.dirname(folder)
    return folder


def _import_rank(root: str) -> tuple[int, str]:
    paths = [os.path.abspath(path) for path in sys.path]
    return (paths.index(root) if root in paths else len(paths)), root


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _name_of(path: str, tops: list[str]) -> str:
    """Return the name of a file or folder in a record."""
    for number, top in enumerate(tops):
        if path == top or _is_inside(path, top):
            name = path[len(top) :].lstrip(os.sep).replace(os.sep, "/")
            return (name or ".") if number == 0 else f"@{number}/{name}".rstrip("/")
    return "@files" + path.replace(os.sep, "/")


def _add_module(record: CodeRecord, path: str, module: ModuleType) -> None:
    name = _name_of(path, record.tops)
    if path.endswith(_COMPILED):
        record.not_contained[name] = "compiled"
        return
    read = getattr(getattr(module, "__loader__", None), "get_data", None)
    if not os.path.isfile(path) and read is not None:  # in an archive
        with contextlib.suppress(OSError):
            record.files[name] = read(path)
    _add(record, path)
    is_recent = os.path.exists(path) and os.stat(path).st_mtime > _STARTED - _JUST_NOW_S
    if is_recent and name in record.files and not _is_as_imported(module, path, record.files[name]):
        record.edited.append(name)


def _add(record: CodeRecord, path: str, limit: int = MAX_FILE_BYTES) -> None:
    """Add a file that is small enough; of a larger one the hash, or, beside the code, its size."""
    name = _name_of(path, record.tops)
    if name in record.files or name in record.by_hash or name in record.not_contained:
        return
    try:
        size = os.stat(path).st_size
        if size <= limit:
            record.files[name] = Path(path).read_bytes()
        elif limit < MAX_FILE_BYTES:
            record.not_contained[name] = f"{size:,} bytes; up to {limit:,} are kept, more with record=[...]"
        else:
            record.by_hash[name] = sha256_of(path)
    except OSError as error:
        record.not_contained[name] = f"cannot be read: {error.strerror}"


def _add_beside(record: CodeRecord, folders: Iterable[str]) -> None:
    """Add what lies beside code and may be read by it: no pictures, no weights, nothing that a run writes.

    Beside a script that belongs to no project and no package only files that the code names.
    """
    num_bytes, too_much = 0, f"more than {MAX_BESIDE_BYTES:,} bytes lie beside the code"
    code = list(record.files.values())
    for folder in filter(os.path.isdir, folders):
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if entry.is_file()), key=lambda entry: entry.name)
        if any(entry.name == ENV_FILE for entry in entries):  # a start of a run, whose config is run again
            continue
        if len(entries) > _MAX_ENTRIES:
            record.not_contained[_name_of(folder, record.tops) + "/*"] = f"{len(entries):,} files"
            continue
        is_loose = marked_folder(folder) is None and folder == _top_of(folder)  # of no project and no package
        for entry in entries:
            name, ending = entry.name.lower(), os.path.splitext(entry.name)[1].lower()
            if name.startswith(".") or ending in (".py", *_COMPILED) or ending in _NO_DATA:
                continue
            status = entry.stat()
            reasons = {
                "weights": ending in _WEIGHTS,
                "may be a secret": _may_be_secret(name),
                "written since the start": status.st_mtime > _STARTED,
                "the code does not name it": is_loose and not any(entry.name.encode() in each for each in code),
                too_much: num_bytes + min(status.st_size, MAX_DATA_BYTES) > MAX_BESIDE_BYTES,
            }
            reason = next((reason for reason, holds in reasons.items() if holds), None)
            if reason is None:
                _add(record, entry.path, MAX_DATA_BYTES)
                num_bytes += len(record.files.get(_name_of(entry.path, record.tops), b""))
            else:
                record.not_contained.setdefault(_name_of(entry.path, record.tops), reason)


def _may_be_secret(path: str) -> bool:
    name = os.path.basename(path).lower()
    return name.endswith(_SECRET_ENDINGS) or any(word in name for word in _SECRET_WORDS)


def _add_cells(record: CodeRecord) -> None:
    """Add the cells of a notebook or an interactive session, which are in no file."""
    marks = (f"{os.sep}ipykernel_", "<ipython-input-", "<python-input-")
    names = [name for name in list(linecache.cache) if any(mark in name for mark in marks)]
    for number, name in enumerate(names):
        record.files[f"{NOTEBOOK}/cell_{number}.py"] = "".join(linecache.getlines(name)).encode()


def _is_as_imported(module: ModuleType, path: str, content: bytes) -> bool:
    """Whether the functions of a module are those of its file, as far as one can see."""
    cached = getattr(getattr(module, "__spec__", None), "cached", None)
    if cached and os.path.isfile(cached):
        status = os.stat(path)
        written = struct.pack("<II", int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
        with open(cached, "rb") as file:
            header = file.read(16)
        if header[4:8] == b"\0\0\0\0" and header[8:16] != written:
            return False
    try:
        codes, defined = _compiled(path, content)
    except (SyntaxError, ValueError):
        return False
    if module.__name__ != "__main__" and not defined <= vars(module).keys():  # which may not have run to its end
        return False
    values = vars(module).values()
    classes = (v for v in values if isinstance(v, type) and v.__module__ == module.__name__)
    holders = [vars(module), *map(vars, classes)]
    functions = [value for holder in holders for value in list(holder.values()) if isinstance(value, FunctionType)]
    return all(f.__code__ in codes for f in functions if f.__code__.co_filename == path)


@functools.cache
def _compiled(path: str, content: bytes) -> tuple[set[CodeType], set[str]]:
    """Return the code of all functions of a file, and the names of those that a module of it has."""
    code = compile(content, path, "exec", dont_inherit=True)
    defined = {const.co_name for const in code.co_consts if isinstance(const, CodeType) and const.co_name[0] != "<"}
    return set(_codes_in(code)), defined


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)


@functools.cache
def _foreign_folders() -> tuple[str, ...]:
    """Return what the paths of installed files begin with."""
    paths = sysconfig.get_paths()
    installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    own = [str(_ENGINE), str(_ENGINE.parent / "tools")]
    names = [*installed, *site.getsitepackages(), site.getusersitepackages(), os.path.dirname(os.__file__), *own]
    return tuple(sorted({os.path.abspath(name) + os.sep for name in names}))

"""Run folders below a root, read once: a small database beside them keeps what was read, and is never believed blindly.

What changed since (by size, time and number of the files) is read again; records from where they were read to. Deleted,
damaged, or not writable: everything is read from the folders.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .. import interpreter
from ..errors import UsageFileNotFoundError, UsageValueError
from ..logging import METRICS_FILE
from ..record import ENV_FILE, RUN_FILE, START_FILE
from .columns import Curve, Part, append, join, pack, parts_in, unpack
from .lineage import Start, changes_of, files_of, how_ended, led_to_end, metrics_of, read_starts
from .reading import check_run, read_config

INDEX_FILE = ".lazyengine_index.sqlite"
_VERSION = 3
_WAIT_S = 20.0  # for another process that updates the index
_MANY = 200  # runs, which several processes read
_TAIL = 64  # bytes before the place that a file was read to: are they others, it is another file
_OF_RUN = (RUN_FILE, "config.json", METRICS_FILE)
_OF_START = (METRICS_FILE, "config.json", ENV_FILE, START_FILE)
_SCHEMA = """
drop table if exists runs; drop table if exists records;
create table runs (path text primary key, signature text not null, outline blob not null);
create table records (path text primary key, data blob not null);
"""


class Point(NamedTuple):
    """A value of a curve at a step."""

    step: float
    value: float


class Extent(NamedTuple):
    """What a curve comes to.

    Attributes:
        last: Its last value.
        least: Its smallest finite value, the first of several; None where none is finite.
        most: Its largest one.
    """

    last: Point
    least: Point | None
    most: Point | None


class _Extents(Mapping[str, Extent]):
    """Extents as the index keeps them, made when they are asked for: of thousands of runs most are not."""

    def __init__(self, rows: dict[str, list[float]]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Extent:
        row = self._rows[name]
        if len(row) == 2:
            return Extent(Point(*row), None, None)
        return Extent(Point(row[0], row[1]), Point(row[2], row[3]), Point(row[4], row[5]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


@dataclass
class Outline:
    """What is known of a run without its curves.

    Attributes:
        path: Its folder.
        config: Values of the saved config as text, by path; empty where none was saved.
        starts: Its starts in order, evaluations included.
        extents: What its curves come to, by ``<mode>/<name>``; those of a fork from the first iteration of the run that
            it branched off.
        environment: Parts of ``env.json`` of the start that trained last.
        mistake: What is wrong with the folder, where it cannot be read; else empty.
    """

    path: Path
    config: dict[str, str] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    extents: Mapping[str, Extent] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    mistake: str = ""

    @cached_property
    def changes(self) -> dict[str, list[dict[str, Any]]]:
        """What resumes changed in the config, by path, in order; refused changes changed nothing."""
        return changes_of(self.starts)

    @property
    def curve_names(self) -> Collection[str]:
        """The names of its curves."""
        return self.extents.keys()

    @property
    def training(self) -> list[Start]:
        """The starts that trained; those that evaluated where none did."""
        return [start for start in self.starts if start.kind == "train"] or self.starts

    @cached_property
    def last(self) -> Start:
        """The start with whose end it came to where it stands; of a run without starts there is none."""
        return led_to_end(self.starts)[-1]

    @property
    def run_id(self) -> str:
        """Its identity; empty in folders of version 0.1."""
        return self.training[-1].run_id if self.starts else ""

    @property
    def code(self) -> str:
        """The version of the code with which it came to where it stands, or an empty text."""
        return (self.last.code or "") if self.starts else ""

    @property
    def iterations(self) -> int:
        """The last step that was recorded."""
        return int(max((extent.last.step for extent in self.extents.values()), default=0))

    @cached_property
    def state(self) -> str:
        """``"finished"``, ``"pruned"``, ``"stopped"``, ``"failed"``, ``"running"``, ``"killed"``, ``"evaluated"``.

        Of the start that `last` is: one that came later and did nothing that stays is seen by ``lazyengine ps``.
        """
        if self.mistake or not self.starts or self.training[-1].kind != "train":
            return "unknown" if self.mistake else "evaluated"
        how = how_ended(self.path, self.last)
        if how is not None and self.training[-1].ended is not None:
            return how
        from .watching import owner_of  # imports more, for the few that have not ended

        return "running" if owner_of(self.path) else how or "killed"


class Index:
    """The runs in a folder and below it.

    Args:
        root: The folder.

    Raises:
        FileNotFoundError: There is no such folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(root)
        if not os.path.isdir(self.root):
            raise UsageFileNotFoundError(f"{os.fspath(root)} is no folder; name one in which runs are.")
        self._path = os.path.join(self.root, INDEX_FILE)
        self._database = _open(self._path)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def read(self) -> list[Outline]:
        """Return the runs by path; what changed is read, what is gone is forgotten."""
        try:
            return self._read()
        except sqlite3.DatabaseError:
            self._reopen(":memory:")
            with contextlib.suppress(OSError):  # damaged: made anew
                os.remove(self._path)
                self._reopen(self._path)
            return self._read()

    def _reopen(self, path: str) -> None:
        self._database.close()
        self._database = _create(path)

    def _read(self) -> list[Outline]:
        query = self._database.execute("select path, signature, outline from runs")
        known = {path: (signature, outline) for path, signature, outline in query}
        found, fresh = {}, {}
        for path, signature in find_run_folders(self.root):
            name = path.removeprefix(self.root).strip(os.sep) or os.curdir
            if name in known and known[name][0] == signature:
                found[name] = _checked(known[name][1])
            else:
                fresh[name] = signature
        with interpreter.paused():
            if fresh or len(found) < len(known):
                try:
                    found.update(self._update(fresh, known.keys() - found.keys()))
                except sqlite3.OperationalError:  # read-only, full, or locked for long
                    self._reopen(":memory:")
                    return self._read()
            outlines = [_outline_of(self.root, name, json.loads(found[name])) for name in sorted(found)]
        for outline in outlines:
            if any(start.is_fork for start in outline.training[:1]):
                outline.extents = extents_of(self.curves(outline))
        return outlines

    def _update(self, fresh: dict[str, str], changed: set[str]) -> dict[str, bytes]:
        """Read runs anew and keep them; return their outlines as bytes."""
        self._database.execute("begin immediate")
        try:
            jobs = [(os.path.join(self.root, name), self._records(name) if name in changed else []) for name in fresh]
            for table in ("runs", "records"):
                self._database.executemany(f"delete from {table} where path = ?", [(name,) for name in changed])
            done = {}
            for name, (outline, files) in zip(fresh, _read_all(jobs)):
                done[name] = outline
                self._database.execute("insert into runs values (?, ?, ?)", (name, fresh[name], _sealed(outline)))
                self._database.execute("insert into records values (?, ?)", (name, _sealed(_as_blob(files))))
        except BaseException:
            self._database.execute("rollback")
            raise
        self._database.execute("commit")
        return done

    def _records(self, name: str) -> list[_File]:
        """Return what is kept of the files of a run."""
        row = self._database.execute("select data from records where path = ?", (name,)).fetchone()
        return [] if row is None else _from_blob(_checked(row[0]))

    def curves(self, outline: Outline) -> list[Curve]:
        """Return the curves of a run that `read` returned, its starts joined, those of a fork from the first iteration.

        Without the records that were added since.
        """
        kept: dict[str, dict[str, _File]] = {}

        def take(file: Path) -> list[Part]:
            for run in (file.parent.parent, file.parent):
                name = os.path.relpath(run, self.root)
                if name not in kept:
                    kept[name] = {each.name: each for each in self._records(name)}
                if found := kept[name].get(os.path.relpath(file, run)):
                    return unpack(found.data)
            return parts_in(file.read_bytes())

        return curves_of(outline, take)


def _open(path: str) -> sqlite3.Connection:
    """Return the database; a damaged one, and one of another version, is made anew."""
    for _ in range(2):
        try:
            return _create(path)
        except sqlite3.OperationalError:  # cannot be written here
            break
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                os.remove(path)
    return _create(":memory:")


def _create(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        (version,) = database.execute("pragma user_version").fetchone()
        if version != _VERSION:
            database.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
        database.execute("pragma synchronous = off")  # what a crash of the machine damages is made anew
    except BaseException:
        database.close()
        raise
    return database


class _File(NamedTuple):
    """What the index keeps of a file of records: where it was read to, and what stood there."""

    name: str
    inode: int
    offset: int
    tail: str
    data: bytes


def _as_blob(files: Sequence[_File]) -> bytes:
    head = json.dumps([[*file[:-1], len(file.data)] for file in files]).encode()
    return b"\n".join([head, b"".join(file.data for file in files)])


def _from_blob(blob: bytes) -> list[_File]:
    head, _, data = blob.partition(b"\n")
    files, offset = [], 0
    for name, inode, end, tail, size in json.loads(head):
        files.append(_File(name, inode, end, tail, data[offset : offset + size]))
        offset += size
    return files


_Job = tuple[str, list[_File]]


def _read_all(jobs: Sequence[_Job]) -> Iterator[tuple[bytes, list[_File]]]:
    """Read runs, of each of which the folder is given, and what is kept of its files; many on all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if cores < 2 or len(jobs) < _MANY or threading.active_count() > 1 or "torch" in sys.modules:
        yield from map(_read_run, jobs)  # a fork in the middle of threads is none
        return
    from concurrent.futures import ProcessPoolExecutor  # 40 ms, for many runs only
    from multiprocessing import get_context

    with ProcessPoolExecutor(cores, get_context("fork")) as pool:
        yield from pool.map(_read_run, jobs, chunksize=20)


def _read_run(job: _Job) -> tuple[bytes, list[_File]]:
    """Return the outline of a run as bytes, and what is to be kept of its files."""
    folder, known = job
    former = {file.name: file for file in known}
    files: list[_File] = []

    def take(path: Path) -> list[Part]:
        name = os.path.relpath(path, folder)
        parts, file = _read_file(path, name, former.get(name))
        files.append(file)
        return parts

    with interpreter.paused():
        return _as_bytes(read_outline(folder, take)), files


def _read_file(path: Path, name: str, known: _File | None) -> tuple[list[Part], _File]:
    """Return the parts of a file, of which only what was added is read, and what is to be kept of it."""
    with open(path, "rb") as opened:
        inode = os.fstat(opened.fileno()).st_ino
        offset = 0 if known is None or known.inode != inode else _read_to(opened, known)
        opened.seek(offset)
        data = opened.read()
    size = data.rfind(b"\n") + 1
    if parts_in(data[size:]):  # a last line without an end that is whole; one that is being written is read later
        size = len(data)
    parts = unpack(known.data) if known is not None and offset else []
    append(parts, parts_in(data[:size]))
    tail = (known.tail if known is not None and offset else "") + data[max(0, size - _TAIL) : size].hex()
    return parts, _File(name, inode, offset + size, tail[-2 * _TAIL :], pack(parts))


def _read_to(opened: Any, known: _File) -> int:
    """Return to where a file was read, 0 where it is another one by now."""
    tail = bytes.fromhex(known.tail)
    opened.seek(known.offset - len(tail))
    is_same = opened.read(len(tail)) == tail
    if is_same and not tail.endswith(b"\n"):  # a record whose line had no end is whole only if it ends now
        is_same = opened.read(1) in (b"\n", b"")
    return known.offset if is_same else 0


def _sealed(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little") + data


def _checked(sealed: bytes) -> bytes:
    data = sealed[4:]
    if zlib.crc32(data).to_bytes(4, "little") != sealed[:4]:
        raise sqlite3.DatabaseError("an entry of the index is damaged")
    return data


# --------------------------------------------------------------------------------------------------------- outlines
def read_outline(folder: str | os.PathLike[str], take: Callable[[Path], list[Part]] | None = None) -> Outline:
    """Read a run.

    Args:
        folder: Its folder.
        take: Returns the parts of a file of records, which are then those of its own starts alone. None reads them,
            for a fork those of the run that it branched off too.
    """
    path = Path(folder)
    try:
        outline = Outline(path, starts=read_starts(path))
        outline.config = read_config(path, outline.training)
    except ValueError as error:
        return Outline(path, mistake=str(error))
    outline.environment = _environment(led_to_end(outline.starts))
    own = metrics_of(led_to_end(outline.starts)) if take else ()
    outline.extents = extents_of(join([part for file in own for part in take(file)]) if take else curves_of(outline))
    return outline


def curves_of(outline: Outline, take: Callable[[Path], list[Part]] | None = None) -> list[Curve]:
    """Return the curves of a run, its starts joined, those of a fork from the first iteration on.

    Args:
        outline: The run.
        take: Returns the parts of a file of records; None reads it.
    """
    take = take or (lambda file: parts_in(file.read_bytes()))
    return join([part for file in files_of(outline.starts) for part in take(file)])


def _environment(starts: Sequence[Start]) -> dict[str, Any]:
    env = starts[-1].env() if starts else {}
    kept = ("python", "platform", "lazyengine", "torch", "numpy", "cuda", "device", "gpu", "world_size", "data")
    found = {name: env[name] for name in kept if name in env}
    cpu = env.get("cpu")
    return {**found, "cpu": cpu.get("model", "")} if isinstance(cpu, dict) else found


def extents_of(curves: Any) -> dict[str, Extent]:
    """Return what curves come to by their name."""
    found = {}
    for curve in curves:
        if curve.label == "epoch":
            continue
        values, least, most = curve.values, None, None
        low, high = min(values), max(values)
        if not (math.isfinite(sum(values))):
            finite = [value for value in values if math.isfinite(value)]
            low, high = (min(finite), max(finite)) if finite else (None, None)
        if low is not None and high is not None:
            least, most = Point(curve.steps[values.index(low)], low), Point(curve.steps[values.index(high)], high)
        found[curve.name] = Extent(Point(curve.steps[-1], values[-1]), least, most)
    return found


def _as_bytes(outline: Outline) -> bytes:
    """Return an outline as JSON, with folders as names in that of the run."""

    content = {
        "config": outline.config,
        "starts": [{**vars(start), "folder": os.path.relpath(start.folder, outline.path)} for start in outline.starts],
        "extents": {
            name: [number for point in (e.last, e.least, e.most) if point for number in (point.step, point.value)]
            for name, e in outline.extents.items()
        },
        "environment": outline.environment,
        "mistake": outline.mistake,
    }
    return json.dumps(content).encode()


def _outline_of(root: str, name: str, content: dict[str, Any]) -> Outline:
    path = Path(root, name)
    starts = [Start(**{**start, "folder": path / start["folder"]}) for start in content["starts"]]
    about = (content["config"], starts, _Extents(content["extents"]), content["environment"], content["mistake"])
    return Outline(path, *about)


def find_run_folders(root: str) -> Iterator[tuple[str, str]]:
    """Yield the run folders in a folder and below, each with what tells whether its files changed since."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        files, inner = _listing(folder)
        is_run = any(name in files for name in (RUN_FILE, METRICS_FILE))
        if not is_run and not any(os.path.isfile(os.path.join(folder, name, RUN_FILE)) for name in inner):
            is_run = any(os.path.isfile(os.path.join(folder, name, METRICS_FILE)) for name in inner)  # version 0.1
        if is_run:
            yield folder, _signature(folder, files, inner)
        else:
            waiting += [os.path.join(folder, name) for name in reversed(inner)]


def _listing(folder: str) -> tuple[set[str], list[str]]:
    files, inner = set(), []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    inner.append(entry.name)
            else:
                files.add(entry.name)
    return files, sorted(inner)


def _signature(folder: str, files: set[str], inner: Sequence[str]) -> str:
    names = [name for name in _OF_RUN if name in files]
    names += [f"{start}/{name}" for start in inner if start not in ("code", "tensorboard") for name in _OF_START]
    found = []
    for name in names:
        try:
            about = os.stat(f"{folder}/{name}")
        except OSError:
            continue
        found.append(f"{name} {about.st_size} {about.st_mtime_ns} {about.st_ino}")
    return "\n".join(found)


def read_below(root: str | os.PathLike[str]) -> list[Outline]:
    """Return the runs in a folder and below it, by their path.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    with contextlib.closing(Index(root)) as index:
        return index.read()


def read_outlines(folders: Sequence[str | os.PathLike[str]]) -> list[Outline]:
    """Read runs and folders that hold runs.

    Args:
        folders: Run folders, folders of single starts, ``metrics.jsonl`` files; or folders with such below, which are
            read through their index.

    Raises:
        FileNotFoundError: Something is neither, or a folder holds no run.
        ValueError: The ``run.json`` or the ``config.json`` of a run that was named is damaged.
    """
    found: dict[Path, Outline] = {}
    for folder in folders:
        path = Path(os.path.abspath(folder))
        first, _ = next(find_run_folders(str(path)), ("", ""))
        if first and first != str(path):
            found.update((outline.path, outline) for outline in read_below(path))
            continue
        check_run(path)
        found[path] = read_outline(path)
        if found[path].mistake:
            raise UsageValueError(found[path].mistake)
    return list(found.values())

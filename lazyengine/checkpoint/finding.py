"""Find checkpoints: what a file says of itself, which is newest, which is best. The times of files decide nothing."""

from __future__ import annotations

import functools
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import UsageFileNotFoundError, UsageValueError
from .errors import CheckpointError, UsageCheckpointError, damage_explained
from .form import why_not_resumable
from .pending import Pending, pending_in
from .reading import SkippedObject, verify_checkpoint
from .saving import POINTER

EXTENSIONS = (".pth", ".pt", ".ckpt")
"""How the names of the files end that are looked at."""
_BEST = re.compile(r"best_(.+)_(epoch|iter)_(\d+)\.\w+")
_Path = str | os.PathLike[str]


class Summary(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
        iter: Completed iterations; -1 where it does not say.
        epoch: Completed epochs or passes; -1 where it does not say.
        is_validated: Whether no validation was due any more.
        run_id: The run that wrote it; empty for files of others.
        start: How often that run had been resumed.
        time: When it was written, by the clock of then.
        keys: Its entries.
        flaw: Why no run can be resumed from it, as far as its structure says; empty where nothing does.
        leaves_out: Whether it leaves frozen weights out.
        shards: Name of the folder beside it that holds its sharded tensors; empty where it has none.
    """

    iter: int = -1
    epoch: int = -1
    is_validated: bool = False
    run_id: str = ""
    start: int = 0
    time: str = ""
    keys: tuple[str, ...] = ()
    leaves_out: bool = False
    shards: str = ""
    flaw: str = ""

    def age(self) -> tuple[int, int, bool]:
        """Return what orders the checkpoints of a run; without its first number, the position."""
        return self.start, self.iter, self.is_validated


class _SummaryUnpickler(pickle.Unpickler):
    """Makes dicts, lists, numbers and texts, and nothing else; runs nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):  # how bytes are written
            return lambda *_: b""
        return OrderedDict if (module_name, global_name) == ("collections", "OrderedDict") else SkippedObject

    def persistent_load(self, pid: Any) -> Any:
        return SkippedObject()


def summary_of(path: _Path) -> Summary:
    """Return what a checkpoint says of itself; its tensors are not read. Kept as long as the file is the same.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: It is damaged, or no checkpoint.
    """
    status = os.stat(path)
    return _cached_summary(os.fspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _cached_summary(path: str, size: int, mtime_ns: int) -> Summary:
    with damage_explained(path):
        try:
            return _summary(_skeleton_of(path))
        except MemoryError as error:  # a length that is none: nothing large is read here
            raise ValueError("it asks for more memory than there is") from error


def _skeleton_of(path: str) -> Any:
    """Return the content of a checkpoint with stand-ins for its tensors."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ValueError("its records are compressed")
        with archive.open(name) as file:
            return _SummaryUnpickler(file).load()


def _summary(content: Any) -> Summary:
    meta, loop = _entry(content, "meta", {}), _entry(content, "train_loop", {})
    hub = _entry(_entry(content, "message_hub", {}), "runtime_info", {})
    ends_pass = 0 < _entry(loop, "batch", 0) == loop.get("epoch_length")  # the next pass has not begun
    return Summary(
        iter=_entry(meta, "iter", -1),
        epoch=_entry(meta, "epoch", -1) + ends_pass,
        is_validated=loop.get("val_due") is False,
        run_id=_entry(meta, "run_id", _entry(hub, "first_start", "")),  # the second tells runs of 0.1.0 apart
        start=_entry(meta, "start", 0),
        time=_entry(meta, "time", ""),
        keys=tuple(map(str, content)) if isinstance(content, dict) else (),
        leaves_out=bool(_entry(meta, "frozen", {})),
        shards=os.path.basename(_entry(_entry(content, "shards", {}), "folder", "")),
        flaw=why_not_resumable(content) or "",
    )


def _entry(value: Any, key: str, default: Any) -> Any:
    """Return an entry of a dict; the default where there is none, or one of another type."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, type(default)) and not (isinstance(found, bool) and default == 0) else default


def or_none(function: Callable[[_Path], Any], path: _Path) -> Any:
    """Return the result of a function of a path; None where there is no whole file."""
    try:
        return function(path)
    except (CheckpointError, OSError):
        return None


def run_of(path: _Path) -> str | None:
    """Return which run a checkpoint is of; None where there is no whole one."""
    summary = or_none(summary_of, path)
    return None if summary is None else summary.run_id


def find_latest_checkpoint(folder: _Path) -> str | None:
    """Return the checkpoint that the file ``last_checkpoint`` in ``folder`` names.

    Of a new beginning that a kill cut off it is the first checkpoint, whose pointer was not written any more.

    Returns:
        Its path, or None where there is no ``last_checkpoint``.

    Raises:
        CheckpointError: The name leads out of the folder, or the file does not exist.
    """
    folder = os.path.expanduser(os.fspath(folder))
    pending = pending_in(folder)
    if pending is not None and (path := pending_file(pending)) is not None and _is_in(path, folder):
        return path
    pointer = os.path.join(folder, POINTER)
    if not os.path.isfile(pointer):  # nor does anybody wait at a pipe of that name
        return None
    with open(pointer, encoding="utf-8", errors="replace") as file:
        name = file.read(4096).strip()
    path = os.path.join(folder, name)  # mmengine writes an absolute path, which join keeps
    is_inside = "\0" not in name and os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)
    if not is_inside or not os.path.isfile(path):
        raise UsageCheckpointError(
            f"{pointer} names {name!r}, which is not in the folder {folder}, or does not exist; nothing outside is "
            "loaded because of it. Give the path of the checkpoint itself."
        )
    return os.path.join(folder, os.path.basename(name))


def _is_in(path: str, folder: str) -> bool:
    return os.path.realpath(os.path.dirname(path)) == os.path.realpath(folder)


def pending_file(pending: Pending) -> str | None:
    """Return the first checkpoint of a new beginning, under either name; None where it is not there."""
    if os.path.isfile(pending.draft):
        return pending.draft
    return pending.path if run_of(pending.path) == pending.run_id else None


def list_checkpoints(*folders: _Path) -> list[str]:
    """Return the checkpoint files in folders, newest first.

    Files that cannot be read come first, since nothing says how old they are; then those of the run that the pointer's
    file belongs to (without a pointer, the run that saved last), the furthest position first, of several at one
    position the pointer's. What an earlier start of that run had saved beyond the pointer, before it was resumed from a
    checkpoint further back, comes after that.
    """
    found: dict[str, Summary | None] = {}
    places = [os.path.expanduser(os.fspath(given)) for given in folders]
    pendings = [pending for place in places if (pending := pending_in(place)) is not None]
    for place in places:
        for entry in os.scandir(place) if os.path.isdir(place) else ():
            is_checkpoint = not entry.name.startswith(".") and entry.name.endswith(EXTENSIONS) and entry.is_file()
            if is_checkpoint and not any(pending.hides(entry.path) for pending in pendings):
                found[entry.path] = or_none(summary_of, entry.path)
    first = [path for pending in pendings if (path := pending_file(pending)) is not None]
    new = [path for path in first if any(_is_in(path, place) for place in places)]
    found = {path: s for path, s in found.items() if not any(os.path.samefile(path, each) for each in new)}
    found |= {path: or_none(summary_of, path) for path in new}
    pointers = new or [or_none(find_latest_checkpoint, place) for place in places]
    pointed = [s for path in pointers if (s := found.get(path)) is not None]
    readable = [s for s in found.values() if s is not None]
    latest = max(pointed, key=Summary.age) if pointed else max(readable, key=lambda s: s.time, default=Summary())

    def order(path: str) -> tuple[Any, ...]:
        s, numbers = found[path], [int(n) for n in re.findall(r"\d{1,18}", os.path.basename(path))]
        if s is None:
            return True, numbers, path
        is_given_up = s.start < latest.start and s.age()[1:] > latest.age()[1:]
        is_whole = "train_loop" in s.keys
        is_pointed = path in pointers
        return False, s.run_id == latest.run_id, not is_given_up, s.iter, is_whole, s.age(), is_pointed, numbers, path

    return sorted(found, key=order, reverse=True)


def find_valid_checkpoint(
    folder: _Path | Sequence[_Path],
    on_reject: Callable[[str, str], object] | None = None,
    reject_if: Callable[[str], str | None] | None = None,
) -> str | None:
    """Return the newest checkpoint in a folder, or several, whose content has the checksums saved with it.

    A file further on than the one that the pointer names is newer: a run killed between renaming a checkpoint and
    replacing the pointer has left one (see ``list_checkpoints``).

    Args:
        folder: Where to look.
        on_reject: Called with the path and the reason for every newer file that is not taken.
        reject_if: Called with each path whose content is whole; a reason that it returns rejects the file.

    Returns:
        The path, or None where no valid checkpoint is.
    """
    for path in list_checkpoints(*([folder] if isinstance(folder, (str, os.PathLike)) else folder)):
        try:
            verify_checkpoint(path)
            reason = reject_if(path) if reject_if is not None else None
        except (CheckpointError, OSError) as error:
            reason = str(error)
        if reason is None:
            return path
        if on_reject is not None:
            on_reject(path, reason)
    return None


def best_of_name(path: _Path) -> tuple[str, str, int] | None:
    """Return metric, unit and number in the name ``best_<metric>_<epoch or iter>_<number>``; None for other names."""
    found = _BEST.fullmatch(os.path.basename(path))
    return None if found is None else (found[1], found[2], int(found[3]))


def find_best_checkpoints(folder: _Path) -> dict[str, str]:
    """Return the path of the newest best checkpoint of each metric (as it stands in file names) in a folder."""
    best: dict[str, str] = {}
    for path in list_checkpoints(folder):
        if name := best_of_name(path):
            best.setdefault(name[0], path)
    return best


def find_checkpoint(run: _Path | Sequence[_Path], which: str | int = "latest") -> str:
    """Return a checkpoint of a run.

    Args:
        run: The run folder, or several where its checkpoints lie.
        which: ``"latest"`` for the newest whole one, as a resume takes it; ``"best"``; or a number of iterations. Where
            earlier runs have left theirs, those of the newest run count.

    Raises:
        FileNotFoundError: There is none; the message lists what there is.
        ValueError: Several metrics have a best checkpoint, or `which` is something else.
    """
    folders = [run] if isinstance(run, str | os.PathLike) else list(run)
    if which == "latest":
        newest = find_valid_checkpoint(folders)
        found = [] if newest is None else [newest]
    elif which == "best":
        found = [path for folder in folders for path in find_best_checkpoints(folder).values()]
    elif isinstance(which, int):
        found = [p for p in list_checkpoints(*folders) if (s := or_none(summary_of, p)) is not None and s.iter == which]
        found = found[:1]
    else:
        raise UsageValueError(f"checkpoint {which!r}: expected 'best', 'latest' or a number of iterations.")
    where = " and ".join(str(folder) for folder in folders)
    if not found:
        what = f"checkpoint of iteration {which}" if isinstance(which, int) else f"{which} checkpoint"
        raise UsageFileNotFoundError(
            f"there is no {what} in {where}; it holds "
            f"{', '.join(sorted(map(os.path.basename, list_checkpoints(*folders)))) or 'no checkpoint'}. Name the "
            "folder with --work-dir, or a file with --checkpoint PATH"
        )
    if len(found) > 1:
        raise UsageValueError(f"{where} has the best checkpoints of several metrics, name one: {', '.join(found)}")
    return found[0]

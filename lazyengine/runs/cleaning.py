"""Delete checkpoints of old runs that nothing needs any more."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import (
    POINTER,
    CheckpointError,
    find_best_checkpoints,
    find_latest_checkpoint,
    list_checkpoints,
    or_none,
    remove_checkpoint,
    summary_of,
)
from ..checkpoint.shards import shards_of
from ..errors import UsageFileNotFoundError, UsageValueError
from ..record import RUN_FILE, read_run_file
from ..text import listed

KEEP = ("best", "last")
_ADVICE = (
    "Restore it, or move it away; until then nothing is deleted, since its run may need a checkpoint of another one."
)


@dataclass(frozen=True)
class Cleaned:
    """What `clean` did in a folder.

    Attributes:
        folder: A run folder, or the folder of a start that holds what an earlier run left.
        deleted: Names of the checkpoints that were deleted, or would be.
        kept: Names of those that stay.
        num_bytes: Size of the deleted ones.
        reason: Why nothing was deleted, where there was something; else empty.
    """

    folder: str
    deleted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    num_bytes: int = 0
    reason: str = ""


def clean(
    root: str | os.PathLike[str], *, keep: Sequence[str] = KEEP, older_s: float = 30 * 86400.0, dry_run: bool = False
) -> list[Cleaned]:
    """Delete checkpoints of the runs below a folder; records, logs, configs and code stay.

    A checkpoint is deleted only if its name is one that lazyengine gives to its own position. Copies under other names
    stay, and so do checkpoints that another run below `root` went on from.

    Args:
        root: A run folder, or a folder of run folders, at any depth.
        keep: What stays of each run: ``"best"``, ``"last"``, or both.
        older_s: Seconds since anything was written into a folder, below which it is left alone.
        dry_run: Whether to find out only what would be deleted.

    Returns:
        An entry for each folder with checkpoints.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: `keep` holds another word, or a ``run.json`` is damaged, whose run may need what is to be deleted.
    """
    if not os.path.isdir(root):
        raise UsageFileNotFoundError(f"{os.fspath(root)} is no folder; name one with runs in it.")
    if unknown := [word for word in keep if word not in KEEP]:
        raise UsageValueError(f"keep={','.join(keep)}: {listed(unknown)} is not accepted; choose of {listed(KEEP)}.")
    folders = [Path(folder) for folder, _, _ in os.walk(root) if list_checkpoints(folder)]
    parents = set(_parents_of_forks(Path(root)))
    return [_clean_folder(folder, keep, older_s, dry_run, parents) for folder in sorted(folders)]


def _clean_folder(folder: Path, keep: Sequence[str], older_s: float, dry_run: bool, parents: set[str]) -> Cleaned:
    checkpoints = list_checkpoints(folder)
    names = [os.path.basename(path) for path in checkpoints]
    if reason := _why_not(folder, older_s):
        return Cleaned(str(folder), kept=names, reason=reason)
    needed = set(_needed(folder, keep)) | parents
    own_names = _own_names(folder)
    stale = [path for path in checkpoints if _is_own(path, own_names) and os.path.realpath(path) not in needed]
    num_bytes = sum(map(_size, stale))
    deleted = [os.path.basename(path) for path in stale]
    if not dry_run:
        if os.path.basename(_pointed(folder) or "") in deleted:
            os.remove(folder / POINTER)  # before the file that it names
        for path in stale:
            remove_checkpoint(path)
    return Cleaned(str(folder), deleted, [name for name in names if name not in deleted], num_bytes)


def _why_not(folder: Path, older_s: float) -> str:
    """Return why a folder is left alone, or an empty text."""
    home = folder if (folder / RUN_FILE).is_file() else folder.parent if (folder.parent / RUN_FILE).is_file() else None
    if home is not None:
        try:
            last = read_run_file(home, _ADVICE)["starts"][-1:]
        except UsageValueError as error:
            return str(error)
        if any(start.get("ended") is None and _is_alive(start) for start in last):
            return "a start is at work in it"
    files = [os.path.join(inside, name) for inside, _, names in os.walk(folder) for name in names]
    age_s = time.time() - max((os.lstat(file).st_mtime for file in files), default=0.0)
    return f"written {age_s / 86400:.1f} days ago" if age_s < older_s else ""


def _is_alive(start: dict[str, Any]) -> bool:
    """Whether the process of a start is there; of another host nobody can say, so that its age decides."""
    try:
        os.kill(int(start["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
        return False
    except PermissionError:
        pass  # it is there, and somebody else's
    return start.get("host") == os.uname().nodename


def _needed(folder: Path, keep: Sequence[str]) -> Iterator[str]:
    """Yield the real paths of what stays."""
    if "last" in keep:
        newest = (path for path in list_checkpoints(folder) if or_none(summary_of, path) is not None)
        yield from (os.path.realpath(path) for path in (_pointed(folder), next(newest, None)) if path)
    if "best" in keep:
        yield from map(os.path.realpath, find_best_checkpoints(folder).values())


def _pointed(folder: Path) -> str | None:
    """Return the file that the pointer names; None where there is no pointer, or a wrong one."""
    try:
        return find_latest_checkpoint(folder)
    except CheckpointError:
        return None


def _own_names(folder: Path) -> list[re.Pattern[str]]:
    """Return what the names of a run's checkpoints look like: the usual ones, and those that its config gives."""
    names = [r"preempted\.pth", r"(?:best_.+_)?(?:epoch|iter)_(?P<number>\d+)\.\w+"]
    for file in (folder / "config.json", folder.parent / "config.json"):
        if file.is_file():
            for template in re.findall(r'"filename_tmpl": "([^"]+)"', file.read_text(encoding="utf-8")):
                names.append(re.escape(template).replace(r"\{\}", r"(?P<number>\d+)"))
    return [re.compile(name) for name in names]


def _is_own(path: str, own_names: list[re.Pattern[str]]) -> bool:
    """Whether a file is called as lazyengine calls a checkpoint of its position."""
    summary = or_none(summary_of, path)
    if summary is None or not summary.keys:
        return False
    found = [match for name in own_names if (match := name.fullmatch(os.path.basename(path)))]
    numbers = [match.groupdict().get("number") for match in found]
    return any(number is None or int(number) in (summary.iter, summary.epoch) for number in numbers)


def _parents_of_forks(root: Path) -> Iterator[str]:
    """Yield the real paths of the checkpoints of other runs that runs below a folder went on from.

    Raises:
        UsageValueError: A ``run.json`` is damaged, so that nobody knows what its run went on from.
    """
    for file in root.rglob(RUN_FILE):
        content = read_run_file(file.parent, _ADVICE)
        origins = [start["from"] for start in content["starts"] if start.get("from")]
        others = [str(each.get("path")) for each in origins if each.get("run_id") != content.get("run_id")]
        yield from (os.path.realpath(os.path.join(folder, path)) for folder in ("", file.parent) for path in others)


def _size(path: str) -> int:
    files = [path]
    for shards in shards_of(path):
        files += [os.path.join(folder, name) for folder, _, names in os.walk(shards) for name in names]
    return sum(map(os.path.getsize, files))

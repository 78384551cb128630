"""The run folder: whose it is, what each of its starts did, and what an earlier run left in it.

``run.json`` holds the identity of the run whose weights are in the folder and a record of every start. It is replaced
as a whole. A run that begins anew in a used folder leaves everything as it is until its first checkpoint is complete;
then what the earlier run left is moved into the folder of that run's last start, by a journal in ``run.json`` that the
next start finishes.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import json
import logging
import os
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import __version__, dist
from .. import checkpoint as ckpt
from ..checkpoint.finding import EXTENSIONS, Summary, best_of_name
from ..checkpoint.shards import shards_of
from ..config import LazyConfig, set_argument, sources_of
from ..config.graph import display_path
from ..errors import UsageOSError
from ..fileio import atomic_write
from ..logging import METRICS_FILE, print_log
from ..record import ENV_FILE, FORMAT, RUN_FILE, START_FILE, code_of_start, read_run_file, write_env
from .lock import FolderBusyError, FolderLock

CONFIGS = ("config.py", "config.json")
_START = re.compile(r"\d{8}_\d{6}(_\d+)?")
TIME = "{time}"
"""In the path of a run folder: the time of the start, so that each one has a folder of its own."""
EARLIER = "earlier"
"""Where the files of a run go that has no folder of a start, and those of others that are in the way."""


def settle_work_dir(cfg: Any) -> str | None:
    """Let a config that lies in a run folder mean that folder, wherever it is now: a copied run is the copy's.

    What was set from outside of its file (``--work-dir``, an override, code) stays.

    Args:
        cfg: A loaded config; its ``runner.work_dir`` is set.

    Returns:
        The run folder that the config lies in and means from now on; None for any other config.
    """
    file = str(getattr(cfg, "__file__", ""))
    at = os.path.dirname(file)
    if os.path.basename(file) != CONFIGS[0]:
        return None
    if any(os.path.isfile(os.path.join(at, name)) for name in (RUN_FILE, ckpt.POINTER)):
        folder = at
    elif os.path.isfile(os.path.join(at, ENV_FILE)):  # of a start
        folder = os.path.normpath(os.path.join(at, ".."))
    else:
        return None
    sources = sources_of(cfg.runner, "work_dir")
    if sources and sources[-1].rpartition(":")[0] != display_path(file):
        return None
    folder = display_path(folder)
    set_argument(cfg.runner, "work_dir", folder, source="the run folder that the config lies in")
    return folder


class RunFolder:
    """The folder of a run, with one folder inside for each start.

    Args:
        path: The run folder; made by `begin`. ``{time}`` in it becomes the time of the start then.

    Attributes:
        path: The run folder.
        timestamp: Name of this start's folder; empty before `begin`.
        run_id: The run that this start belongs to; empty in an evaluation.
        start: The number of this start in the folder, from 1; orders starts without a clock.
        left_out: Indices of training samples that a supervisor left out; noted with the start.
        on_request: Called in another thread with what somebody asks the training for, see `Preemption.ask`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.timestamp = ""
        self.run_id = ""
        self.start = 0
        self.left_out: list[int] = []
        self.on_request: Callable[[str], object] | None = None
        self._lock: FolderLock | None = None
        self._is_settled = False

    @property
    def log_dir(self) -> str:
        """Path of this start's folder."""
        return os.path.join(self.path, self.timestamp)

    @property
    def log_file(self) -> str:
        """Path of this start's log."""
        return os.path.join(self.log_dir, f"{self.timestamp}.log")

    @property
    def evaluation_dir(self) -> str:
        """Path of the folder of an evaluation: this start's, or one in it where it trains, whose records stay."""
        return os.path.join(self.log_dir, "evaluation") if self.start else self.log_dir

    # ------------------------------------------------------------------ a start
    def begin(self, cfg: Any, device: torch.device) -> None:
        """Make the folder of this start and write what it is about into it. Collective: every rank must call."""
        names = [*self._make_start()] if dist.is_main_process() else ["", ""]
        dist.broadcast_object_list(names)
        is_named_by_time = names[0] != self.path
        self.path, self.timestamp = names
        if is_named_by_time and cfg is not None:  # what is saved repeats the run where it is
            set_argument(cfg.runner, "work_dir", self.path, source="the time of the start")
        if dist.is_main_process():
            write_env(os.path.join(self.log_dir, ENV_FILE), device)
            if cfg is not None:
                for name in CONFIGS:
                    LazyConfig.save(cfg, os.path.join(self.log_dir, name))

    def take(self) -> str | None:
        """Hold the folder for one training, and finish a move that a kill cut off. For the main process.

        Returns:
            Whose lock was taken over, or None.

        Raises:
            FolderBusyError: When another training is at work in it.
        """
        self._lock = FolderLock(self.path, self.on_request)
        former = self._lock.acquire()
        try:
            self._finish_move()
        except BaseException:
            self.leave()
            raise
        return former

    def leave(self) -> None:
        """Release the folder; `take` is called again before another training."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def record_start(
        self,
        source: dict[str, Any] | None,
        changes: Sequence[dict[str, Any]] = (),
        *,
        is_fork: bool = False,
        weights: dict[str, Any] | None = None,
        passed_over: dict[str, Any] | None = None,
    ) -> None:
        """Write this start, which trains, into ``run.json``. For the main process.

        Args:
            source: The checkpoint that it goes on from (``run_id``, ``path``, ``iter``, ``epoch``, ``hash``), or None.
            changes: What differs from that checkpoint's experiment, and what becomes of it.
            is_fork: Whether that checkpoint lies elsewhere: then this is another run, with an identity of its own.
            weights: What `load_from` named instead: ``path``, and of a checkpoint ``run_id`` and ``iter``.
            passed_over: The newest checkpoint (``path``, ``iter``), where `source` is another one; noted until this
                start saves one itself.
        """
        record = self.read()
        self.start = 1 + max((each.get("start", 0) for each in record["starts"]), default=self.start)
        continued = None if source is None or is_fork else source["run_id"]
        self.run_id = continued or self.run_id or os.urandom(8).hex()
        record["run_id"] = record["run_id"] or continued or ""  # of version 0.1, whose run goes on
        entry = self._entry("train", source)
        entry |= {"weights": weights, "code": None, "changes": list(changes), "ended": None}
        entry |= {"left_out": self.left_out} if self.left_out else {}
        record["starts"].append(entry if passed_over is None else {**entry, "passed_over": passed_over})
        self._write(record)

    def record_evaluation(self, source: dict[str, Any] | None) -> None:
        """Write where an evaluation writes that it is one: it needs no lock, so ``run.json`` is not its to write.

        Args:
            source: The checkpoint of its weights, as in `record_start`; None for those that the model has.
        """
        os.makedirs(self.evaluation_dir, exist_ok=True)
        with atomic_write(os.path.join(self.evaluation_dir, START_FILE), "w", encoding="utf-8") as file:
            json.dump(self._entry("evaluate", source), file, indent=1)

    def _entry(self, kind: str, source: dict[str, Any] | None) -> dict[str, Any]:
        """Return what is recorded of each start."""
        return {
            "start": self.start,
            "kind": kind,
            "run_id": self.run_id,
            "folder": self.timestamp,
            "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "command": sys.orig_argv,
            "versions": {
                "lazyengine": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "from": source,
        }

    def code_of(self, run_id: str | None, start: int) -> str | None:
        """Return the hash of the code of a start of a run, or its last one's; None where none was kept here."""
        found = [each for each in self.read()["starts"] if run_id and each.get("run_id") == run_id]
        found = [each for each in found if each["start"] == start] or found
        codes = (each.get("code") or code_of_start(os.path.join(self.path, each["folder"])) for each in reversed(found))
        return next(filter(None, codes), None)

    def record_end(self, how: str, iteration: int, reason: str = "", code: str | None = None) -> None:
        """Write into ``run.json`` how this start ended: ``finished``, ``stopped`` or ``failed``. Main process."""
        record = self.read()
        for each in record["starts"]:
            if each["start"] == self.start and each["folder"] == self.timestamp:
                each["ended"] = {"how": how, "iter": iteration, "reason": reason}
                each["code"] = code
                # a full disk is no reason to hide why the run ended, and another one's folder keeps its record
                with contextlib.suppress(OSError, FolderBusyError):
                    self._write(record)

    def record_decision(self, decision: dict[str, Any]) -> None:
        """Write into ``run.json`` what a supervisor has decided, between two trainings.

        Raises:
            FolderBusyError: When a training is at work in it.
        """
        self.take()
        try:
            record = self.read()
            record["decisions"] = [*record.get("decisions", ()), decision]
            self._write(record)
        finally:
            self.leave()

    def read(self) -> dict[str, Any]:
        """Return the content of ``run.json``; of a folder without one, an empty record.

        Raises:
            UsageValueError: It is damaged, or of a later version. It is never written over.
        """
        advice = (
            "It says whose the files of the folder are, so nothing is trained here: restore it, or move it away, and "
            "the checkpoints say it themselves."
        )
        record = read_run_file(self.path, advice)
        return {"format": FORMAT, "run_id": "", **record, "starts": list(record.get("starts", []))}

    # ------------------------------------------------------------------ what lies in the folder
    def make_room(self, draft: str, path: str) -> None:
        """Prepare for the first checkpoint of this start, now that it is complete. For the main process.

        Writes down what is going to happen, and moves what an earlier run left. Called before each rename of a
        checkpoint; makes sure that the folder is still this process's.

        Args:
            draft: The complete file, under its temporary name.
            path: The name that it gets.

        Raises:
            FolderBusyError: When another process has taken the folder over.
        """
        self._check_lock()
        if self._is_settled or not self._is_of_the_run(path):
            self._put_aside(path)
            return
        record, folder = self.read(), os.path.dirname(path)
        names = tuple(self._left_by_others(folder, record["run_id"]))
        pending = ckpt.Pending(self.start, self.run_id, folder, names, self._last_start_of(record), draft, path)
        self._write({**record, "moving": pending.as_journal(self.path)})
        try:
            self._move(pending)
            self._put_aside(path)
        except BaseException:  # a full disk: the folder is the earlier run's again
            self._move_back(pending)
            self._write(record)
            raise

    def settle(self, path: str) -> None:
        """Make the folder this run's, with the first checkpoint of this start. For the main process.

        Pointer, config and identity are replaced, in this order: until the last of them, the journal says the same.

        Args:
            path: The checkpoint.
        """
        if not self._is_settled and self._is_of_the_run(path):
            self._finish_adoption(self.read(), path)
            self._is_settled = True

    def moved(self, path: str, folders: Sequence[str]) -> str:
        """Return where a file of one of `folders` is now that an earlier run was moved; other paths as they are."""
        places = [] if os.path.exists(path) else self._places_of(path, folders)
        return next(filter(os.path.isfile, places), path)

    def _is_of_the_run(self, path: str) -> bool:
        """Return whether a checkpoint lies in the run folder, or in one of its name: a hook may save anywhere."""
        place = os.path.basename(os.path.dirname(os.path.abspath(path)))
        return place == os.path.basename(os.path.abspath(self.path))

    def weights_at(self, path: str, folders: Sequence[str]) -> str:
        """Return where the weights are that `load_from` names in one of `folders`.

        An earlier start from the same path has recorded whose they were: another run's file may have that name now.
        """
        places = self._places_of(path, folders)
        starts = self.read()["starts"] if places else []
        known = [each["weights"] for each in starts if (each.get("weights") or {}).get("path") == path]
        wanted = known[-1].get("run_id") if known else None
        if not wanted or ckpt.run_of(path) == wanted:
            return self.moved(path, folders)
        place = next((each for each in places if ckpt.run_of(each) == wanted), path)
        if place != path:
            print_log(f"load_from={path!r}: these weights are in {place} now", logger="current")
        return place

    def sizes_in_starts(self, folders: Sequence[str]) -> list[int]:
        """Return the bytes of each checkpoint, moved from an earlier run, and dump in the folders of earlier starts."""
        entries = (entry for place in self._inside(folders) if os.path.isdir(place) for entry in os.scandir(place))
        return [entry.stat().st_size for entry in entries if entry.name.endswith(EXTENSIONS) and entry.is_file()]

    def holds(self, path: str, folders: Sequence[str]) -> bool:
        """Return whether a checkpoint is one of this folder's runs: in one of `folders`, or moved into a start's."""
        return os.path.realpath(os.path.dirname(path)) in {*map(os.path.realpath, folders), *self._inside(folders)}

    def first_start(self, recorded: Any) -> str:
        """Return the start whose curves a resumed run goes on with: the recorded one, where it is still there."""
        names = [*self._names_of_starts(), *self._unlisted_starts()]  # what a checkpoint says is no path
        is_there = recorded in names and os.path.isdir(os.path.join(self.path, str(recorded)))
        return str(recorded) if is_there else self.timestamp

    def earlier_run(self, folders: Sequence[str]) -> list[str]:
        """Return the folders to which files of an earlier run that lie in `folders` would be moved."""
        record = self.read()
        used = [folder for folder in folders if self._left_by_others(folder, record["run_id"])]
        return [os.path.join(folder, self._last_start_of(record)) for folder in used]

    # ------------------------------------------------------------------ inside
    def _names_of_starts(self) -> list[str]:
        return [each["folder"] for each in self.read()["starts"]]

    def _inside(self, folders: Sequence[str]) -> set[str]:
        """Return the folders inside of `folders` in which files of starts and of earlier runs are."""
        names = (*self._names_of_starts(), EARLIER)
        return {os.path.realpath(os.path.join(folder, name)) for folder in folders for name in names}

    def _places_of(self, path: str, folders: Sequence[str]) -> list[str]:
        """Return where a file of one of `folders` may have been moved, the newest first; nothing for other files."""
        at, name = os.path.split(path)
        if os.path.realpath(at) not in map(os.path.realpath, folders):
            return []
        return [os.path.join(at, start, name) for start in (*reversed(self._names_of_starts()), EARLIER)]

    def _left_by_others(self, folder: str, run_id: str) -> list[str]:
        """Return what belongs to the run that holds the folder now: its checkpoints and shards, pointer and config.

        A file without a run's mark belongs to it where its name is one that this engine gives; copies stay.
        """
        names = []
        for path in ckpt.list_checkpoints(folder):
            with contextlib.suppress(ckpt.CheckpointError, OSError):  # what cannot be read stays
                summary, name = ckpt.summary_of(path), os.path.basename(path)
                is_of_it = summary.run_id == (run_id or summary.run_id)
                if is_of_it and summary.run_id != self.run_id and not _is_copy(path, summary):
                    own = [os.path.basename(shards) for shards in shards_of(path)]
                    names += [name, *(shards for shards in own if shards == summary.shards)]
        if names:
            names += [name for name in (ckpt.POINTER, *CONFIGS) if os.path.isfile(os.path.join(folder, name))]
        return names

    def _last_start_of(self, record: dict[str, Any]) -> str:
        """Return the folder of the last start of the run that holds the folder now; of version 0.1, the last one."""
        starts = [each["folder"] for each in record["starts"] if each.get("run_id") == record["run_id"]]
        if not starts:  # a refused start has a folder too, and recorded nothing
            trained = [os.path.join(self.path, name, METRICS_FILE) for name in self._unlisted_starts()]
            starts = [os.path.basename(os.path.dirname(file)) for file in trained if os.path.isfile(file)]
        known = [name for name in starts if name == os.path.basename(name) and name != self.timestamp]
        return known[-1] if known else EARLIER

    def _unlisted_starts(self) -> list[str]:
        """Return the folders that are called as those of starts, oldest first: version 0.1 kept no list."""
        names = [entry.name for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False)]
        return sorted(name for name in names if _START.fullmatch(name) and name != self.timestamp)

    def _finish_move(self) -> None:
        """Finish what a kill cut off between a complete first checkpoint and the settling of its start."""
        record = self.read()
        if record.get("moving") is None:
            return
        pending = ckpt.pending_of(record["moving"], self.path)
        if os.path.isfile(pending.draft):
            self._move(pending)
            self._put_aside(pending.path)
            os.replace(pending.draft, pending.path)
        if ckpt.run_of(pending.path) == pending.run_id:
            self._finish_adoption(record, pending.path)
        else:  # there is no such checkpoint any more
            self._move_back(pending)
            self._write({key: value for key, value in record.items() if key != "moving"})

    def _move(self, pending: ckpt.Pending) -> None:
        """Move files into the folder of an earlier start, those that are still there; never onto another one."""
        for name, source, kept in pending.moves():
            if name in CONFIGS and _are_equal(source, kept):
                os.remove(source)  # the start began with it, and has it
            elif os.path.lexists(source):
                _move_into(source, os.path.dirname(kept))

    def _move_back(self, pending: ckpt.Pending) -> None:
        """Undo `_move`, as far as it came."""
        for name, source, kept in pending.moves():
            if os.path.lexists(kept) and not os.path.lexists(source):
                if name in CONFIGS:  # the start keeps its own
                    shutil.copyfile(kept, source)
                else:
                    os.rename(kept, source)

    def _put_aside(self, path: str) -> None:
        """Move what is about to be replaced, and is not of this run, out of the way: nothing is written over."""
        own = ckpt.or_none(ckpt.summary_of, path)
        is_own = own is not None and own.run_id == self.run_id and not _is_copy(path, own)
        if os.path.lexists(path) and not is_own:
            self._put_into_earlier(path)

    def _put_into_earlier(self, path: str) -> None:
        to = _move_into(path, os.path.join(os.path.dirname(path), EARLIER))
        print_log(f"{path} is not of this run; it was moved to {to}", logger="current", level=logging.WARNING)

    def _finish_adoption(self, record: dict[str, Any], path: str) -> None:
        """Let the folder be of the start that the journal names: its pointer, the config that it began with, its id."""
        number = record.pop("moving", {"start": self.start})["start"]
        pointer = os.path.join(os.path.dirname(path), ckpt.POINTER)
        if not _names_same_run(pointer, path):  # of a run that is resumed, it may stay where it is
            if os.path.lexists(pointer):
                self._put_into_earlier(pointer)
            if best_of_name(path) is None:  # the regular ones follow
                ckpt.mark_latest_checkpoint(path)
        start = next((each for each in record["starts"] if each["start"] == number), None)
        if start is not None:
            record["run_id"] = start["run_id"]
            start.pop("passed_over", None)
            for name in CONFIGS:
                self._take_config(name, start["folder"])
        self._write(record)

    def _take_config(self, name: str, start: str) -> None:
        """Replace a config of the folder by that of a start; what is nowhere else in the folder is moved away."""
        target, own = os.path.join(self.path, name), os.path.join(self.path, start, name)
        if not os.path.isfile(own) or _are_equal(own, target):
            return
        starts = [*self._names_of_starts(), *self._unlisted_starts()]
        is_kept = any(_are_equal(target, os.path.join(self.path, each, name)) for each in starts)
        if os.path.lexists(target) and not is_kept:
            self._put_into_earlier(target)
        with open(own, "rb") as source, atomic_write(target, ready=self._check_lock) as file:
            file.write(source.read())

    def _write(self, record: dict[str, Any]) -> None:
        file = os.path.join(self.path, RUN_FILE)
        with atomic_write(file, "w", ready=self._check_lock, encoding="utf-8") as opened:
            json.dump(record, opened, indent=1, default=str)

    def _check_lock(self, _: str = "") -> None:
        """Make sure, before a file gets its name, that a folder that was held is still this process's."""
        if self._lock is not None:
            self._lock.check()

    def _make_start(self) -> tuple[str, str]:
        """Make a folder named after the time; a second start in one second gets a number.

        Returns:
            The path of the run folder, and the name of the start's.
        """
        try:
            stamp = time.strftime("%Y%m%d_%H%M%S")
            for number in itertools.count(1):
                name = stamp if number == 1 else f"{stamp}_{number}"
                path = self.path.replace(TIME, name)
                with contextlib.suppress(FileExistsError):
                    if path != self.path:
                        os.makedirs(path)  # a folder of its own
                    os.makedirs(os.path.join(path, name))
                    return path, name
        except OSError as error:
            raise UsageOSError(
                f"the run folder {self.path} cannot be used: {error}; set work_dir to a writable folder."
            ) from error
        raise AssertionError("the loop above returns")


def _is_copy(path: str, summary: Summary) -> bool:
    """Return whether the number in the name of a checkpoint is not that of its position: somebody has renamed it."""
    name = os.path.basename(path)
    usual = re.search(r"(?:epoch|iter)_(\d+)\.\w+$", name)
    numbers = [usual[1]] if usual else re.findall(r"\d+", os.path.splitext(name)[0])
    return bool(numbers) and not {summary.epoch, summary.iter} & set(map(int, numbers))


def _names_same_run(pointer: str, path: str) -> bool:
    """Return whether a pointer names a checkpoint of the run that another one is of."""
    with contextlib.suppress(OSError), open(pointer, encoding="utf-8", errors="replace") as file:
        named = os.path.join(os.path.dirname(path), os.path.basename(file.read(4096).strip()))
        return ckpt.run_of(named) == ckpt.run_of(path) is not None
    return False


def _are_equal(path: str, other: str) -> bool:
    """Return whether two files have the same content; False where one is not there."""
    with contextlib.suppress(OSError):
        return os.path.getsize(path) == os.path.getsize(other) and filecmp.cmp(path, other, shallow=False)
    return False


def _move_into(path: str, folder: str) -> str:
    """Move a file into a folder, onto no other one, and return where it is."""
    os.makedirs(folder, exist_ok=True)
    to = os.path.join(folder, os.path.basename(path))
    to = f"{to}.{os.urandom(4).hex()}" if os.path.lexists(to) else to
    os.rename(path, to)
    return to

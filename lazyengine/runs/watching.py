"""Runs seen from outside: which are at work, how far they are, how they ended; and asking one to stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageFileNotFoundError, UsageRuntimeError, UsageValueError
from ..fileio import atomic_write
from ..logging import read_metrics
from ..record import RUN_FILE
from ..text import listed
from .lineage import how_ended, metrics_of
from .reading import MEASURED, PLACE, Run, read_run

_PROGRESS = re.compile(r"((?:Epoch|Iter)\(train\)[^a-z]*\])")
_ETA = re.compile(r"eta: ((?:\d+ days?, )?[\d:]+)")
_TAIL_BYTES = 20_000
ASKED = ("stop", "save", "validate")
"""What a run can be asked for."""


@dataclass(frozen=True)
class Status:
    """What is seen of a run.

    Attributes:
        folder: Its folder.
        state: ``"running"``, ``"finished"``, ``"pruned"``, ``"stopped"`` (can be resumed), ``"failed"``, or
            ``"killed"`` where its process is gone without a word.
        step: Completed iterations that were recorded.
        progress: How its log says it, such as ``Epoch(train) [2][30/45]``.
        seconds: Duration of an iteration; None where it was not recorded.
        eta: What is left by its log, while it runs.
        loss: The last recorded loss.
        metrics: The last validation.
        reason: Why it ended, or the process that runs.
    """

    folder: str
    state: str
    step: int = 0
    progress: str = ""
    seconds: float | None = None
    eta: str = ""
    loss: float | None = None
    metrics: dict[str, Any] | None = None
    reason: str = ""

    def row(self) -> tuple[str, ...]:
        """Return it as a row of a table."""
        metrics = ", ".join(f"{k} {v:.4g}" for k, v in (self.metrics or {}).items() if isinstance(v, int | float))
        speed = "" if self.seconds is None else f"{1 / max(self.seconds, 1e-9):.3g} it/s"
        loss = "" if self.loss is None else f"{self.loss:.4g}"
        progress = self.progress if self.state == "running" else ""  # its step says where it ended
        return self.folder, self.state, str(self.step), progress, speed, self.eta, loss, metrics, self.reason


HEADER = ("run", "state", "step", "progress", "speed", "eta", "loss", "validation", "reason")


def find_runs(root: str | os.PathLike[str] = "work_dirs") -> list[Status]:
    """Return the state of every run in a folder and below it, those at work first.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not os.path.isdir(root):
        raise UsageFileNotFoundError(f"{os.fspath(root)} is no folder; name one in which runs are.")
    found = []
    for folder, inner, files in os.walk(root):
        if RUN_FILE in files:
            found.append(status_of(folder))
            inner.clear()
    return sorted(found, key=lambda each: (each.state != "running", each.folder))


def status_of(folder: str | os.PathLike[str]) -> Status:
    """Return the state of the run in a folder, from its lock, ``run.json`` and records."""
    name, owner = os.fspath(folder), owner_of(folder)
    try:
        run = read_run(folder)
    except (UsageFileNotFoundError, ValueError) as error:
        return Status(name, "running" if owner else "unknown", reason=str(error).splitlines()[0])
    latest = next((start for start in reversed(run.starts) if start.kind == "train"), None)
    ended = (latest.ended if latest else None) or {}
    how = how_ended(Path(folder), latest) or "killed" if latest else "evaluated"
    state = "running" if owner else how
    reason = f"process {owner.get('pid')} on {owner.get('host')}" if owner else str(ended.get("reason", ""))
    all_records = run.records
    if latest is not None and (passed_over := latest.about.get("passed_over")):
        if owner:
            all_records = read_metrics(metrics_of([latest]))
        else:
            begun, kept = (latest.origin or {}).get("iter"), os.path.basename(passed_over["path"])
            said = f"start {latest.number}, from iteration {begun}, saved nothing; the weights are those of {kept}"
            reason = f"{said}: {reason}" if reason else said
    records = [record for record in all_records if record["mode"] == "train"]
    last = records[-1] if records else {}
    validations = [record for record in all_records if record["mode"] == "val"]
    metrics = {k: v for k, v in (validations[-1] if validations else {}).items() if k not in {*PLACE, *MEASURED}}
    progress, eta = _from_log(run)
    step = max(last.get("step", 0), 0 if owner else ended.get("iter", 0))
    seconds, loss = _last_of(records, "time"), _last_of(records, "loss", "train/loss")
    eta, reason = eta if owner else "", reason.partition("\n")[0]
    return Status(name, state, step, progress, seconds, eta, loss, metrics, reason)


def _last_of(records: list[dict[str, Any]], *names: str) -> Any:
    """Return the last value of one of some names: hooks write records of their own, such as the time by phase."""
    return next((record[name] for record in reversed(records) for name in names if name in record), None)


def _from_log(run: Run) -> tuple[str, str]:
    """Return progress and the rest of the time as the last lines of the log have them."""
    folder = [start.folder for start in run.starts if start.kind == "train"][-1:]
    for log in (path for each in folder for path in each.glob("*.log")):
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        progress, eta = _PROGRESS.findall(text), _ETA.findall(text)
        return progress[-1] if progress else "", eta[-1] if eta else ""
    return "", ""


def owner_of(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the process that trains in a folder (``host``, ``pid``), or None.

    One of another host counts as alive as long as its lock was written in the last minute, by the clock of the files.
    """
    from ..runner import lock  # with all of the engine, which nobody else here needs

    path = os.path.join(folder, lock.NAME)
    owner = lock.read_lock(path)
    if not owner:
        return None
    if owner.get("host") == socket.gethostname():
        return owner if lock.lives_here(owner) else None
    try:
        return owner if time.time() - os.stat(path).st_mtime < lock.SILENT_S else None
    except OSError:
        return None


def stop(folder: str | os.PathLike[str], request: str = "stop") -> int:
    """Ask the run in a folder for something at its next step; return its process.

    On this host the run is asked to stop by SIGTERM; all else is a file in the folder that the run looks for every
    second, also on another host.

    Args:
        folder: The run folder.
        request: ``"stop"``: save and stop, as SIGTERM does. ``"save"``: save a checkpoint ``asked_iter_<N>.pth``, which
            nothing deletes, and go on. ``"validate"``: validate, and go on to the bit as if it had not been.

    Raises:
        ValueError: It is another request.
        FileNotFoundError: There is no such folder.
        RuntimeError: Nothing trains there.
    """
    if request not in ASKED:
        raise UsageValueError(f"a run cannot be asked to {request!r}: expected {listed(ASKED)}.")
    if not Path(folder).is_dir():
        raise UsageFileNotFoundError(f"{os.fspath(folder)} is no folder; lazyengine ps lists the runs.")
    owner = owner_of(folder)
    if owner is None:
        raise UsageRuntimeError(f"nothing trains in {os.fspath(folder)}; lazyengine ps lists what does.")
    pid = int(owner["pid"])
    if request == "stop" and owner["host"] == socket.gethostname():
        os.kill(pid, signal.SIGTERM)
    else:
        from ..runner.lock import REQUEST

        with atomic_write(os.path.join(folder, REQUEST), "w", encoding="utf-8") as file:
            file.write(request)
    return pid

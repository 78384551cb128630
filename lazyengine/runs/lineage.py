"""The starts of a run, in the order in which they were made: from ``run.json``, or from the names of their folders."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import Pending, pending_in
from ..logging import METRICS_FILE
from ..record import PRUNED_FILE, RUN_FILE, START_FILE, code_of_start, read_env, read_run_file

_ADVICE = "Restore it, or move it away: the starts are then ordered by the names of their folders."


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        number: Its place in the order of starts, from 1; those of version 0.1 beside a ``run.json`` come before.
        kind: ``"train"``, or ``"evaluate"`` where it only evaluated.
        folder: Its folder.
        run_id: The run that it belongs to; empty in folders without ``run.json``.
        origin: The checkpoint that it went on from (``run_id``, ``path``, ``iter``, ``epoch``, ``hash``), or None.
        changes: What was changed there: ``path``, ``was``, ``is``, ``effect``, ``from_iter``, ``why``.
        code: The version of the code, as ``code/<hash>.zip``, or None.
        ended: How it ended (``how``, ``iter``, ``reason``); None while it runs, after a kill, and where nobody knows.
        about: What ``run.json`` holds besides: time, host, process, command, versions; and ``passed_over``, the newest
            checkpoint, as long as this start, which went on from another one, has saved nothing.
    """

    number: int
    kind: str
    folder: Path
    run_id: str = ""
    origin: dict[str, Any] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    code: str | None = None
    ended: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def is_fork(self) -> bool:
        """Whether it went on from a checkpoint of another run."""
        return self.origin is not None and self.origin.get("run_id") not in (None, self.run_id)

    @property
    def has_trained(self) -> bool:
        """Whether it did an iteration, as far as its folder knows."""
        if self.ended is None:
            return self.metrics.is_file()
        return int(self.ended.get("iter") or 0) > (self.origin["iter"] if self.origin else 0)

    @property
    def has_recorded(self) -> bool:
        """Whether it did an iteration, or only the validation that was due."""
        if self.has_trained:
            return True
        return self.metrics.is_file() and any(m not in ("", "resume") for m, _ in _lines_by_mode(self.metrics))

    @property
    def metrics(self) -> Path:
        """The file of its records; it may not be there."""
        return self.folder if self.folder.is_file() else self.folder / METRICS_FILE

    def env(self) -> dict[str, Any]:
        """Return the content of ``env.json``; empty where there is none, or a damaged one."""
        return read_env(self.folder)


def read_starts(path: Path) -> list[Start]:
    """Return the starts of the run that a folder holds now, in the order of their counter.

    Starts of runs that began there earlier are left out. Where there is no ``run.json``, folders are ordered by their
    names, which are times; one that recorded evaluations alone, beside others that trained, is an evaluation.

    Args:
        path: A run folder, the folder of one start, or a ``metrics.jsonl``.

    Raises:
        ValueError: ``run.json`` is damaged, or of a later version.
    """
    content = read_run_file(path, _ADVICE)
    folder = path.parent if path.is_file() else path
    with contextlib.suppress(ValueError):  # the folder above is not what is asked for
        above = _listed(folder.parent, read_run_file(folder.parent, _ADVICE)) if not content else []
        if alone := [dataclasses.replace(start, folder=path) for start in above if start.folder == folder]:
            return alone
    if path.is_file():
        return [_unlisted(1, path)]
    listed = _listed(path, content)
    known = {start.folder.name for start in listed}
    folders = [path]
    with contextlib.suppress(OSError), os.scandir(path) as entries:  # it may be deleted meanwhile
        folders += [path / entry.name for entry in entries if entry.name not in known and entry.is_dir()]
    files = [file for file in (folder / METRICS_FILE for folder in folders) if file.is_file()]
    files.sort(key=lambda file: [(int(n or -1), text) for n, text in re.findall(r"(\d+)|(\D+)", str(file.parent))])
    pending = begun_anew(path) if content.get("moving") is not None else None
    run_id = content.get("run_id") if pending is None else pending.run_id
    newest = next((start.run_id for start in reversed(listed) if start.kind == "train"), "")
    own = [start for start in listed if start.run_id == (run_id or newest)]
    for start in own:
        if pending is not None and start.number == pending.start:
            start.about.pop("passed_over", None)
    first = 1 - len(files) if own else 1
    unlisted = [_unlisted(number, file.parent) for number, file in enumerate(files, first)]
    trained = [start for start in own if start.kind == "train"]
    if not trained or trained[0].origin is not None:
        return [*unlisted, *own]
    earlier = [] if run_id else [start for start in unlisted if start.kind == "train"]
    if earlier:  # of version 0.1: the folder is that run's until this one has a checkpoint
        return [dataclasses.replace(start, number=number) for number, start in enumerate(unlisted, 1)]
    return own  # what is not listed is of version 0.1, and this run began after it


def begun_anew(path: Path) -> Pending | None:
    """Return the new beginning that has a first checkpoint in a run folder, and was killed before it had settled."""
    pending = pending_in(os.fspath(path))
    if pending is None:
        return None
    from ..checkpoint import pending_file  # needs torch, which takes longer to import than a thousand runs to read

    return pending if pending_file(pending) is not None else None


def _listed(path: Path, content: dict[str, Any]) -> list[Start]:
    """Return the starts that ``run.json`` lists, of all runs."""
    starts = []
    for entry in sorted(content.get("starts", ()), key=lambda entry: entry["start"]):
        name = str(entry["folder"])
        known = {"start", "kind", "folder", "run_id", "from", "changes", "code", "ended"}
        starts.append(
            Start(
                number=entry["start"],
                kind=entry.get("kind", "train"),
                folder=path / name,
                run_id=str(entry.get("run_id") or content.get("run_id", "")),
                origin=entry.get("from"),
                changes=entry.get("changes") or [],
                code=entry.get("code") or code_of_start(path / name),  # run.json may have been written before
                ended=entry.get("ended"),
                about={key: value for key, value in entry.items() if key not in known},
            )
        )
    return starts


def _unlisted(number: int, folder: Path) -> Start:
    """Return a start that only its folder tells of."""
    start = Start(number, "evaluate", folder)
    with contextlib.suppress(OSError, ValueError, KeyError):  # of a start that evaluated, what run.json does not hold
        about = json.loads((folder / START_FILE).read_text(encoding="utf-8"))
        return dataclasses.replace(start, run_id=str(about["run_id"]), origin=about["from"], about=about)
    modes, step = set(), None
    for mode, line in _lines_by_mode(start.metrics):
        modes.add(mode)
        if mode == "resume" and step is None:
            step = int(re.search(r'"step": ?(\d+)', line)[1])  # pyright: ignore[reportOptionalSubscript]
    kind = "evaluate" if modes <= {"val", "test", ""} else "train"
    origin = None if step is None else {"run_id": None, "path": None, "iter": step, "epoch": None, "hash": None}
    return Start(number, kind, folder, origin=origin, code=code_of_start(folder))


def _lines_by_mode(metrics: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file of records, each after its mode; an empty text where it has none."""
    with open(metrics, encoding="utf-8", errors="replace") as file:
        for line in file:
            mode = re.search(r'"mode": ?"(\w+)"', line)
            yield mode[1] if mode else "", line


def how_ended(path: Path, start: Start) -> str | None:
    """Return how a start of a run ended, ``"pruned"`` where a sweep ended it early; None where nobody wrote it down."""
    ended = start.ended or {}
    if ended.get("how") == "finished" and (path / PRUNED_FILE).is_file():
        with contextlib.suppress(OSError, ValueError, KeyError):  # one that went on later has got further
            if json.loads((path / PRUNED_FILE).read_text(encoding="utf-8"))["iter"] == ended["iter"]:
                return "pruned"
    return ended.get("how")


def led_to(start: Start, starts: Iterable[Start]) -> list[Start]:
    """Return the starts that led to one, in order and with it: those whose checkpoints it and they went on from."""
    training = [each for each in starts if each.kind == "train"]
    chain = [start]
    while (parent := parent_of(chain[0], training)) is not None:
        chain.insert(0, parent)
    return chain


def led_to_end(starts: Sequence[Start]) -> list[Start]:
    """Return the starts that led to where a run stands; all, where none trained.

    A start that went on from an earlier checkpoint, and from whose own none went on or that saved none, is no part of
    it, nor is one that ended before it did anything.
    """
    training = [each for each in starts if each.kind == "train"]
    last = next((each for each in reversed(training) if each.has_recorded and "passed_over" not in each.about), None)
    return list(starts) if not training else led_to(last or training[-1], starts)


def parent_of(start: Start, training: Sequence[Start]) -> Start | None:
    """Return the start that wrote the checkpoint that another went on from, where it is of the same run."""
    origin = start.origin
    if origin is None or start.is_fork:
        return None
    earlier = [each for each in training if each.number < start.number]
    if written := [each for each in earlier if each.number == origin.get("start")]:
        return written[0]
    reached = [  # of a record that does not say it
        each
        for each in earlier
        if (each.origin["iter"] if each.origin else 0) < origin["iter"]
        and (each.ended is None or each.ended.get("iter", origin["iter"]) >= origin["iter"])
    ]
    return reached[-1] if reached else None


def changes_of(starts: Sequence[Start]) -> dict[str, list[dict[str, Any]]]:
    """Return what resumes changed in the config, by path, in order; refused changes changed nothing."""
    found: dict[str, list[dict[str, Any]]] = {}
    trained = (
        start for start in led_to_end(starts) if start.kind == "train" and (start.ended is None or start.has_trained)
    )
    for change in (change for start in trained for change in start.changes):
        if change.get("effect") != "refused":
            found.setdefault(change["path"], []).append(change)
    return found


def branch_of(starts: Sequence[Start]) -> tuple[Path, int] | None:
    """Return the folder of the run that a run was forked from, and the iteration; None where it is no fork.

    The folder may not be there any more.
    """
    first = next((start for start in starts if start.kind == "train"), None)
    if first is None or first.origin is None or not first.is_fork:
        return None
    checkpoint = Path(first.env().get("cwd", ""), first.origin["path"])
    folder = next((each for each in checkpoint.parents if (each / RUN_FILE).is_file()), checkpoint.parent)
    return folder, first.origin["iter"]


def files_before(starts: Sequence[Start]) -> list[Path]:
    """Return the files of the records from which a fork went on, in their order; none where the run is no fork.

    Of the run that it branched off, these are the starts that led to the checkpoint; what they recorded beyond it, the
    fork's own records supersede. A run that is no longer there has no records.
    """
    first = next((start for start in starts if start.kind == "train"), None)
    if first is None or not first.is_fork:
        return []
    starts = _starts_of_parent(first)
    writer = next((start for start in starts if start.number == (first.origin or {}).get("start")), None)
    before = starts if writer is None else led_to(writer, starts)
    return [*files_before(before), *metrics_of(before)]


def files_of(starts: Sequence[Start]) -> list[Path]:
    """Return the files of the records of a run in their order, for a fork those from which it went on before."""
    return [*files_before(starts), *metrics_of(led_to_end(starts))]


def metrics_of(starts: Iterable[Start]) -> list[Path]:
    """Return the files of records that starts have written."""
    return [start.metrics for start in starts if start.metrics.is_file()]


def _starts_of_parent(fork: Start) -> list[Start]:
    """Return the starts of the run whose checkpoint a fork went on from, where it is still there."""
    origin = fork.origin or {}
    path = Path(str(origin.get("path") or ""))
    for folder in list(path.parents)[:2] if path.is_absolute() else ():  # of the run, or one in it
        with contextlib.suppress(ValueError):
            listed = _listed(folder, read_run_file(folder, _ADVICE))
            starts = [start for start in listed if start.kind == "train" and start.run_id == origin.get("run_id")]
            if starts:
                return starts
    return []

"""``metrics.jsonl`` read: the records of a file, and those of all starts of a run joined. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageFileNotFoundError

METRICS_FILE = "metrics.jsonl"
_NUMBERS = {int, float}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def read_metrics(run_folder: str | os.PathLike[str] | Sequence[Path]) -> list[dict[str, Any]]:
    """Read the curve of a run, all its starts joined.

    Every ``metrics.jsonl`` in ``run_folder`` and below belongs to one start, or to several in the same file. They are
    taken in the order of their paths (folders named by time stamps sort rightly). What a later start recorded anew
    replaces what an earlier one recorded beyond the step it was resumed from, so no step appears twice for a mode.

    Args:
        run_folder: The run's folder, one such file, or the files of the starts in their order.

    Returns:
        Records in the order of recording; ``"NaN"`` and infinities are floats again, marks of a resume are left out.
        A last line that was cut by a crash is ignored.

    Raises:
        FileNotFoundError: When there is no ``metrics.jsonl``.
    """
    if isinstance(run_folder, str | os.PathLike):
        root = Path(run_folder)
        paths = [root] if root.is_file() else sorted(root.rglob(METRICS_FILE))
        if not paths:
            raise UsageFileNotFoundError(
                f"no {METRICS_FILE} in {root} or below; give the folder of a run that has logged"
            )
    else:
        paths = run_folder
    starts = [start for path in paths for start in divide_at_resumes(parse_records(Path(path).read_bytes()))]
    later, held = Superseding(), []
    for start in reversed(starts):
        records: dict[str, list[dict[str, Any]]] = {}
        for record in start:
            records.setdefault(record["mode"], []).append(record)
        records.pop("resume", None)
        holds = {mode: later.holds(mode) for mode in records}
        held.append([r for r in start if r["mode"] in holds and holds[r["mode"]](r["step"])])
        later.add({mode: [r["step"] for r in found] for mode, found in records.items()}, last_kept_step(start))
    return [record for records in reversed(held) for record in records]


class Superseding:
    """Which records of a start hold beside those of the later ones, which are added before it, the last one first."""

    def __init__(self) -> None:
        self._limit = math.inf
        self._again: dict[str, set[float]] = {}

    def add(self, steps: Mapping[str, Iterable[float]], last_kept: float) -> None:
        """Add a start.

        Args:
            steps: The steps of its records by mode.
            last_kept: See `last_kept_step`.
        """
        self._limit = min(self._limit, last_kept)
        for mode, found in steps.items():
            self._again.setdefault(mode, set()).update(found)

    def holds(self, mode: str) -> Callable[[float], bool]:
        """Return what says of a step whether an earlier record of it in a mode still holds."""
        again, limit = self._again.get(mode, set()), self._limit
        return lambda step: step <= limit and step not in again


def parse_records(data: bytes) -> list[dict[str, Any]]:
    """Return the records of lines of a ``metrics.jsonl``, marks of a resume among them; other lines are left out.

    ``"NaN"`` and infinities are floats again.
    """
    found: list[Any] = []
    with contextlib.suppress(ValueError, RecursionError):  # all at once takes a third of the time
        found = json.loads(b"[%b]" % data.strip(b"\n").replace(b"\n", b","))
    if len(found) != data.strip(b"\n").count(b"\n") + 1:  # a line was cut by a crash
        found = [_parse_line(line) for line in data.decode("utf-8", "replace").split("\n")]
    records = [r for r in found if type(r) is dict and type(r.get("mode")) is str and type(r.get("step")) in _NUMBERS]
    if any(text in data for text in (b'"NaN"', b'Infinity"')):
        for record in records:
            record.update({k: _NOT_FINITE[v] for k, v in record.items() if isinstance(v, str) and v in _NOT_FINITE})
    return records


def _parse_line(line: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)


def divide_at_resumes(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the records of a file divided where a run was resumed; each part but the first begins with that mark."""
    starts: list[list[dict[str, Any]]] = [[]]
    for record in records:
        if record["mode"] == "resume" and starts[-1]:
            starts.append([])
        starts[-1].append(record)
    return starts


def last_kept_step(start: Sequence[dict[str, Any]]) -> float:
    """Return the step up to which the records of earlier starts still hold, by the first records of a start."""
    for record in start:
        if record["mode"] == "resume":
            return record["step"]
        if record["mode"] == "train":
            return record["step"] - 1
    return math.inf  # an evaluation alone supersedes nothing

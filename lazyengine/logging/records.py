"""``metrics.jsonl`` read: the records of a file, and those of all starts of a run joined. Needs no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageFileNotFoundError

METRICS_FILE = "metrics.jsonl"
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
    merged: list[dict[str, Any]] = []
    for start in (start for path in paths for start in divide_at_resumes(parse_records(Path(path).read_bytes()))):
        last_kept = last_kept_step(start)
        records = [record for record in start if record["mode"] != "resume"]
        again = {(record["mode"], record["step"]) for record in records}
        merged = [r for r in merged if r["step"] <= last_kept and (r["mode"], r["step"]) not in again] + records
    return merged


def parse_records(data: bytes) -> list[dict[str, Any]]:
    """Return the records of lines of a ``metrics.jsonl``, marks of a resume among them; other lines are left out.

    ``"NaN"`` and infinities are floats again.
    """
    lines = [line for line in data.decode("utf-8", "replace").split("\n") if line and not line.isspace()]
    try:  # all at once takes a third of the time
        found = json.loads(f"[{','.join(lines)}]")
    except (json.JSONDecodeError, RecursionError):  # a line that was cut by a crash
        found = []
    if len(found) != len(lines):
        found = [_parse_line(line) for line in lines]
    records = [record for record in found if _is_record(record)]
    if any(text in data for text in (b'"NaN"', b'Infinity"')):
        for record in records:
            record.update({k: _NOT_FINITE[v] for k, v in record.items() if isinstance(v, str) and v in _NOT_FINITE})
    return records


def _parse_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None


def _is_record(record: Any) -> bool:
    return type(record) is dict and "mode" in record and isinstance(record.get("step"), (int, float))


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

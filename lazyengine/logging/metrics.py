"""``metrics.jsonl``: one JSON object per line, one schema for training and evaluation; its writer and its reader."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageFileNotFoundError, UsageTypeError, UsageValueError
from ..fileio import QueuedFile
from ..nesting import map_leaves
from ..text import short
from .history_buffer import as_number
from .logger import log_error

METRICS_FILE = "metrics.jsonl"
_Values = Mapping[str, Any]
_JSON = json.JSONEncoder(allow_nan=False)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsWriter(QueuedFile):
    """Appends records ``{"step", "epoch", "iter", "mode", <values>}`` to a file.

    Records are queued and written together, at most once per ``interval_s`` and by the thread that records: what a
    killed process loses is less than one interval of the curve. `flush` writes at once; the interpreter's exit does it
    too. While the file cannot be written (a full disk) records are kept, an error is logged, and training goes on.
    NaN and infinities, which JSON has not, are written as ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.

    Args:
        path: The file, made with its folder at the first write. An existing one is continued.
        interval_s: Least time between two writes, in seconds; 0 writes every record at once.
    """

    def __init__(self, path: str | os.PathLike[str], interval_s: float = 1.0) -> None:
        super().__init__(path, interval_s, b"\n", log_error)

    def start(self, resumed_step: int | None = None) -> None:
        """Note that the run goes on after ``resumed_step``: what earlier starts recorded beyond it is superseded.

        Writes a record of mode ``"resume"`` at once. A run that starts afresh (None) needs no such record.
        """
        if resumed_step is not None:
            self.write({}, step=resumed_step, mode="resume")
            self.flush()

    def write(
        self, values: _Values, *, step: int, epoch: int | None = None, iter: int | None = None, mode: str = "train"
    ) -> None:
        """Record values.

        Args:
            values: Numbers by name; one-element arrays and tensors become numbers, and text, lists and dicts of such,
                arrays and tensors are accepted too.
            step: Number of training iterations completed, the axis of all modes.
            epoch: The epoch; None takes ``values["epoch"]`` if it is there.
            iter: The iteration; None takes ``values["iter"]`` if it is there, else ``step``.
            mode: ``"train"``, ``"val"``, ``"test"`` or another name.

        Raises:
            ValueError: When a value is called ``step`` or ``mode``.
            TypeError: When a value has no JSON form.
        """
        record = {"step": int(step), "epoch": epoch, "iter": iter, "mode": mode}
        for name, value in values.items():
            if name in ("step", "mode"):
                raise UsageValueError(f"MetricsWriter: a value cannot be called {name!r}, the record has its own")
            if record.get(name) is None:
                number = as_number(value)
                record[name] = value if number is None else number
        if record["iter"] is None:
            record["iter"] = record["step"]
        self.add(_encode(record).encode() + b"\n")


def _encode(record: dict[str, Any]) -> str:
    try:
        return _JSON.encode(record)
    except (TypeError, ValueError):  # something that JSON has not
        return _JSON.encode(map_leaves(_to_json, record))


def _to_json(value: Any) -> Any:
    """Return a leaf as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):
        return map_leaves(_to_json, value.tolist())
    raise UsageTypeError(
        f"MetricsWriter: {short(value)} ({type(value).__name__}) has no JSON form; "
        "numbers, text, lists, dicts, arrays and tensors are accepted"
    )


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
    for start in (start for path in paths for start in _starts(path)):
        last_kept = _last_kept_step(start)
        records = [record for record in start if record["mode"] != "resume"]
        again = {(record["mode"], record["step"]) for record in records}
        merged = [r for r in merged if r["step"] <= last_kept and (r["mode"], r["step"]) not in again] + records
    return merged


def _starts(path: Path) -> list[list[dict[str, Any]]]:
    """Return the records of a file, divided where a run was resumed."""
    starts: list[list[dict[str, Any]]] = [[]]
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                continue
            if not isinstance(record, dict) or "mode" not in record or as_number(record.get("step")) is None:
                continue
            if record["mode"] == "resume" and starts[-1]:
                starts.append([])
            starts[-1].append({k: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for k, v in record.items()})
    return starts


def _last_kept_step(start: list[dict[str, Any]]) -> float:
    """Return the step up to which the records of earlier starts still hold."""
    for record in start:
        if record["mode"] == "resume":
            return record["step"]
        if record["mode"] == "train":
            return record["step"] - 1
    return math.inf  # an evaluation alone supersedes nothing

"""``metrics.jsonl``: one JSON object per line, one schema for training and evaluation; its writer and its reader."""

from __future__ import annotations

import json
import math
import os
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..fileio.atomic import append_whole
from .patience import Patience

METRICS_FILE = "metrics.jsonl"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsWriter:
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
        if not interval_s >= 0:
            raise ValueError(f"MetricsWriter: interval_s must be at least 0, got {interval_s!r}")
        self.path = Path(path)
        self.interval_s = interval_s
        self._queue: list[dict[str, Any]] = []
        self._last_write = -math.inf
        self._patience = Patience()
        self._finish = weakref.finalize(self, _append, self.path, self._queue, os.getpid())

    def start(self, resumed_step: int | None = None, epoch: int | None = None) -> None:
        """Note that the run goes on after ``resumed_step``: what earlier starts recorded beyond it is superseded.

        Writes a record of mode ``"resume"`` at once. A run that starts afresh (None) needs no such record.
        """
        if resumed_step is not None:
            self.write({}, step=resumed_step, epoch=epoch, mode="resume")
            self.flush()

    def write(
        self,
        values: Mapping[str, Any],
        *,
        step: int,
        epoch: int | None = None,
        iter: int | None = None,
        mode: str = "train",
    ) -> None:
        """Record values.

        Args:
            values: Numbers by name; text, lists and dicts of such, arrays and tensors on the host are accepted too.
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
            if name in record:
                if name in ("step", "mode"):
                    raise ValueError(f"MetricsWriter: a value cannot be called {name!r}, the record has its own")
                if record[name] is None:
                    record[name] = value
            elif value is None or value.__class__ in (int, float, str, bool):
                record[name] = value
            else:
                record[name] = _to_json(value, name)
        if record["iter"] is None:
            record["iter"] = record["step"]
        self._queue.append(record)
        if time.monotonic() - self._last_write >= self.interval_s:
            self.flush()

    def flush(self) -> None:
        """Write what is queued, or keep it for the next time."""
        self._last_write = time.monotonic()
        self._patience.attempt(
            lambda: _append(self.path, self._queue, os.getpid()),
            f"{self.path} cannot be written",
            "its records are kept until it can",
        )

    def close(self) -> None:
        """Write what is queued. Writing again later is fine: no file is held open."""
        self.flush()


def _append(path: Path, queue: list[dict[str, Any]], pid: int) -> None:
    """Append the queue to the file in one write, and empty it."""
    if not queue or pid != os.getpid():  # a forked child has a copy of the queue and must not write it
        return
    text = "".join(_encode(record) for record in queue)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            text = "\n" + text  # the machine stopped within a line: leave that line alone
        append_whole(file, text.encode())
    queue.clear()


def _encode(record: dict[str, Any]) -> str:
    try:
        return json.dumps(record, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_spell(record), allow_nan=False) + "\n"


def _spell(value: Any) -> Any:
    """Replace floats that JSON cannot hold by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spell(entry) for key, entry in value.items()}
    return [_spell(entry) for entry in value] if isinstance(value, list) else value


def _to_json(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _to_json(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(entry, f"{name}[{i}]") for i, entry in enumerate(value)]
    raise TypeError(
        f"MetricsWriter: {name!r} has no JSON form: {value!r:.80} ({type(value).__name__}); "
        "numbers, text, lists, dicts, arrays and tensors are accepted"
    )


def read_metrics(run_folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the curve of a run, all its starts joined.

    Every ``metrics.jsonl`` in ``run_folder`` and below belongs to one start, or to several in the same file. They are
    taken in the order of their paths (folders named by time stamps sort rightly). What a later start recorded anew
    replaces what an earlier one recorded beyond the step it was resumed from, so no step appears twice for a mode.

    Args:
        run_folder: The run's folder, or one such file.

    Returns:
        Records in the order of recording; ``"NaN"`` and infinities are floats again, marks of a resume are left out.
        A last line that was cut by a crash is ignored.

    Raises:
        FileNotFoundError: When there is no ``metrics.jsonl``.
    """
    root = Path(run_folder)
    paths = [root] if root.is_file() else sorted(root.rglob(METRICS_FILE))
    if not paths:
        raise FileNotFoundError(f"no {METRICS_FILE} in {root} or below; give the folder of a run that has logged")
    merged: list[dict[str, Any]] = []
    for path in paths:
        for start in _starts(path):
            last_kept = _last_kept_step(start)
            records = [record for record in start if record["mode"] != "resume"]
            again = {(record["mode"], record["step"]) for record in records}
            merged = [
                record
                for record in merged
                if record["step"] <= last_kept and (record["mode"], record["step"]) not in again
            ]
            merged += records
    return merged


def _starts(path: Path) -> list[list[dict[str, Any]]]:
    """The records of a file, divided where a run was resumed."""
    starts: list[list[dict[str, Any]]] = [[]]
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                continue
            if not isinstance(record, dict) or not {"step", "mode"} <= record.keys():
                continue
            if not isinstance(record["step"], int | float):
                continue
            if record["mode"] == "resume" and starts[-1]:
                starts.append([])
            for key, value in record.items():
                if isinstance(value, str):
                    record[key] = _NOT_FINITE.get(value, value)
            starts[-1].append(record)
    return starts


def _last_kept_step(start: list[dict[str, Any]]) -> float:
    """Step up to which the records of earlier starts still hold."""
    for record in start:
        if record["mode"] == "resume":
            return record["step"]
        if record["mode"] == "train":
            return record["step"] - 1
    return math.inf  # an evaluation alone supersedes nothing

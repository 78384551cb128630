"""``metrics.jsonl``: one JSON object per line, one schema for training and evaluation; the writer. See records.py."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ..errors import UsageTypeError, UsageValueError
from ..fileio import QueuedFile
from ..nesting import map_leaves
from ..text import short
from .logger import log_error
from .message_hub import as_number

_Values = Mapping[str, Any]
_JSON = json.JSONEncoder(allow_nan=False)


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

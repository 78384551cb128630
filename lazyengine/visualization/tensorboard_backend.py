"""Event files for TensorBoard, written without its threads."""

from __future__ import annotations

import functools
import io
import math
import os
import socket
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..fileio.atomic import append_whole
from ..logging.patience import Patience
from .backend import VisBackend
from .png import encode_png


class TensorboardVisBackend(VisBackend):
    """Writes one event for each log event, with all its values, to ``<run_dir>/tensorboard``.

    All starts of a run share the folder, so TensorBoard shows one run; a resumed start begins with
    ``SessionLog.START``, at which TensorBoard drops the steps that are computed anew; of the very step at which it
    goes on, what is there already is not written again (a validation that is repeated). Scalars are called
    ``<mode>/<name>``. Events are queued and written at most once per ``interval_s``, by the thread that adds them;
    what is left when the interpreter exits is written then.

    Args:
        log_dir: Folder of the event files; None: ``<run_dir>/tensorboard``.
        interval_s: Least time between two writes, in seconds.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, interval_s: float = 1.0) -> None:
        if not interval_s >= 0:
            raise ValueError(f"TensorboardVisBackend: interval_s must be at least 0, got {interval_s!r}")
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.interval_s = interval_s
        self._events: _EventFile | None = None
        self._last_write = -math.inf
        self._recorded: tuple[int, set[str]] = (-1, set())

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Take the folder; a resumed run voids later steps at once, a new one makes no file before its first value."""
        self.close()
        events = self._events = _EventFile(self.log_dir or run_dir / "tensorboard")
        weakref.finalize(self, events.close)
        if resumed_step is not None:
            self._recorded = (resumed_step, _tags_at(resumed_step, events.folder))
            start = _proto().SessionLog(status=_proto().SessionLog.START)
            events.add(_proto().Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))
            events.flush()

    def add_config(self, text: str) -> None:
        """Show the config on the text page."""
        self._add_text("config", text)

    def add_graph(self, text: str) -> None:
        """Show the model's description on the text page."""
        self._add_text("graph", text)

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Add an image."""
        height, width, channels = image.shape
        png = encode_png(image)
        picture = _proto().Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        self._add([_proto().Summary.Value(tag=name, image=picture)], step)

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Queue one event with all values."""
        if self._events is not None:
            prefix = f"{mode}/" if mode else ""
            named = {name if name.startswith(prefix) else prefix + name: value for name, value in scalars.items()}
            if step == self._recorded[0]:
                named = {name: value for name, value in named.items() if name not in self._recorded[1]}
            self._events.queue.append((time.time(), step, named))
            if time.monotonic() - self._last_write >= self.interval_s:
                self.flush()

    def flush(self) -> None:
        """Write queued events to the file."""
        if self._events is not None and self._events.queue:
            self._events.flush()
            self._last_write = time.monotonic()

    def close(self) -> None:
        """Write queued events and close the file; a later value opens a new one."""
        if self._events is not None:
            self._events.close()

    def _add_text(self, tag: str, text: str) -> None:
        proto = _proto()
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # a block of code in markdown
        shape = proto.TensorShapeProto(dim=[proto.TensorShapeProto.Dim(size=1)])
        tensor = proto.TensorProto(dtype=proto.DT_STRING, string_val=[indented.encode()], tensor_shape=shape)
        metadata = proto.SummaryMetadata(plugin_data=proto.SummaryMetadata.PluginData(plugin_name="text"))
        self._add([proto.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)], 0)

    def _add(self, values: list[Any], step: int) -> None:
        is_recorded = step == self._recorded[0] and all(value.tag in self._recorded[1] for value in values)
        if self._events is not None and not is_recorded:
            self._events.add(_make_event(time.time(), step, values))
            self._events.flush()


class _EventFile:
    """One event file, opened at the first write; ``queue`` holds ``(wall_time, step, scalars)`` until `flush`.

    What cannot be written (a full disk) is kept for the next time, and an error is logged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue: list[tuple[float, int, Mapping[str, float]]] = []
        self._pid = os.getpid()
        self._file: Any = None
        self._buffer = io.BytesIO()
        self._writer: Any = None
        self._patience = Patience()

    def add(self, event: Any) -> None:
        """Put what is queued, then an event, into the buffer."""
        self._write_queue()
        self._write(event)

    def flush(self) -> None:
        """Write everything."""
        self._write_queue()
        if self._pid != os.getpid() or not self._buffer.tell():
            return
        if self._patience.attempt(self._append, f"no event could be written to {self.folder}", "they are kept"):
            self._buffer.seek(0)
            self._buffer.truncate()

    def close(self) -> None:
        """Write everything and close the file."""
        self.flush()
        if self._file is not None and not self._patience.is_failing:
            self._file.close()
            self._file = self._writer = None

    def _append(self) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in the order of their names
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = open(self.folder / name, "xb", buffering=0)  # noqa: SIM115  (closed by `close`)
        append_whole(self._file, self._buffer.getvalue())

    def _write_queue(self) -> None:
        if self._pid != os.getpid():  # a forked child has a copy of the queue and must not write it
            self.queue.clear()
        for wall_time, step, scalars in self.queue:
            values = [_proto().Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
            self._write(_make_event(wall_time, step, values))
        self.queue.clear()

    def _write(self, event: Any) -> None:
        if self._writer is None:
            from tensorboard.summary.writer.record_writer import RecordWriter

            self._writer = RecordWriter(self._buffer)
            self._write(_proto().Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._writer.write(event.SerializeToString())


def _tags_at(step: int, folder: Path) -> set[str]:
    """Names of what the event files of a folder hold at `step`, and later starts have not made void."""
    tags: set[str] = set()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        offset = 0
        while offset + 12 <= len(data):  # a record: its size in 8 bytes, a checksum of 4, the event, a checksum of 4
            size = int.from_bytes(data[offset : offset + 8], "little")
            try:
                event = _proto().Event.FromString(data[offset + 12 : offset + 12 + size])
            except _proto().DecodeError:  # cut by a crash
                break
            offset += 16 + size
            if event.session_log.status == _proto().SessionLog.START and event.step <= step:
                tags.clear()
            if event.step == step:
                tags.update(value.tag for value in event.summary.value)
    return tags


def _make_event(wall_time: float, step: int, values: list[Any]) -> Any:
    return _proto().Event(wall_time=wall_time, step=step, summary=_proto().Summary(value=values))


@functools.cache
def _proto() -> Any:
    """The message classes of tensorboard, imported at the first write: most processes never need them."""
    from google.protobuf import message
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2

    modules = (message, types_pb2, tensor_shape_pb2, tensor_pb2, summary_pb2, event_pb2)
    public = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    return SimpleNamespace(**public)

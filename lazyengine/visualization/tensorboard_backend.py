"""Event files for TensorBoard, written without its threads."""

from __future__ import annotations

import functools
import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..fileio import QueuedFile
from ..logging import log_error
from .backend import QueuedBackend, curve_names
from .images import encode_png

_Late = Callable[[], dict[str, Any]]


class TensorboardVisBackend(QueuedBackend):
    """Writes one event for each log event, with all its values, to ``<run_dir>/tensorboard``.

    All starts of a run share the folder, so TensorBoard shows one run; a resumed start begins with
    ``SessionLog.START``, at which TensorBoard drops the steps that are computed anew; of the very step at which it
    goes on, what is there already is not written again (a validation that is repeated). Scalars are called
    ``<mode>/<name>``. Events are queued and written at most once per ``interval_s``, by the thread that adds them;
    what is left when the interpreter exits is written then.

    Args:
        log_dir: Folder of the event files, a relative one in ``<run_dir>``; None: ``<run_dir>/tensorboard``.
        interval_s: Least time between two writes, in seconds.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, interval_s: float = 1.0) -> None:
        super().__init__(interval_s)
        self.log_dir = None if log_dir is None else Path(log_dir)
        self._is_new_file = True
        self._recorded: tuple[int, set[str]] = (-1, set())

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Set the folder; a resumed run voids later steps at once, a new one makes no file before its first value."""
        self.close()
        folder = run_dir / (self.log_dir or "tensorboard")
        # TensorBoard reads the files of a folder in the order of their names
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = QueuedFile(folder / name, self.interval_s, b"", log_error)
        self.file.begin_interval()  # what it takes to write is imported then, and not before the first iteration
        self._is_new_file = True
        if resumed_step is not None:
            self._recorded = (resumed_step, _tags_at(resumed_step, folder))
            self._add(resumed_step + 1, {}, _proto().SessionLog(status=_proto().SessionLog.START))
            self.flush()

    def add_config(self, text: str) -> None:
        """Show the config on the text page."""
        self._add(0, {"config": functools.partial(_text_value, text)})

    def add_graph(self, text: str) -> None:
        """Show the model's description on the text page."""
        self._add(0, {"graph": functools.partial(_text_value, text)})

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Add an image."""
        height, width, channels = image.shape
        picture = _proto().Summary.Image(height=height, width=width, colorspace=channels)
        picture.encoded_image_string = encode_png(image)
        self._add(step, {name: {"image": picture}})

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Add one event with all values."""
        self._add(step, {tag: {"simple_value": value} for tag, value in curve_names(scalars, mode).items()})

    def _add(self, step: int, values: Mapping[str, Mapping[str, Any] | _Late], session_log: Any = None) -> None:
        """Add values by tag, without those that an earlier start has recorded at the very step of the resume."""
        if step == self._recorded[0]:
            values = {tag: value for tag, value in values.items() if tag not in self._recorded[1]}
        if self.file is not None and (values or session_log is not None):
            self.file.add(functools.partial(_encode, self._is_new_file, time.time(), step, values, session_log))
            self._is_new_file = False


def _encode(is_first: bool, wall_time: float, step: int, values: Mapping[str, Any], session_log: Any) -> bytes:
    """Return the record of an event; done when it is written, many at once."""
    proto, buffer = _proto(), io.BytesIO()
    writer = proto.RecordWriter(buffer)
    if is_first:
        writer.write(proto.Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
    entries: dict[str, Any] = {tag: value() if callable(value) else value for tag, value in values.items()}
    summary = proto.Summary(value=[proto.Summary.Value(tag=tag, **entry) for tag, entry in entries.items()])
    event = proto.Event(wall_time=wall_time, step=step, session_log=session_log, summary=summary if values else None)
    writer.write(event.SerializeToString())
    return buffer.getvalue()


def _text_value(text: str) -> dict[str, Any]:
    """Return what a summary holds of a text."""
    proto = _proto()
    indented = "".join(f"    {line}\n" for line in text.splitlines())  # a block of code in markdown
    shape = proto.TensorShapeProto(dim=[proto.TensorShapeProto.Dim(size=1)])
    tensor = proto.TensorProto(dtype=proto.DT_STRING, string_val=[indented.encode()], tensor_shape=shape)
    metadata = proto.SummaryMetadata(plugin_data=proto.SummaryMetadata.PluginData(plugin_name="text"))
    return {"metadata": metadata, "tensor": tensor}


def _tags_at(step: int, folder: Path) -> set[str]:
    """Return the names of what the event files of a folder hold at `step`, and later starts have not made void."""
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


@functools.cache
def _proto() -> Any:
    """Return the message classes of tensorboard and its writer, imported at the first write: most need neither."""
    from google.protobuf import message
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorboard.summary.writer import record_writer

    modules = (message, types_pb2, tensor_shape_pb2, tensor_pb2, summary_pb2, event_pb2, record_writer)
    public = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    return SimpleNamespace(**public)

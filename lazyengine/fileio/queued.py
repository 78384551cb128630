"""A file of a run that grows by whole records, cheaply, and survives a full disk, a fork and a killed process."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageValueError


class QueuedFile:
    """Appends records to a file, many in one write, at most once per ``interval_s`` and by the thread that adds them.

    What a killed process loses is less than one interval. `flush` writes at once; the end of this object and the
    interpreter's exit do it too, a forked child never. While the file cannot be written (a full disk) records are kept.
    No file is held open between two writes.

    Args:
        path: The file, made with its folder at the first write. An existing one is continued.
        interval_s: Least time between two writes, in seconds; 0 writes every record at once.
        end: What each record ends with; written first where the file ends otherwise, as after a crash.
        on_failure: Called with a message each time that writing begins to fail.

    Raises:
        ValueError: When ``interval_s`` is negative.
    """

    def __init__(
        self, path: str | os.PathLike[str], interval_s: float, end: bytes, on_failure: Callable[[str], None]
    ) -> None:
        if not interval_s >= 0:
            raise UsageValueError(f"interval_s must be at least 0, got {interval_s!r}: the seconds between two writes")
        self.path = Path(path)
        self.interval_s = interval_s
        self._end = end
        self._on_failure = on_failure
        self._queue: list[bytes | Callable[[], bytes]] = []
        self._last_write = -math.inf
        self._is_failing = False
        self._finish = weakref.finalize(self, _append, self.path, self._queue, end, os.getpid())

    def add(self, record: bytes | Callable[[], bytes]) -> None:
        """Queue a record, or what makes it when it is written; and write all that are queued when it is time."""
        self._queue.append(record)
        if time.monotonic() - self._last_write >= self.interval_s:
            self.flush()

    def begin_interval(self) -> None:
        """Let the interval begin now, so that the first record is not written at once."""
        self._last_write = time.monotonic()

    def close(self) -> None:
        """Write what is queued. Writing again later is fine: no file is held open."""
        self.flush()

    def flush(self) -> None:
        """Write what is queued, or keep it for the next time."""
        self._last_write = time.monotonic()
        try:
            _append(self.path, self._queue, self._end, os.getpid())
        except OSError as error:
            if not self._is_failing:
                self._on_failure(f"{self.path} cannot be written ({error}): its records are kept until it can")
            self._is_failing = True
        else:
            self._is_failing = False


def _append(path: Path, queue: list[bytes | Callable[[], bytes]], end: bytes, pid: int) -> None:
    """Append the queue to the file, all of it or, when that raises an error, nothing of it; and empty it."""
    if not queue or pid != os.getpid():  # a forked child has a copy of the queue and must not write it
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        is_cut = bool(end and size) and file.seek(-len(end), os.SEEK_END) >= 0 and file.read() != end
        records = [record if isinstance(record, bytes) else record() for record in queue]
        left = memoryview((end if is_cut else b"") + b"".join(records))  # a cut record is left alone
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(size)
            raise
    queue.clear()

"""One read-only block of bytes that every process of a host maps instead of copying.

The bytes live in a temporary file without a name. Forked workers inherit the mapping; workers started by spawn or
forkserver receive the open file, so a dataset that is pickled for them stays a few hundred bytes. Without a name there
is nothing to clean up, not even after SIGKILL. (`/dev/shm` is left alone: containers often allow 64 MB of it.)
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
import weakref
from multiprocessing import context, reduction  # type: ignore[attr-defined]
from typing import Any, NamedTuple, Self

import numpy as np

from ..fileio import open_publishable, share_within_host

_ALIGNMENT_BYTES = 8


class Section(NamedTuple):
    """Where an array lies in a buffer: byte offset, size in bytes and element format (`struct` letter)."""

    offset: int
    num_bytes: int
    format: str


class SharedBuffer:
    """Read-only bytes of an open file, mapped into this process.

    Pickled while a worker process is being started it hands over the open file; pickled for any other purpose it
    brings its bytes along. Copies are the same object, since nobody can write to it.

    Args:
        file_descriptor: An open file; the buffer owns it from here on.
        num_bytes: Size of the file in bytes.
    """

    def __init__(self, file_descriptor: int, num_bytes: int) -> None:
        self._file_descriptor = file_descriptor
        self.num_bytes = num_bytes
        self._view = memoryview(b"")
        if num_bytes:
            self._view = memoryview(mmap.mmap(file_descriptor, num_bytes, access=mmap.ACCESS_READ))
        weakref.finalize(self, os.close, file_descriptor)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Put `data` into a file of its own."""
        with tempfile.TemporaryFile(prefix="lazyengine-") as file:
            file.write(data)
            file.flush()
            return cls(os.dup(file.fileno()), len(data))

    def section(self, section: Section) -> memoryview:
        """Return the array at `section` as a view; indexing it gives plain Python numbers."""
        part = self._view[section.offset : section.offset + section.num_bytes]
        return part if section.format == "B" else part.cast(section.format)  # type: ignore[call-overload]

    def __reduce__(self) -> tuple[Any, ...]:
        if context.get_spawning_popen() is not None and hasattr(reduction, "DupFd"):
            return _attach, (reduction.DupFd(self._file_descriptor), self.num_bytes)
        return SharedBuffer.from_bytes, (bytes(self._view),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _attach(duplicate: Any, num_bytes: int) -> SharedBuffer:
    """Build the buffer in a worker process from the open file that it was handed."""
    return SharedBuffer(duplicate.detach(), num_bytes)


class BufferWriter:
    """Writes sections one after the other and ends as a `SharedBuffer`.

    Args:
        is_shared_by_ranks: Let all processes of this user and host that write the same bytes keep one copy.

    Attributes:
        num_bytes: The number of bytes written so far.
    """

    def __init__(self, is_shared_by_ranks: bool = False) -> None:
        publishable = open_publishable() if is_shared_by_ranks else None
        self._digest = hashlib.blake2b(digest_size=20) if publishable is not None else None
        self._file = publishable or tempfile.TemporaryFile(prefix="lazyengine-", buffering=1 << 20)  # noqa: SIM115
        self.num_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append raw bytes.

        Raises:
            OSError: The folder for temporary files is full; the note says how to choose another one.
        """
        try:
            self._file.write(data)
        except OSError as error:
            error.add_note(
                f"while storing the records of a dataset in {tempfile.gettempdir()} ({self.num_bytes:,} bytes so far)"
                "; set the environment variable TMPDIR to a folder with more room"
            )
            raise
        if self._digest is not None:
            self._digest.update(data)
        self.num_bytes += len(data)

    def write_array(self, array: np.ndarray) -> Section:
        """Append a one-dimensional array, aligned, and say where it lies."""
        self.write(b"\0" * (-self.num_bytes % _ALIGNMENT_BYTES))
        section = Section(self.num_bytes, array.nbytes, array.dtype.char)
        self.write(np.ascontiguousarray(array).view(np.uint8).data)
        return section

    def write_offsets(self, lengths: np.ndarray) -> Section:
        """Append the running sum of `lengths` with a zero in front, in 32 bits where they suffice."""
        offsets = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(lengths, out=offsets[1:])
        return self.write_array(offsets.astype(np.uint32) if offsets[-1] < 1 << 32 else offsets)

    def finish(self) -> SharedBuffer:
        """Close the writer and map what it wrote."""
        with self._file as file:
            file.flush()
            file_descriptor = os.dup(file.fileno())
        if self._digest is not None:
            file_descriptor = share_within_host(file_descriptor, self.num_bytes, self._digest.hexdigest())
        return SharedBuffer(file_descriptor, self.num_bytes)

    def close(self) -> None:
        """Give up what was not finished; after `finish` it does nothing."""
        with contextlib.suppress(OSError):  # bytes that a full disk did not take
            self._file.close()

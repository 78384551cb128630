"""Write torch's file format: a zip file of one pickle and the bytes of every storage, each with its CRC.

``torch.save`` holds the interpreter's lock while it writes a record, and reports a full disk as a RuntimeError without
an errno. Writing the zip file with the standard library lets the training loop run meanwhile, keeps the OSError, and
allows pickling first, copying the storages next and writing them from another thread. ``torch.load`` reads the result,
memory-mapped too.
"""

import io
import pickle
import queue
import sys
import threading
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Self

import torch

_ALIGNMENT = 64  # bytes; what torch.save aligns records to
# Bytes written at a time. Few enough to be in the processor's cache still when they are written after their CRC was
# computed. The interpreter's lock is free meanwhile; with fewer, the loop beside the writer waits for it too often.
_CHUNK = 1 << 20
_ROOT = "archive"


class Archive(NamedTuple):
    """A pickled checkpoint: the pickle, and the storages it refers to by their position."""

    pickled: bytes
    storages: list[torch.UntypedStorage]

    @property
    def num_bytes(self) -> int:
        """Bytes of the pickle and all storages."""
        return len(self.pickled) + sum(storage.nbytes() for storage in self.storages)


class _Pickler(pickle.Pickler):
    """Pickles tensors by reference to their storages, which it collects, in torch.save's notation."""

    def __init__(self, buffer: IO[bytes], compact: "_Compactor") -> None:
        super().__init__(buffer, protocol=2)  # the protocol of torch.save, and all that weights_only reads
        self.storages: list[torch.UntypedStorage] = []
        self._keys: dict[int, str] = {}
        self._compact = compact

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, torch.storage.TypedStorage):
            storage, size = obj._untyped_storage, obj._size()
            kind = getattr(torch, obj._pickle_storage_type())
        elif isinstance(obj, torch.UntypedStorage):
            storage, size, kind = obj, obj.nbytes(), torch.UntypedStorage
        else:
            return None
        key = self._keys.get(storage._cdata)
        if key is None:
            key = self._keys[storage._cdata] = str(len(self.storages))
            self.storages.append(storage)
        return ("storage", kind, key, "cpu", size)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return self._compact(obj).__reduce_ex__(2)
        return NotImplemented


class _Compactor:
    """Replaces views of storages that are mostly not saved by copies, so that ``t[:1]`` does not save all of ``t``."""

    def __init__(self, root: Any) -> None:
        self._views: dict[int, dict[tuple, torch.Tensor]] = {}
        self._copies: dict[tuple, torch.Tensor] = {}
        self._collect(root)
        self._oversized = {
            pointer
            for pointer, views in self._views.items()
            if sum(t.nbytes for t in views.values()) < next(iter(views.values())).untyped_storage().nbytes()
        }

    @staticmethod
    def _key(tensor: torch.Tensor) -> tuple:
        return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()

    @staticmethod
    def _is_simple(tensor: torch.Tensor) -> bool:
        return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested

    def _collect(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if self._is_simple(value):
                self._views.setdefault(value.untyped_storage()._cdata, {})[self._key(value)] = value
        elif isinstance(value, dict):
            for item in value.values():
                self._collect(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._collect(item)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self._is_simple(tensor) or tensor.untyped_storage()._cdata not in self._oversized:
            return tensor
        key = self._key(tensor)
        if key not in self._copies:
            self._copies[key] = tensor.clone()
        return self._copies[key]


def pickle_archive(plain: Any) -> Archive:
    """Pickle a plain checkpoint (see ``to_plain``) without copying the data of its tensors.

    Tensors that share a storage share it after loading too. All storages are marked as being on the CPU.

    Args:
        plain: Tensors and built-in types.

    Returns:
        The pickle, and the storages, which still belong to the caller's tensors, on their devices.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, _Compactor(plain))
    pickler.dump(plain)
    return Archive(buffer.getvalue(), pickler.storages)


def storage_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a ``(nbytes,)`` uint8 tensor over a storage, without copying, on the storage's device."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # pyright: ignore[reportArgumentType]


def write_archive(archive: Archive, file: "IO[bytes] | WriteBehind") -> None:
    """Write an archive to a seekable file.

    Args:
        archive: What ``pickle_archive`` returned. Storages on other devices are copied to the host one by one.
        file: A buffered binary file, opened for writing, at position 0.

    Raises:
        OSError: As the file's ``write`` raises it, for example for a full disk.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        _write_record(target, file, "data.pkl", memoryview(archive.pickled))
        _write_record(target, file, ".format_version", memoryview(b"1"))
        _write_record(target, file, ".storage_alignment", memoryview(str(_ALIGNMENT).encode()))
        _write_record(target, file, "byteorder", memoryview(sys.byteorder.encode()))
        for index, storage in enumerate(archive.storages):
            _write_record(target, file, f"data/{index}", storage_bytes(storage).cpu().numpy().data)
        _write_record(target, file, "version", memoryview(b"3\n"))


class WriteBehind:
    """A file that a thread writes to, so that the caller computes the CRC of the next bytes meanwhile.

    A context manager; on leaving, everything has been handed to the file. What is written must not change until then.

    Args:
        file: A seekable binary file at position 0, opened for writing.

    Raises:
        OSError: What the file raised, at a later call or on leaving.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.name = file.name  # which zipfile shows
        self._file = file
        self._position = 0
        self._error: BaseException | None = None
        self._calls: queue.Queue[tuple[Callable[[Any], object], Any] | None] = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._run, name="checkpoint-write")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._calls.put(None)
        self._thread.join()
        if self._error is not None and exception[1] is None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        """Write behind; returns the number of bytes."""
        self._put(self._file.write, data)
        self._position += len(data)
        return len(data)

    def seek(self, position: int) -> int:
        """Move to a position from the start."""
        self._put(self._file.seek, position)
        self._position = position
        return position

    def tell(self) -> int:
        """Return where the next write will go."""
        return self._position

    def flush(self) -> None:
        """Do nothing: the file is flushed by whoever opened it."""

    def close(self) -> None:
        """Do nothing: the file is closed by whoever opened it."""

    def _put(self, call: Callable[[Any], object], argument: Any) -> None:
        if self._error is not None:
            raise self._error
        self._calls.put((call, argument))

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, argument = item
            if self._error is None:  # after an error only the queue is emptied, so that the caller never waits
                try:
                    call(argument)
                except BaseException as error:
                    self._error = error


def _write_record(target: zipfile.ZipFile, file: "IO[bytes] | WriteBehind", name: str, data: memoryview) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")
    info.file_size = data.nbytes
    is_large = data.nbytes * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule for the 20 bytes that it adds
    header = file.tell() + 30 + len(info.filename) + 4 + (20 if is_large else 0)
    padding = -header % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # as torch pads
    with target.open(info, "w", force_zip64=is_large) as record:
        for start in range(0, data.nbytes, _CHUNK):
            record.write(data[start : start + _CHUNK])

"""Write torch's file format: a zip file of one pickle and the bytes of every storage, each with its CRC.

``torch.save`` holds the interpreter's lock while it writes a record, and reports a full disk as a RuntimeError without
an errno. Writing the zip file with the standard library lets the training loop run meanwhile, keeps the OSError, and
allows pickling first, copying the storages next and writing them from another thread. ``torch.load`` reads the result,
memory-mapped too.
"""

import io
import pickle
import sys
import zipfile
from typing import IO, Any, NamedTuple

import torch

_ALIGNMENT = 64  # bytes; what torch.save aligns records to
# Bytes written at a time. Few enough to be in the processor's cache still when they are written after their CRC was
# computed: measured, that is as fast as a second thread for the CRC. The interpreter's lock is free meanwhile; with
# fewer, the loop beside the writer has to wait for the lock too often.
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


def write_archive(archive: Archive, file: IO[bytes]) -> None:
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


def _write_record(target: zipfile.ZipFile, file: IO[bytes], name: str, data: memoryview) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")
    info.file_size = data.nbytes
    is_large = data.nbytes * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule for the 20 bytes that it adds
    header = file.tell() + 30 + len(info.filename) + 4 + (20 if is_large else 0)
    padding = -header % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # as torch pads
    with target.open(info, "w", force_zip64=is_large) as record:
        for start in range(0, data.nbytes, _CHUNK):
            record.write(data[start : start + _CHUNK])

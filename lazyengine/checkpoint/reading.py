"""Read checkpoints: damage is noticed before anything is loaded, and nothing in the file is run."""

import difflib
import errno
import os
import pickle
import re
import zipfile
from typing import IO, Any

import torch

from .. import fileio
from .errors import CheckpointError
from .shards import attach_shards, has_shards, make_whole

_ZIP_MAGIC = b"PK\x03\x04"
_OLD_MAGIC = b"\x80\x02"  # files of torch before 1.6, and plain pickles
_CHUNK = 1 << 20
_FOLDER = 0x10  # in a zip entry's attributes


class SkippedObject:
    """Stands for an object of a class that was not loaded; holds nothing of it."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "SkippedObject":
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "<an object that was not loaded>"


def read_checkpoint(
    path: str | os.PathLike[str],
    map_location: Any = "cpu",
    *,
    trusted: bool = False,
    verify: bool = True,
    skip_objects: bool = False,
    keep_shards: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint into memory.

    Args:
        path: A local path or a URL (downloaded into the cache). ``.safetensors`` files give their tensors as a dict.
        map_location: As for ``torch.load``.
        trusted: Load pickled objects of any class, which can run any code. Leave it off for files of others.
        skip_objects: Put a ``SkippedObject`` where the file holds an object of another class, and load the rest.
            Nothing of that class is imported or run. mmengine's checkpoints need it for their message hub.
        verify: Compare every record with its CRC first: ``torch.load`` returns wrong numbers from a damaged file.
        keep_shards: For a checkpoint of a model that FSDP2 split: leave its tensors on disk, and put a ``SavedTensor``
            for each, of which ``load_state_dict`` of a model and of an optimizer wrapper read what this rank needs.

    Returns:
        What was saved; usually a dict.

    Raises:
        FileNotFoundError: There is no such file; close names are listed.
        CheckpointError: The file is damaged, is not a checkpoint (its first bytes are shown), or holds objects that
            only ``trusted=True`` loads.
    """
    local = _existing(path)
    if local.endswith(".safetensors"):
        return _read_safetensors(local, map_location)
    with open(local, "rb") as file:
        if verify:
            _verify(file, local)
        file.seek(0)
        names = unsafe_names(local) if skip_objects and not trusted else []
        with torch.serialization.safe_globals([(SkippedObject, name) for name in names]):
            loaded = _load(file, local, map_location, trusted)
    attached = attach_shards(loaded, local, verify=verify and not keep_shards)
    return attached if keep_shards or attached is loaded else make_whole(attached, map_location)


def unsafe_names(path: str) -> list[str]:
    """Return the classes and functions that a checkpoint asks for and that torch does not load safely, sorted.

    Found by reading the pickle without running it; empty for files in the format of torch before 1.6.
    """
    with open(path, "rb") as file:
        if file.read(4) != _ZIP_MAGIC:
            return []
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Check that a file is a checkpoint and that every record in it has the CRC that was saved with it.

    About 0.4 s a gigabyte. Files in the format of torch before 1.6 hold no CRC, and neither
    do those saved with ``torch.serialization.set_crc32_options(False)``; of these only the structure is checked.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: With the reason.
    """
    local = _existing(path)
    with open(local, "rb") as file:
        _verify(file, local)
    verify_shards(local)


def verify_shards(path: str | os.PathLike[str]) -> None:
    """Check the files in a checkpoint's folder of shards, where it has one, as `verify_checkpoint` does.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        CheckpointError: With the reason.
    """
    local = _existing(path)
    if has_shards(local):
        with open(local, "rb") as file:
            attach_shards(_load(file, local, "meta", False), local, verify=True)


def _existing(path: str | os.PathLike[str]) -> str:
    local = fileio.get_local_path(path)
    if os.path.isfile(local):
        return local
    folder, name = os.path.split(local)
    if os.path.isdir(local):
        raise CheckpointError(f"{local} is a folder; give a file in it, such as the one named in its last_checkpoint")
    if not os.path.isdir(folder or "."):
        raise FileNotFoundError(2, "no checkpoint there: the folder does not exist either", local)
    near = difflib.get_close_matches(name, [n for n in os.listdir(folder or ".") if not n.startswith(".")])
    raise FileNotFoundError(
        2, f"no checkpoint there{'; did you mean ' + ' or '.join(near) + '?' if near else ''}", local
    )


def _verify(file: IO[bytes], name: str) -> None:
    start = file.read(4)
    if start.startswith(_OLD_MAGIC):
        return
    if start != _ZIP_MAGIC:
        raise _not_a_checkpoint(file, name)
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if not any(record.filename.endswith("/data.pkl") for record in records):
                raise CheckpointError(f"{name} is a zip file but not a checkpoint: it has no data.pkl")
            marked = [r.filename for r in records if r.external_attr & _FOLDER or r.compress_type != zipfile.ZIP_STORED]
            if marked:  # torch would return memory that was never written to
                raise CheckpointError(f"{name} is damaged: {marked[0]} is marked as a folder or as compressed")
            if all(record.CRC == 0 for record in records if record.file_size):
                return  # saved without checksums
            for record in records:
                with archive.open(record) as data:  # raises at the end of a record with another CRC
                    while data.read(_CHUNK):
                        pass
    except zipfile.BadZipFile as error:
        size = os.fstat(file.fileno()).st_size
        raise CheckpointError(
            f"{name} is damaged ({size} bytes): {error}. It was cut off or changed after it was saved; use another one."
        ) from error
    except (EOFError, NotImplementedError, RuntimeError, ValueError, OSError, UnicodeError) as error:
        if isinstance(error, CheckpointError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise  # a disk that cannot be read is no damaged file; an impossible position in the file is one
        raise CheckpointError(f"{name} is damaged: {type(error).__name__}: {error}") from error


def _not_a_checkpoint(file: IO[bytes], name: str) -> CheckpointError:
    file.seek(0)
    start = file.read(60)
    if not start:
        return CheckpointError(f"{name} is empty; the program that wrote it was stopped or the disk was full")
    hint = ""
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        hint = " This is a web page: the download needs a login or another address."
    elif start.startswith(b"version https://git-lfs"):
        hint = " This is a Git LFS pointer: fetch the file itself with `git lfs pull`."
    return CheckpointError(f"{name} is not a checkpoint: it starts with {start!r}.{hint}")


def _load(file: IO[bytes], name: str, map_location: Any, trusted: bool) -> Any:
    try:
        return torch.load(file, map_location=map_location, weights_only=not trusted)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"an object of {found[1]}" if found else "what torch does not load safely"
        raise CheckpointError(
            f"{name} holds {what}, which was not loaded because loading it can run code. "
            "If you trust where the file comes from, say so with trusted=True; skip_objects=True loads the rest of it."
        ) from error
    except (EOFError, RuntimeError, ValueError, KeyError, AttributeError, ImportError, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a position which cannot be
            raise
        if isinstance(error, RuntimeError) and "CUDA" in str(error):
            raise
        raise CheckpointError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error


def _read_safetensors(name: str, map_location: Any) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(f"{name}: install safetensors to read it (pip install safetensors)") from error
    try:
        return load_file(name, device=str(map_location or "cpu"))
    except Exception as error:
        raise CheckpointError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error

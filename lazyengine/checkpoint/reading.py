"""Read checkpoints: damage is noticed before anything is loaded, and nothing in the file is run."""

from __future__ import annotations

import json
import os
import re
import zipfile
from typing import IO, Any

import torch

from ..errors import UsageFileNotFoundError
from ..fileio import get_local_path
from ..text import did_you_mean
from .errors import UsageCheckpointError, damage_explained
from .shards import attach_shards, make_whole, shards_of

_ZIP_MAGIC = b"PK\x03\x04"
_OLD_MAGIC = b"\x80\x02"  # files of torch before 1.6, and plain pickles
_CHUNK = 1 << 20
_FOLDER = 0x10  # in a zip entry's attributes


class SkippedObject:
    """Stands for an object of a class that was not loaded; holds nothing of it."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> SkippedObject:
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _item: Any) -> None: ...

    def extend(self, _items: Any) -> None: ...

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
        path: A local path or a URL (downloaded into the cache). ``.safetensors`` files give their tensors as a dict,
            and so does the ``.index.json`` of several files.
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
    if local.endswith(".index.json"):  # of transformers, for a model in several files
        with damage_explained(local), open(local, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
        parts = [os.path.join(os.path.dirname(local), name) for name in names]
        return {k: v for part in parts for k, v in read_checkpoint(part, map_location, verify=verify).items()}
    with open(local, "rb") as file:
        if verify:
            _verify(file, local)
        file.seek(0)
        is_searched = skip_objects and not trusted and zipfile.is_zipfile(file)  # the pickle is read, and not run
        names = torch.serialization.get_unsafe_globals_in_checkpoint(local) if is_searched else []
        file.seek(0)
        with damage_explained(local), torch.serialization.safe_globals([(SkippedObject, name) for name in names]):
            loaded = torch.load(file, map_location=map_location, weights_only=not trusted)
    attached = attach_shards(loaded, local, verify=verify and not keep_shards)
    return attached if keep_shards or attached is loaded else make_whole(attached, map_location)


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
    if shards_of(local):
        with damage_explained(local):
            attach_shards(torch.load(local, map_location="meta", weights_only=True), local, verify=True)


def _existing(path: str | os.PathLike[str]) -> str:
    local = get_local_path(path)
    if os.path.isfile(local):
        return local
    if os.path.isdir(local):
        raise UsageCheckpointError(f"{local} is a folder; give a file in it, such as what its last_checkpoint names.")
    folder, name = os.path.split(local)
    if not os.path.isdir(folder or "."):
        raise UsageFileNotFoundError(f"no checkpoint there: {local}: the folder does not exist either.")
    known = [*os.listdir(folder or "."), *(() if folder else ("best", "latest"))]
    raise UsageFileNotFoundError(f"no checkpoint there: {local}.{did_you_mean(name, known)}")


def _verify(file: IO[bytes], name: str) -> None:
    start = file.read(4)
    if start.startswith(_OLD_MAGIC):
        return
    if start != _ZIP_MAGIC:
        raise _not_a_checkpoint(file, name)
    with damage_explained(name), zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if not any(record.filename.endswith("/data.pkl") for record in records):
            raise UsageCheckpointError(f"{name} is a zip file but not a checkpoint: it has no data.pkl")
        marked = [r.filename for r in records if r.external_attr & _FOLDER or r.compress_type != zipfile.ZIP_STORED]
        if marked:  # torch would return memory that was never written to
            raise UsageCheckpointError(f"{name} is damaged: {marked[0]} is marked as a folder or as compressed")
        if all(record.CRC == 0 for record in records if record.file_size):
            return  # saved without checksums
        for record in records:
            with archive.open(record) as data:  # raises at the end of a record with another CRC
                while data.read(_CHUNK):
                    pass


def _not_a_checkpoint(file: IO[bytes], name: str) -> UsageCheckpointError:
    file.seek(0)
    start = file.read(60)
    if not start:
        return UsageCheckpointError(f"{name} is empty; the program that wrote it was stopped or the disk was full")
    hint = ""
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        hint = " This is a web page: the download needs a login or another address."
    elif start.startswith(b"version https://git-lfs"):
        hint = " This is a Git LFS pointer: fetch the file itself with `git lfs pull`."
    return UsageCheckpointError(f"{name} is not a checkpoint: it starts with {start!r}.{hint}")


def _read_safetensors(name: str, map_location: Any) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageCheckpointError(f"{name}: install safetensors to read it (pip install safetensors)") from error
    with damage_explained(name):
        return load_file(name, device=str(map_location or "cpu"))

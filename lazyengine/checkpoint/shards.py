"""Checkpoints of tensors that FSDP2 splits over ranks: every rank writes its parts, by torch.distributed.checkpoint.

Such a checkpoint is the usual file with everything that is not split, and beside it a folder,
``<file>.<8 hex digits>.shards``, in the format of torch.distributed.checkpoint. In the place of each split tensor the
file holds a mark, and under ``shards`` the folder's name with size and CRC of each of its files. The folder is complete
before the file gets its name, and a new save takes a new folder, so a checkpoint is whole or absent as always.
Split tensors are loaded into whole ones, and whole ones into split ones.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import re
import shutil
import sys
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch

from .. import _torch, dist
from ..plain import rebuild, wait_for_copies
from .errors import UsageCheckpointError, damage_explained

_MARK = "sharded_tensor"
_NAME = re.compile(r"[^/\\]\.[0-9a-f]{8}\.shards$")
_CHUNK = 1 << 20


class SavedTensor:
    """Stands for a tensor in a folder of shards, which is read when it is known where it goes.

    Args:
        read: Called with ``(key, target)``; fills the target, or this rank's part of a split one.
        key: The tensor's name in the folder.
        shape: Of the whole tensor.
        dtype: Of the tensor.
    """

    def __init__(
        self, read: Callable[[str, torch.Tensor], None], key: str, shape: torch.Size, dtype: torch.dtype
    ) -> None:
        self._read, self._key = read, key
        self.shape, self.dtype = shape, dtype

    def read(self, like: torch.Tensor | None = None) -> torch.Tensor:
        """Read it into host memory; of a tensor that is split as `like` is, this rank's part."""
        if like is None:
            target = torch.empty(self.shape, dtype=self.dtype)
        else:
            target = torch.empty_like(like, dtype=self.dtype, requires_grad=False)
        self._read(self._key, target)
        return target


def is_sharded_tensor(value: Any) -> bool:
    """Return whether a value is a tensor split over ranks; imports nothing to find out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def shard_like(value: Any, like: Any) -> Any:
    """Return a tensor split as another one of its shape is; whole where the other one is.

    Args:
        value: A tensor that every rank has whole, or a `SavedTensor`. Anything else, and a tensor of another shape
            than that of a split `like`, is returned as it is.
        like: The tensor to be like, or None.
    """
    is_split = is_sharded_tensor(like) and getattr(value, "shape", None) == like.shape
    if isinstance(value, SavedTensor):
        return value.read(like if is_split else None)
    if not is_split or not isinstance(value, torch.Tensor) or is_sharded_tensor(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)


def shard_state(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's state dict split as the model's own."""
    sharded = OrderedDict((key, shard_like(value, own.get(key))) for key, value in state_dict.items())
    sharded.__dict__.update(getattr(state_dict, "__dict__", {}))
    return sharded


def shard_optimizer_state(state_dict: dict[str, Any], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimizer's state dict split as its parameters are."""
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    indices = [index for group in state_dict["param_groups"] for index in group["params"]]
    by_index = dict(zip(indices, parameters))
    state = {
        index: {name: shard_like(value, by_index.get(index)) for name, value in entry.items()}
        for index, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def split_shards(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return a checkpoint with marks in the place of split tensors, and those tensors by key.

    Args:
        checkpoint: Dicts, lists and tensors, with the same structure on every rank.
    """
    tensors: dict[str, torch.Tensor] = {}

    def mark(value: Any, path: str) -> Any:
        if not is_sharded_tensor(value):
            return value
        tensors[path] = value.detach() if value.requires_grad else value  # what torch does for one costs 40 us
        return {_MARK: path}

    return rebuild(checkpoint, mark), tensors


@torch.no_grad()  # `to_local` then hands out the part as it is
def copy_shards(tensors: Mapping[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """Return copies in host memory of this rank's parts of split tensors.

    Args:
        tensors: What `split_shards` found.
        memory: The copies of the last call, which are written over where they fit; the new ones are left in it.
    """
    former = dict(memory)
    memory.clear()
    for key, tensor in tensors.items():
        kept = former.get(key)
        if kept is not None and _layout(kept) == _layout(tensor):
            kept.to_local().copy_(tensor.to_local(), non_blocking=True)
        else:
            kept = tensor.to("cpu") if tensor.device.type != "cpu" else tensor.clone()
        memory[key] = kept
    wait_for_copies(tensors.values())
    return dict(memory)


def _layout(tensor: Any) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device_mesh, tensor.placements


def save_shards(
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    group: torch.distributed.ProcessGroup | None = None,
) -> dict[str, Any]:
    """Write split tensors into a new folder beside a checkpoint file. Collective: every rank must call.

    Args:
        tensors: What `split_shards` found, or `copy_shards` of it.
        path: The file of the checkpoint, in a folder that all ranks share; it is written afterwards.
        group: All ranks, by which nothing else is sent meanwhile, as a thread needs it; None for the default group.

    Returns:
        What the checkpoint has to hold under ``shards``: the folder's name, and size and CRC of its files.

    Raises:
        OSError: On every rank, when one could not write. Nothing is left behind.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    token = [os.urandom(4).hex()]
    dist.broadcast_object_list(token, group=group)
    folder = f"{os.fspath(path)}.{token[0]}.shards"
    failure: BaseException | None = None
    written: dict[str, dict[str, int]] = {}
    _torch.spare_storage_warning()
    try:
        save(dict(tensors), storage_writer=FileSystemWriter(folder, sync_files=True), process_group=group)
        rank = dist.get_rank()
        own = [name for name in os.listdir(folder) if name.startswith(f"__{rank}_") or (name[0] == "." and rank == 0)]
        written = {name: _describe(os.path.join(folder, name)) for name in own}
    except (CheckpointException, OSError) as error:  # the first is raised on every rank, with the errors of all
        failure = error
    said = None if failure is None else _describe_failures(failure)
    parts = dist.all_gather_object((said, written), group)
    failures = [text for text, _ in parts if text]
    if failures:
        if dist.is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"the shards of {os.fspath(path)} could not be written: {failures[0]}") from failure
    files = {name: entry for _, part in parts for name, entry in part.items()}
    return {"folder": os.path.basename(folder), "files": files}


def attach_shards(checkpoint: Any, path: str, *, verify: bool) -> Any:
    """Return a checkpoint with a `SavedTensor` in the place of every mark; others are returned as they are.

    Args:
        checkpoint: What was read from the file.
        path: The file, whose folder holds that of the shards.
        verify: Whether to compare all of it with the CRCs; otherwise only the sizes.

    Raises:
        CheckpointError: Files of the folder are missing or damaged.
    """
    shards = checkpoint.get("shards") if isinstance(checkpoint, Mapping) else None
    if not isinstance(shards, Mapping) or not {"folder", "files"} <= shards.keys():
        return checkpoint
    with damage_explained(path):
        reader = _Folder(path, shards)
        reader.verify(with_content=verify)
    whole = {key: value for key, value in checkpoint.items() if key != "shards"}

    def attach(value: Any, _: str) -> Any:
        is_mark = isinstance(value, dict) and value.keys() == {_MARK}
        return reader.tensor(value[_MARK]) if is_mark else value

    with damage_explained(path):
        return rebuild(whole, attach)


def make_whole(checkpoint: Any, device: Any = "cpu") -> Any:
    """Return a checkpoint with whole tensors in the place of every `SavedTensor`, read one by one."""
    return rebuild(checkpoint, lambda v, _: v.read().to(device) if isinstance(v, SavedTensor) else v)


def shards_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the folders of shards of a checkpoint file."""
    found = glob.glob(f"{glob.escape(os.fspath(path))}.*.shards")
    return [folder for folder in found if _NAME.search(folder) and os.path.isdir(folder) and not os.path.islink(folder)]


def remove_shards(path: str | os.PathLike[str], keep: str | None = None) -> None:
    """Delete the folders of shards of a checkpoint file, apart from the one with the name `keep`."""
    for folder in shards_of(path):
        if os.path.basename(folder) != keep:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)


def remove_checkpoint(path: str | os.PathLike[str]) -> None:
    """Delete a checkpoint, where it is, with its shards."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    remove_shards(path)


class _Folder:
    """Reads tensors from a folder of shards."""

    def __init__(self, path: str, shards: Mapping[str, Any]) -> None:
        name = str(shards["folder"])
        if os.path.basename(name) != name or not _NAME.search(name):
            raise UsageCheckpointError(f"{path} names {name!r} as the folder of its shards, which is not beside it")
        if strange := [file for file in shards["files"] if os.path.basename(file) != file or file in ("", ".", "..")]:
            raise UsageCheckpointError(f"{path} names {strange[0]!r} as a file of its shards, which is not among them")
        self.path = os.path.join(os.path.dirname(path), name)
        self._file, self._files = path, shards["files"]

    def verify(self, with_content: bool) -> None:
        for name, expected in self._files.items():
            file = os.path.join(self.path, name)
            if not os.path.isfile(file):
                raise UsageCheckpointError(f"{self._file}: {file} is missing; the folder moves with the checkpoint.")
            found = _describe(file) if with_content else {"size": os.path.getsize(file)}
            if not found.items() <= dict(expected).items():
                raise UsageCheckpointError(f"{file} is damaged: it is not what was saved. Use another checkpoint.")

    def tensor(self, key: str) -> SavedTensor:
        entry = self._metadata.state_dict_metadata.get(key)
        if entry is None or not hasattr(entry, "size"):
            raise UsageCheckpointError(f"{self.path} has no tensor {key!r}, which {self._file} refers to")
        return SavedTensor(self.read, key, entry.size, entry.properties.dtype)

    def read(self, key: str, target: torch.Tensor) -> None:
        """Fill a tensor, or this rank's part of a split one. Not collective."""
        from torch.distributed.checkpoint.state_dict_loader import load

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each rank reads what it needs
            load({key: target}, storage_reader=self._reader, no_dist=True)

    @cached_property
    def _metadata(self) -> Any:
        path = os.path.join(self.path, ".metadata")
        with damage_explained(path), open(path, "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        strange = {entry.relative_path for entry in metadata.storage_data.values()} - set(self._files)
        if strange:
            raise UsageCheckpointError(f"{self.path} refers to {sorted(strange)[0]!r}, which is not a part of it")
        return metadata

    @cached_property
    def _reader(self) -> Any:
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        metadata = self._metadata

        class Reader(FileSystemReader):
            """With the metadata that was read without running anything: torch's own unpickles what it finds."""

            def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
                return metadata

        return Reader(self.path)


class _MetadataUnpickler(pickle.Unpickler):
    """Loads the classes of which torch's metadata consists, and no others."""

    _METADATA = "torch.distributed.checkpoint.metadata"
    _NAMES = (
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "torch.Size",
        "torch.serialization._get_layout",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
    )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        is_listed = f"{module_name}.{global_name}" in self._NAMES
        if is_listed or module_name in (self._METADATA, "torch"):
            found = super().find_class(module_name, global_name)
            is_metadata = isinstance(found, type) and found.__module__ == self._METADATA
            if is_listed or is_metadata or isinstance(found, torch.dtype | torch.layout):
                return found
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def _describe(path: str) -> dict[str, int]:
    crc, size = 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"size": size, "crc32": crc}


def _describe_failures(error: BaseException) -> str:
    """Return what went wrong on which rank, in a line."""
    failures = getattr(error, "failures", None) or {dist.get_rank(): (error, None)}
    return "; ".join(f"rank {rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in failures.items())

"""Tensors that FSDP2 splits over the ranks, and whole ones: a checkpoint of either is loaded into either."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch


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

    def whole(self) -> torch.Tensor:
        """Read all of it into host memory."""
        target = torch.empty(self.shape, dtype=self.dtype)
        self._read(self._key, target)
        return target

    def split_like(self, like: torch.Tensor) -> torch.Tensor:
        """Read this rank's part into a tensor that is split as another one of its shape is."""
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
        return value.split_like(like) if is_split else value.whole()
    if not is_split or not isinstance(value, torch.Tensor) or is_sharded_tensor(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)


def _needs_work(entries: Any, likes: Any) -> bool:
    return any(map(is_sharded_tensor, likes)) or any(isinstance(value, SavedTensor) for value in entries)


def shard_state(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's state dict split as the model's own; the same where nothing is sharded."""
    if not _needs_work(state_dict.values(), own.values()):
        return state_dict
    sharded = OrderedDict((key, shard_like(value, own.get(key))) for key, value in state_dict.items())
    sharded.__dict__.update(getattr(state_dict, "__dict__", {}))
    return sharded


def shard_optimizer_state(state_dict: dict[str, Any], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimizer's state dict split as its parameters are; the same for whole ones."""
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    if not _needs_work((v for entry in state_dict["state"].values() for v in entry.values()), parameters):
        return state_dict
    indices = [index for group in state_dict["param_groups"] for index in group["params"]]
    by_index = dict(zip(indices, parameters))
    state = {
        index: {name: shard_like(value, by_index[index]) for name, value in entry.items()}
        for index, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}

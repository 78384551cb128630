"""Between tensors that FSDP2 splits over the ranks and whole ones, so that a checkpoint is the same for any ranks."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch


def is_sharded_tensor(value: Any) -> bool:
    """Return whether a value is a tensor split over ranks; imports nothing to find out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def gather_shards(value: Any) -> Any:
    """Return a (nested) state with whole tensors in place of sharded ones. Collective: every rank must call.

    Args:
        value: A state dict of a model or an optimizer, with the same structure on every rank.

    Returns:
        On rank 0 the state; sharded tensors are now whole and on the CPU, one at a time on the way there. Elsewhere
        they stay as they are.
    """
    if is_sharded_tensor(value):
        from ..dist import is_main_process

        whole = value.detach().full_tensor()
        return whole.cpu() if is_main_process() else value
    if isinstance(value, OrderedDict):  # of a model: keep the versions of its modules
        gathered = value.copy()
        gathered.__dict__.update(vars(value))
        gathered.update((key, gather_shards(entry)) for key, entry in value.items())
        return gathered
    if isinstance(value, dict):
        return {key: gather_shards(entry) for key, entry in value.items()}
    return [gather_shards(entry) for entry in value] if isinstance(value, list) else value


def shard_like(value: Any, like: Any) -> Any:
    """Return a tensor that every rank has whole, split as another one of its shape is.

    Args:
        value: A tensor; anything else, and a tensor of another shape, is returned as it is.
        like: A sharded tensor; for anything else `value` is returned.
    """
    if not is_sharded_tensor(like) or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    if is_sharded_tensor(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)


def shard_state(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's state dict of whole tensors split as the model's own; the same where nothing is sharded."""
    if not any(is_sharded_tensor(value) for value in own.values()):
        return state_dict
    sharded = OrderedDict((key, shard_like(value, own.get(key))) for key, value in state_dict.items())
    sharded.__dict__.update(getattr(state_dict, "__dict__", {}))
    return sharded


def shard_optimizer_state(state_dict: dict[str, Any], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimizer's state dict of whole tensors split as its parameters are; the same for whole parameters."""
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    if not any(is_sharded_tensor(parameter) for parameter in parameters):
        return state_dict
    indices = [index for group in state_dict["param_groups"] for index in group["params"]]
    by_index = dict(zip(indices, parameters))
    state = {
        index: {name: shard_like(value, by_index[index]) for name, value in entry.items()}
        for index, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}

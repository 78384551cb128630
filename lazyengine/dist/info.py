"""Who and where this process is. Everything works, with the obvious answer, in a single process."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_dist  # loaded by `import torch` already

from ..errors import UsageRuntimeError, UsageValueError
from ..nesting import iter_leaves, leaves_of, map_leaves

_P = ParamSpec("_P")
_R = TypeVar("_R")
local_group: torch_dist.ProcessGroup | None = None


def is_distributed() -> bool:
    """Return whether a process group exists (see `init_dist`)."""
    return torch_dist.is_available() and torch_dist.is_initialized()


def get_default_group() -> torch_dist.ProcessGroup | None:
    """Return the group of all processes, or None in a single process."""
    return torch_dist.group.WORLD if is_distributed() else None


def get_world_size(group: torch_dist.ProcessGroup | None = None) -> int:
    """Return the number of processes in a group, by default of all; 1 without a group."""
    return torch_dist.get_world_size(group) if is_distributed() else 1


def get_rank(group: torch_dist.ProcessGroup | None = None) -> int:
    """Return this process's number in a group, by default among all; 0 without a group."""
    return torch_dist.get_rank(group) if is_distributed() else 0


def get_dist_info(group: torch_dist.ProcessGroup | None = None) -> tuple[int, int]:
    """Return `(rank, world_size)`; `(0, 1)` without a group."""
    return get_rank(group), get_world_size(group)


def get_backend(group: torch_dist.ProcessGroup | None = None) -> str | None:
    """Return the name of a group's backend, such as `"gloo"`; None without a group."""
    return torch_dist.get_backend(group) if is_distributed() else None


def init_local_group(node_rank: int, num_gpus_per_node: int) -> None:
    """Make the group of the processes on this machine (collective: every rank must call).

    Args:
        node_rank: Number of this machine, from 0: ranks are counted machine by machine.
        num_gpus_per_node: Processes on each machine.

    Raises:
        RuntimeError: It exists already.
        ValueError: The numbers do not fit the world size.
    """
    global local_group
    if not is_distributed():
        return
    if local_group is not None:
        raise UsageRuntimeError("the local group exists already; call init_local_group once")
    world_size = get_world_size()
    if num_gpus_per_node < 1 or world_size % num_gpus_per_node:
        raise UsageValueError(
            f"num_gpus_per_node={num_gpus_per_node} does not divide the {world_size} processes; "
            "it is the number of processes on each machine"
        )
    local_group, _ = torch_dist.new_subgroups(num_gpus_per_node)  # pyright: ignore[reportAssignmentType]


def get_local_group() -> torch_dist.ProcessGroup | None:
    """Return the group of the processes on this machine; None in a single process.

    Raises:
        RuntimeError: `init_local_group` was not called.
    """
    if not is_distributed():
        return None
    if local_group is None:
        raise UsageRuntimeError(
            "there is no local group yet; call init_local_group(node_rank, num_gpus_per_node) first"
        )
    return local_group


def get_local_size() -> int:
    """Return the number of processes on this machine: of the local group, else what the launcher says, else 1."""
    if local_group is not None:
        return get_world_size(local_group)
    return _said_by_launcher("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", default=1)


def get_local_rank() -> int:
    """Return this process's number on this machine: in the local group, else what the launcher says, else 0."""
    if local_group is not None:
        return get_rank(local_group)
    return _said_by_launcher("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", default=0)


def _said_by_launcher(*names: str, default: int) -> int:
    found = [os.environ[name] for name in names if name in os.environ]
    return int(found[0]) if found and is_distributed() else default


def is_main_process(group: torch_dist.ProcessGroup | None = None) -> bool:
    """Return whether this is rank 0 of a group, by default of all."""
    return get_rank(group) == 0


def master_only(func: Callable[_P, _R]) -> Callable[_P, _R | None]:
    """Decorate a function so that only rank 0 runs it; the others get None."""

    @functools.wraps(func)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        return func(*args, **kwargs) if is_main_process() else None

    return wrapper


def get_data_device(data: Any) -> torch.device:
    """Return the device that all tensors in a nesting of lists, tuples and dicts are on.

    Raises:
        TypeError: Something in it is neither.
        ValueError: It is empty, or its tensors are on several devices.
    """
    devices = {tensor.device for tensor in leaves_of(Tensor, data, "data").values()}
    if len(devices) > 1:
        raise ValueError(f"data must be on one device but is on {sorted(map(str, devices))}")
    return devices.pop()


def get_comm_device(group: torch_dist.ProcessGroup | None = None) -> torch.device:
    """Return the device that small messages of a group use: the current GPU if it has only NCCL, else the CPU."""
    if is_distributed() and "cpu" not in _backend_by_device(group):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def can_send_from(device: torch.device, group: torch_dist.ProcessGroup | None = None) -> bool:
    """Return whether the group can send tensors on this device as they are (gloo is only asked for CPU tensors)."""
    return _backend_by_device(group).get(device.type, "gloo") != "gloo" or device.type == "cpu"


def _backend_by_device(group: torch_dist.ProcessGroup | None) -> dict[str, str]:
    """Return the backend for each device type, such as `{"cpu": "gloo", "cuda": "nccl"}`."""
    config = torch_dist.get_backend_config(group)
    return dict(entry.split(":") for entry in config.split(","))  # pyright: ignore[reportReturnType]


def cast_data_device(data: Any, device: torch.device, out: Any = None) -> Any:
    """Move the tensors in a nesting of lists, tuples and dicts to a device.

    Args:
        data: A tensor, or a list, tuple or dict of what is accepted here.
        device: Where to move them.
        out: The same nesting of tensors, filled in place instead of making new ones.

    Returns:
        `out` if it is given, else the same nesting; tensors that are there already are not copied.

    Raises:
        TypeError: Something in it is neither, or `out` has another type.
        ValueError: It holds no tensor, or `out` has another length or other keys.
    """
    tensors = leaves_of(Tensor, data, "data")
    if out is None:
        return map_leaves(lambda tensor: tensor.to(device), data)
    if type(out) is not type(data):
        raise TypeError(f"out must be a {type(data).__name__} as data is, not a {type(out).__name__}")
    targets = dict(iter_leaves(out, "data"))
    if targets.keys() != tensors.keys():
        raise ValueError(f"out must hold what data holds: {sorted(targets.keys() ^ tensors.keys())} are in one only")
    for path, tensor in tensors.items():
        targets[path].copy_(tensor)
    return out

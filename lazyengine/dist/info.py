"""Who and where this process is. Everything works, with the obvious answer, in a single process."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_dist  # loaded by ``import torch`` already

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_P = ParamSpec("_P")
_R = TypeVar("_R")
_local_group: "ProcessGroup | None" = None


def is_distributed() -> bool:
    """Return whether a process group exists (see ``init_dist``)."""
    return torch_dist.is_available() and torch_dist.is_initialized()


def get_default_group() -> "ProcessGroup | None":
    """Return the group of all processes, or None in a single process."""
    return torch_dist.group.WORLD if is_distributed() else None


def get_world_size(group: "ProcessGroup | None" = None) -> int:
    """Return the number of processes in a group, by default of all; 1 without a group."""
    return torch_dist.get_world_size(group) if is_distributed() else 1


def get_rank(group: "ProcessGroup | None" = None) -> int:
    """Return this process's number in a group, by default among all; 0 without a group."""
    return torch_dist.get_rank(group) if is_distributed() else 0


def get_dist_info(group: "ProcessGroup | None" = None) -> tuple[int, int]:
    """Return ``(rank, world_size)``; ``(0, 1)`` without a group."""
    return get_rank(group), get_world_size(group)


def per_rank(total: int) -> int:
    """Return the share of each process in a number, such as the samples of a global batch.

    As a recipe, ``batch_size=LazyCall(per_rank)(total=256)``, it keeps the global batches whatever the number of
    processes, so that a run may be resumed with another one.

    Raises:
        ValueError: The number of processes does not divide ``total``.
    """
    world_size = get_world_size()
    if total < 1 or total % world_size:
        raise ValueError(f"per_rank: {total} cannot be shared out equally among {world_size} ranks")
    return total // world_size


def get_backend(group: "ProcessGroup | None" = None) -> str | None:
    """Return the name of a group's backend, such as ``"gloo"``; None without a group."""
    return torch_dist.get_backend(group) if is_distributed() else None


def init_local_group(node_rank: int, num_gpus_per_node: int) -> None:
    """Make the group of the processes on this machine (collective: every rank must call).

    Args:
        node_rank: Number of this machine, from 0.
        num_gpus_per_node: Processes on each machine.

    Raises:
        RuntimeError: It exists already.
        ValueError: The numbers do not fit the world size.
    """
    global _local_group
    if not is_distributed():
        return
    if _local_group is not None:
        raise RuntimeError("the local group exists already; call init_local_group once")
    world_size = get_world_size()
    if num_gpus_per_node < 1 or world_size % num_gpus_per_node:
        raise ValueError(
            f"num_gpus_per_node={num_gpus_per_node} does not divide the {world_size} processes; "
            "it is the number of processes on each machine"
        )
    for node in range(world_size // num_gpus_per_node):  # torch wants every process to make every group
        ranks = list(range(node * num_gpus_per_node, (node + 1) * num_gpus_per_node))
        made = torch_dist.new_group(ranks)
        if node == node_rank:
            _local_group = made  # pyright: ignore[reportAssignmentType]


def get_local_group() -> "ProcessGroup | None":
    """Return the group of the processes on this machine; None in a single process.

    Raises:
        RuntimeError: ``init_local_group`` was not called.
    """
    if not is_distributed():
        return None
    if _local_group is None:
        raise RuntimeError("there is no local group yet; call init_local_group(node_rank, num_gpus_per_node) first")
    return _local_group


def forget_local_group() -> None:
    """Forget the local group; called when the process group is destroyed."""
    global _local_group
    _local_group = None


def get_local_size() -> int:
    """Return the number of processes on this machine: of the local group, else what the launcher says, else 1."""
    if _local_group is not None:
        return torch_dist.get_world_size(_local_group)
    return _environment_number("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", default=1) if is_distributed() else 1


def get_local_rank() -> int:
    """Return this process's number on this machine: in the local group, else what the launcher says, else 0."""
    if _local_group is not None:
        return torch_dist.get_rank(_local_group)
    names = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
    return _environment_number(*names, default=0) if is_distributed() else 0


def _environment_number(*names: str, default: int) -> int:
    for name in names:
        if name in os.environ:
            return int(os.environ[name])
    return default


def is_main_process(group: "ProcessGroup | None" = None) -> bool:
    """Return whether this is rank 0 of a group, by default of all."""
    return get_rank(group) == 0


def master_only(func: Callable[_P, _R]) -> Callable[_P, _R | None]:
    """Decorate a function so that only rank 0 runs it; the others get None."""

    @functools.wraps(func)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        return func(*args, **kwargs) if is_main_process() else None

    return wrapper


def get_data_device(data: Tensor | Mapping | Iterable) -> torch.device:
    """Return the device that all tensors in a nesting of lists, tuples and dicts are on.

    Raises:
        TypeError: Something in it is neither.
        ValueError: It is empty, or its tensors are on several devices.
    """
    devices = set(_devices(data, "data"))
    if not devices:
        raise ValueError("data holds no tensor; it must hold at least one")
    if len(devices) > 1:
        raise ValueError(f"data must be on one device but is on {sorted(map(str, devices))}")
    return devices.pop()


def _devices(data: Any, path: str) -> Iterable[torch.device]:
    if isinstance(data, Tensor):
        yield data.device
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _devices(value, f"{path}[{key!r}]")
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        for index, value in enumerate(data):
            yield from _devices(value, f"{path}[{index}]")
    else:
        raise TypeError(f"{path} must be a tensor or a list, tuple or dict of tensors, not {type(data).__name__}")


def get_comm_device(group: "ProcessGroup | None" = None) -> torch.device:
    """Return the device that small messages of a group use: the current GPU if it has only NCCL, else the CPU."""
    if is_distributed() and "cpu" not in _backend_by_device(group):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def can_send_from(device: torch.device, group: "ProcessGroup | None" = None) -> bool:
    """Return whether the group can send tensors on this device as they are (gloo is only asked for CPU tensors)."""
    return _backend_by_device(group).get(device.type, "gloo") != "gloo" or device.type == "cpu"


def _backend_by_device(group: "ProcessGroup | None") -> dict[str, str]:
    """Return the backend for each device type, such as ``{"cpu": "gloo", "cuda": "nccl"}``."""
    config = torch_dist.get_backend_config(group)
    return dict(entry.split(":") for entry in config.split(","))  # pyright: ignore[reportReturnType]


def cast_data_device(data: Any, device: torch.device, out: Any = None) -> Any:
    """Move the tensors in a nesting of lists, tuples and dicts to a device.

    Args:
        data: A tensor, or a list, tuple or dict of what is accepted here.
        device: Where to move them.
        out: The same nesting of tensors, filled in place instead of making new ones.

    Returns:
        ``out`` if it is given, else the same nesting; tensors that are there already are not copied.

    Raises:
        TypeError: Something in it is neither, or ``out`` has another type.
        ValueError: It is empty, or ``out`` has another length or other keys.
    """
    if out is not None and type(out) is not type(data):
        raise TypeError(f"out must be a {type(data).__name__} as data is, not a {type(out).__name__}")
    if isinstance(data, Tensor):
        return data.to(device) if out is None else out.copy_(data)
    if isinstance(data, Mapping):
        if not data:
            raise ValueError("data holds no tensor; it must hold at least one")
        if out is not None:
            if set(out) != set(data):
                raise ValueError(f"out must have the keys of data: {sorted(map(str, set(out) ^ set(data)))} differ")
            for key, value in data.items():
                out[key] = cast_data_device(value, device, out[key])
            return out
        return type(data)({key: cast_data_device(value, device) for key, value in data.items()})  # pyright: ignore
    if isinstance(data, (list, tuple)):
        if not data:
            raise ValueError("data holds no tensor; it must hold at least one")
        if out is not None:
            if len(out) != len(data):
                raise ValueError(f"out must have {len(data)} entries as data has, not {len(out)}")
            for value, target in zip(data, out):
                cast_data_device(value, device, target)
            return out
        moved = [cast_data_device(value, device) for value in data]
        return type(data)(*moved) if hasattr(data, "_fields") else type(data)(moved)
    raise TypeError(f"data must be a tensor or a list, tuple or dict of tensors, not {type(data).__name__}")

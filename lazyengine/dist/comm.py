"""Collective operations: those of ``torch.distributed``, with placeholders made, devices chosen and shapes compared.

Every rank of the group must call each of these. In a single process they return at once what one process would get.
``src`` and ``dst`` are ranks within the group.
"""

import itertools
import pickle
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as torch_dist

from .guard import communication
from .info import can_send_from, get_comm_device, get_rank, get_world_size

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_OPERATIONS = ("sum", "mean", "product", "min", "max", "band", "bor", "bxor")
_COMPARED_DIMENSIONS = 8
_FIRST_MEANS = 254
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]


def _reduce_operation(name: str) -> Any:
    lowered = name.lower()
    if lowered not in _OPERATIONS:
        raise ValueError(f"op must be one of {', '.join(_OPERATIONS)}, not {name!r}")
    return getattr(torch_dist.ReduceOp, "SUM" if lowered == "mean" else lowered.upper())


def _on_device(data: Tensor, group: "ProcessGroup | None") -> Tensor:
    """Return the tensor, dense and contiguous, where the group can send it."""
    data = data.detach()
    return (data if can_send_from(data.device, group) else data.to(get_comm_device(group))).contiguous()


def _require_tensor(data: Any, name: str) -> None:
    if not isinstance(data, Tensor):
        raise TypeError(f"{name} takes a tensor, not {type(data).__name__}; for Python objects use {name}_object")


def exchange_numbers(numbers: list[int], group: "ProcessGroup | None" = None) -> list[list[int]]:
    """Gather a few integers, as many on every rank: one message, less than a tenth of a millisecond on one host."""
    world_size = get_world_size(group)
    own = torch.tensor(numbers, dtype=torch.int64, device=get_comm_device(group))
    gathered = torch.empty(world_size * len(numbers), dtype=torch.int64, device=own.device)
    torch_dist.all_gather(list(gathered.chunk(world_size)), own, group)
    return gathered.view(world_size, len(numbers)).tolist()


def start_max(numbers: list[int], group: "ProcessGroup | None" = None) -> Callable[[], list[int]]:
    """Ask for the largest of each number over all ranks without waiting: what is returned gives them when called."""
    largest = torch.tensor(numbers, dtype=torch.int64, device=get_comm_device(group))
    work = torch_dist.all_reduce(largest, torch_dist.ReduceOp.MAX, group, async_op=True)

    def finish() -> list[int]:
        if work is not None:
            work.wait()
        return largest.tolist()

    return finish


def _require_equal_shapes(data: Tensor, name: str, group: "ProcessGroup | None") -> None:
    """Raise on every rank where shapes or dtypes differ: the backends hang, or return garbage."""
    code = DTYPES.index(data.dtype) if data.dtype in DTYPES else len(DTYPES)
    shape = [*data.shape[:_COMPARED_DIMENSIONS]]
    shape += [0] * (_COMPARED_DIMENSIONS - len(shape))
    rows = exchange_numbers([code, data.dim(), *shape], group)
    if all(row == rows[0] for row in rows):
        return
    described = [
        f"rank {rank}: {tuple(row[2 : 2 + row[1]])} {DTYPES[row[0]] if row[0] < len(DTYPES) else 'another dtype'}"
        for rank, row in enumerate(rows)
    ]
    raise ValueError(
        f"{name} needs the same shape and dtype on every rank, but got {'; '.join(described)}. "
        f"Pad the tensors, or use {'all_gather_object' if 'gather' in name else 'broadcast_object_list'}."
    )


def _global_rank(group_rank: int, group: "ProcessGroup | None", what: str) -> int:
    world_size = get_world_size(group)
    if not 0 <= group_rank < world_size:
        raise ValueError(
            f"{what}={group_rank} is not a rank of the group, which has {world_size}: 0 to {world_size - 1}"
        )
    return group_rank if group is None else torch_dist.get_global_rank(group, group_rank)


@communication
def barrier(group: "ProcessGroup | None" = None) -> None:
    """Wait until every rank is here."""
    if get_world_size(group) > 1:
        device = get_comm_device(group)
        torch_dist.barrier(group, device_ids=[device.index] if device.type == "cuda" else None)


@communication
def all_reduce(data: Tensor, op: str = "sum", group: "ProcessGroup | None" = None) -> None:
    """Reduce a tensor over all ranks, in place.

    Args:
        data: ``(...)`` of any dtype, the same shape and dtype on every rank.
        op: ``sum``, ``mean``, ``product``, ``min``, ``max``, ``band``, ``bor`` or ``bxor``. The mean of integers is
            rounded towards zero, since the result goes back into ``data``.
        group: By default all ranks.

    Raises:
        ValueError: An unknown ``op``, or shapes or dtypes differ (on every rank).
    """
    _require_tensor(data, "all_reduce")
    operation = _reduce_operation(op)
    world_size = get_world_size(group)
    if world_size == 1:
        return
    _require_equal_shapes(data, "all_reduce", group)
    _all_reduce_unchecked(data, op, operation, group, world_size)


def _all_reduce_unchecked(data: Tensor, op: str, operation: Any, group: "ProcessGroup | None", world_size: int) -> None:
    sent = _on_device(data, group)
    torch_dist.all_reduce(sent, operation, group)
    result = sent / world_size if op.lower() == "mean" else sent
    if result.data_ptr() != data.data_ptr() or result.dtype != data.dtype:
        data.detach().copy_(result)


@communication
def all_gather(data: Tensor, group: "ProcessGroup | None" = None) -> list[Tensor]:
    """Gather the tensors of all ranks.

    Args:
        data: ``(...)`` of any dtype, the same shape and dtype on every rank.
        group: By default all ranks.

    Returns:
        One tensor for each rank, on the device of ``data``; in a single process ``[data]``.

    Raises:
        ValueError: Shapes or dtypes differ (on every rank).
    """
    _require_tensor(data, "all_gather")
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    _require_equal_shapes(data, "all_gather", group)
    sent = _on_device(data, group)
    received = [torch.empty_like(sent) for _ in range(world_size)]
    torch_dist.all_gather(received, sent, group)
    return [tensor.to(data.device) for tensor in received]


@communication
def gather(data: Tensor, dst: int = 0, group: "ProcessGroup | None" = None) -> list[Tensor]:
    """Gather the tensors of all ranks on one.

    Args:
        data: ``(...)`` of any dtype, the same shape and dtype on every rank.
        dst: The rank in the group that receives.
        group: By default all ranks.

    Returns:
        On ``dst`` one tensor for each rank, on the device of ``data``; elsewhere an empty list.

    Raises:
        ValueError: ``dst`` is no rank, or shapes or dtypes differ (on every rank).
    """
    _require_tensor(data, "gather")
    root = _global_rank(dst, group, "dst")
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    _require_equal_shapes(data, "gather", group)
    sent = _on_device(data, group)
    received = [torch.empty_like(sent) for _ in range(world_size)] if get_rank(group) == dst else []
    torch_dist.gather(sent, received or None, root, group)
    return [tensor.to(data.device) for tensor in received]


@communication
def broadcast(data: Tensor, src: int = 0, group: "ProcessGroup | None" = None) -> None:
    """Copy the tensor of one rank into that of all others, in place.

    Args:
        data: ``(...)`` of any dtype, the same shape and dtype on every rank.
        src: The rank in the group that sends.
        group: By default all ranks.

    Raises:
        ValueError: ``src`` is no rank, or shapes or dtypes differ (on every rank).
    """
    _require_tensor(data, "broadcast")
    root = _global_rank(src, group, "src")
    if get_world_size(group) == 1:
        return
    _require_equal_shapes(data, "broadcast", group)
    sent = _on_device(data, group)
    torch_dist.broadcast(sent, root, group)
    if get_rank(group) != src and sent.data_ptr() != data.data_ptr():
        data.detach().copy_(sent)


@communication
def sync_random_seed(group: "ProcessGroup | None" = None) -> int:
    """Draw a seed in ``[0, 2**31)`` from numpy's global generator; every rank gets that of rank 0."""
    seed = int(np.random.randint(2**31))
    if get_world_size(group) == 1:
        return seed
    shared = torch.tensor(seed, dtype=torch.int64, device=get_comm_device(group))
    torch_dist.broadcast(shared, _global_rank(0, group, "src"), group)
    return int(shared.item())


@communication
def broadcast_object_list(data: list[Any], src: int = 0, group: "ProcessGroup | None" = None) -> None:
    """Replace the items of a list by those of one rank, in place.

    Args:
        data: Picklable objects; the same number on every rank.
        src: The rank in the group that sends.
        group: By default all ranks.

    Raises:
        TypeError: ``data`` is not a list.
        ValueError: ``src`` is no rank, or the lengths differ (on every rank).
    """
    if not isinstance(data, list):
        raise TypeError(f"broadcast_object_list takes a list, whose items it replaces, not {type(data).__name__}")
    root = _global_rank(src, group, "src")
    if get_world_size(group) == 1:
        return
    _require_equal_shapes(torch.empty(len(data), dtype=torch.uint8), "broadcast_object_list", group)
    if data:
        torch_dist.broadcast_object_list(data, root, group, device=get_comm_device(group))


@communication
def all_gather_object(data: Any, group: "ProcessGroup | None" = None) -> list[Any]:
    """Gather any picklable objects of all ranks; in a single process the result is ``[data]``."""
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    received: list[Any] = [None] * world_size
    torch_dist.all_gather_object(received, data, group)
    return received


@communication
def gather_object(data: Any, dst: int = 0, group: "ProcessGroup | None" = None) -> list[Any] | None:
    """Gather any picklable objects of all ranks on one.

    The object of ``dst`` itself is passed through without pickling.

    Args:
        data: A picklable object.
        dst: The rank in the group that receives.
        group: By default all ranks.

    Returns:
        On ``dst`` one object for each rank; elsewhere None.
    """
    root = _global_rank(dst, group, "dst")
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    rank, device = get_rank(group), get_comm_device(group)
    pickled = b"" if rank == dst else pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
    sizes = torch.zeros(world_size, dtype=torch.int64, device=device)
    own_size = torch.tensor([len(pickled)], dtype=torch.int64, device=device)
    torch_dist.all_gather(list(sizes.chunk(world_size)), own_size, group)
    lengths = sizes.tolist()
    sent = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    if pickled:
        sent[: len(pickled)] = torch.frombuffer(bytearray(pickled), dtype=torch.uint8)
    received = [torch.empty_like(sent) for _ in range(world_size)] if rank == dst else None
    torch_dist.gather(sent, received, root, group)
    if received is None:
        return None
    buffers = [tensor[:length].cpu().numpy().data for tensor, length in zip(received, lengths)]
    return [data if i == dst else pickle.loads(buffer) for i, buffer in enumerate(buffers)]


def _grouped_by_dtype(tensors: list[Tensor], max_bytes: int | None) -> list[list[int]]:
    """Split tensors into buckets of one dtype and device and at most ``max_bytes`` (a larger tensor is alone).

    Returns:
        The positions in ``tensors``, bucket by bucket.
    """
    done: list[list[int]] = []
    last: dict[Any, tuple[list[int], int]] = {}
    for index, tensor in enumerate(tensors):
        kind = (tensor.dtype, tensor.device)
        bucket, size = last.get(kind, ([], 0))
        if not bucket or (max_bytes is not None and size + tensor.nbytes > max_bytes):
            bucket, size = [], 0
            done.append(bucket)
        bucket.append(index)
        last[kind] = (bucket, size + tensor.nbytes)
    return done


def _reduce_flat(tensors: list[Tensor], op: str, group: "ProcessGroup | None") -> list[Tensor]:
    """Reduce tensors of one dtype and device as one message; return new tensors of the same shapes."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    all_reduce(flat, op, group)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors)]


@communication
def all_reduce_dict(data: dict[str, Tensor], op: str = "sum", group: "ProcessGroup | None" = None) -> None:
    """Reduce the tensors of a dict over all ranks, in place, one message for each dtype.

    Args:
        data: Tensors by name; the same names, shapes and dtypes on every rank, in any order. Values are replaced.
        op: As for ``all_reduce``.
        group: By default all ranks.

    Raises:
        TypeError: ``data`` is not a dict of tensors.
        ValueError: An unknown ``op``, or the ranks have other names or shapes (on every rank).
    """
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise TypeError(f"all_reduce_dict takes a dict of tensors, not {type(data).__name__}")
    _reduce_operation(op)
    if get_world_size(group) == 1:
        return
    keys = sorted(data)
    tensors = [data[key] for key in keys]
    _require_equal_objects([(k, tuple(t.shape), str(t.dtype)) for k, t in zip(keys, tensors)], group)
    for bucket in _grouped_by_dtype(tensors, None):
        for index, reduced in zip(bucket, _reduce_flat([tensors[i] for i in bucket], op, group)):
            data[keys[index]] = reduced


def _require_equal_objects(own: list[Any], group: "ProcessGroup | None") -> None:
    everyone = all_gather_object(own, group)
    for rank, other in enumerate(everyone):
        if other != everyone[0]:
            differing = [item for item in [*other, *everyone[0]] if item not in other or item not in everyone[0]]
            raise ValueError(
                "all_reduce_dict needs the same names, shapes and dtypes on every rank; "
                f"rank {rank} and rank 0 differ in {differing[:10]}"
            )


@communication
def average_lists(lists: dict[str, list[float]], group: "ProcessGroup | None" = None) -> dict[str, list[float]] | None:
    """Return the means over all ranks of lists of numbers by name; None where names or lengths differ between ranks.

    One message for up to 254 numbers, since it also tells whether the ranks have the same names.
    """
    numbers = [number for values in lists.values() for number in values]
    layout = zlib.crc32(repr([(name, len(values)) for name, values in lists.items()]).encode()) % 2**20
    first = [layout, layout**2, *numbers[:_FIRST_MEANS]]
    means = _mean(first + [0.0] * (_FIRST_MEANS + 2 - len(first)), group)
    if means[0] ** 2 != means[1]:  # the mean of the squares is the square of the mean only where all are equal
        return None
    means = means[2:] + (_mean(numbers[_FIRST_MEANS:], group) if len(numbers) > _FIRST_MEANS else [])
    ends = itertools.accumulate(len(values) for values in lists.values())
    return {name: means[end - len(values) : end] for (name, values), end in zip(lists.items(), ends)}


def _mean(numbers: list[float], group: "ProcessGroup | None") -> list[float]:
    total = torch.tensor(numbers, dtype=torch.float64, device=get_comm_device(group))
    torch_dist.all_reduce(total, group=group)
    return (total / get_world_size(group)).tolist()


@communication
def all_reduce_params(
    params: Iterable[Tensor],
    coalesce: bool = True,
    bucket_size_mb: int = -1,
    op: str = "sum",
    group: "ProcessGroup | None" = None,
) -> None:
    """Reduce parameters or buffers over all ranks, in place.

    Args:
        params: Tensors; the same shapes and dtypes in the same order on every rank.
        coalesce: Send many as one message.
        bucket_size_mb: At most so many MiB in a message; -1 for one message for each dtype and device.
        op: As for ``all_reduce``.
        group: By default all ranks.
    """
    _reduce_operation(op)
    if get_world_size(group) == 1:
        return
    tensors = [param.detach() for param in params]
    if not coalesce:
        for tensor in tensors:
            all_reduce(tensor, op, group)
        return
    for bucket in _grouped_by_dtype(tensors, bucket_size_mb << 20 if bucket_size_mb > 0 else None):
        for index, reduced in zip(bucket, _reduce_flat([tensors[i] for i in bucket], op, group)):
            tensors[index].copy_(reduced)


__all__ = [
    "all_gather",
    "all_gather_object",
    "all_reduce",
    "all_reduce_dict",
    "all_reduce_params",
    "average_lists",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "sync_random_seed",
]

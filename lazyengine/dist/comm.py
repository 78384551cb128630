"""Collective operations: those of `torch.distributed`, with placeholders made, devices chosen and shapes compared.

Every rank of the group must call each of these. In a single process they return at once what one process would get.
`src` and `dst` are ranks within the group.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as torch_dist

from .guard import named_communication
from .info import can_send_from, get_comm_device, get_rank, get_world_size

_OPERATIONS = ("sum", "mean", "product", "min", "max", "band", "bor", "bxor")
_COMPARED_DIMENSIONS = 8
_NUMBERS_IN_A_MESSAGE = 256
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]


def _reduce_operation(name: str) -> Any:
    lowered = name.lower()
    if lowered not in _OPERATIONS:
        raise ValueError(f"op must be one of {', '.join(_OPERATIONS)}, not {name!r}")
    return getattr(torch_dist.ReduceOp, "SUM" if lowered == "mean" else lowered.upper())


def exchange_numbers(numbers: list[int], group: torch_dist.ProcessGroup | None = None) -> list[list[int]]:
    """Gather a few integers, as many on every rank: one message, less than a tenth of a millisecond on one host."""
    own = torch.tensor(numbers, dtype=torch.int64, device=get_comm_device(group))
    received = [torch.empty_like(own) for _ in range(get_world_size(group))]
    torch_dist.all_gather(received, own, group)
    return [row.tolist() for row in received]


def start_max(numbers: list[int], group: torch_dist.ProcessGroup | None = None) -> Callable[[], list[int]]:
    """Ask for the largest of each number over all ranks without waiting: what is returned gives them when called."""
    largest = torch.tensor(numbers, dtype=torch.int64, device=get_comm_device(group))
    work: Any = torch_dist.all_reduce(largest, torch_dist.ReduceOp.MAX, group, async_op=True)

    def finish() -> list[int]:
        work.wait()
        return largest.tolist()

    return finish


def _to_send(data: Any, name: str, group: torch_dist.ProcessGroup | None) -> Tensor | None:
    """Return a tensor dense and contiguous where the group can send it, its shape compared; None in a single process.

    Raises:
        TypeError: It is no tensor.
        ValueError: Shapes or dtypes differ, with which the backends hang or return garbage (on every rank).
    """
    if not isinstance(data, Tensor):
        raise TypeError(f"{name} takes a tensor, not {type(data).__name__}; for Python objects use {name}_object")
    if get_world_size(group) == 1:
        return None
    data = data.detach()
    sent = (data if can_send_from(data.device, group) else data.to(get_comm_device(group))).contiguous()
    code = DTYPES.index(data.dtype) if data.dtype in DTYPES else len(DTYPES)
    shape = [*data.shape, *[0] * _COMPARED_DIMENSIONS][:_COMPARED_DIMENSIONS]
    rows = exchange_numbers([code, data.dim(), *shape], group)
    if all(row == rows[0] for row in rows):
        return sent
    described = [
        f"rank {rank}: {tuple(row[2 : 2 + row[1]])} {DTYPES[row[0]] if row[0] < len(DTYPES) else 'another dtype'}"
        for rank, row in enumerate(rows)
    ]
    raise ValueError(
        f"{name} needs the same shape and dtype on every rank, but got {'; '.join(described)}. "
        f"Pad the tensors, or use {'all_gather_object' if 'gather' in name else 'broadcast_object_list'}."
    )


def _global_rank(group_rank: int, group: torch_dist.ProcessGroup | None, what: str) -> int:
    if not 0 <= group_rank < get_world_size(group):
        raise ValueError(f"{what}={group_rank} is not a rank of the group: 0 to {get_world_size(group) - 1}")
    return group_rank if group is None else torch_dist.get_global_rank(group, group_rank)


@named_communication("lazyengine.dist.barrier")
def barrier(group: torch_dist.ProcessGroup | None = None) -> None:
    """Wait until every rank is here."""
    if get_world_size(group) > 1:
        device = get_comm_device(group)
        torch_dist.barrier(group, device_ids=[device.index] if device.type == "cuda" else None)


@named_communication("lazyengine.dist.all_reduce")
def all_reduce(data: Tensor, op: str = "sum", group: torch_dist.ProcessGroup | None = None) -> None:
    """Reduce a tensor over all ranks, in place.

    Args:
        data: `(...)` of any dtype, the same shape and dtype on every rank.
        op: `sum`, `mean`, `product`, `min`, `max`, `band`, `bor` or `bxor`. The mean of integers is
            rounded towards zero, since the result goes back into `data`.
        group: By default all ranks.

    Raises:
        ValueError: An unknown `op`, or shapes or dtypes differ (on every rank).
    """
    operation = _reduce_operation(op)
    sent = _to_send(data, "all_reduce", group)
    if sent is None:
        return
    torch_dist.all_reduce(sent, operation, group)
    result = sent / get_world_size(group) if op.lower() == "mean" else sent
    if result.data_ptr() != data.data_ptr() or result.dtype != data.dtype:
        data.detach().copy_(result)


@named_communication("lazyengine.dist.all_gather")
def all_gather(data: Tensor, group: torch_dist.ProcessGroup | None = None) -> list[Tensor]:
    """Gather the tensors of all ranks.

    Args:
        data: `(...)` of any dtype, the same shape and dtype on every rank.
        group: By default all ranks.

    Returns:
        One tensor for each rank, on the device of `data`; in a single process `[data]`.

    Raises:
        ValueError: Shapes or dtypes differ (on every rank).
    """
    sent = _to_send(data, "all_gather", group)
    if sent is None:
        return [data]
    received = [torch.empty_like(sent) for _ in range(get_world_size(group))]
    torch_dist.all_gather(received, sent, group)
    return [tensor.to(data.device) for tensor in received]


@named_communication("lazyengine.dist.gather")
def gather(data: Tensor, dst: int = 0, group: torch_dist.ProcessGroup | None = None) -> list[Tensor]:
    """Gather the tensors of all ranks on one.

    Args:
        data: `(...)` of any dtype, the same shape and dtype on every rank.
        dst: The rank in the group that receives.
        group: By default all ranks.

    Returns:
        On `dst` one tensor for each rank, on the device of `data`; elsewhere an empty list.

    Raises:
        ValueError: `dst` is no rank, or shapes or dtypes differ (on every rank).
    """
    root = _global_rank(dst, group, "dst")
    sent = _to_send(data, "gather", group)
    if sent is None:
        return [data]
    received = [torch.empty_like(sent) for _ in range(get_world_size(group))] if get_rank(group) == dst else []
    torch_dist.gather(sent, received or None, root, group)
    return [tensor.to(data.device) for tensor in received]


@named_communication("lazyengine.dist.broadcast")
def broadcast(data: Tensor, src: int = 0, group: torch_dist.ProcessGroup | None = None) -> None:
    """Copy the tensor of one rank into that of all others, in place.

    Args:
        data: `(...)` of any dtype, the same shape and dtype on every rank.
        src: The rank in the group that sends.
        group: By default all ranks.

    Raises:
        ValueError: `src` is no rank, or shapes or dtypes differ (on every rank).
    """
    root = _global_rank(src, group, "src")
    sent = _to_send(data, "broadcast", group)
    if sent is None:
        return
    torch_dist.broadcast(sent, root, group)
    if get_rank(group) != src and sent.data_ptr() != data.data_ptr():
        data.detach().copy_(sent)


@named_communication("lazyengine.dist.sync_random_seed")
def sync_random_seed(group: torch_dist.ProcessGroup | None = None) -> int:
    """Draw a seed in `[0, 2**31)` from numpy's global generator; every rank gets that of rank 0."""
    seed = torch.tensor(np.random.randint(2**31), dtype=torch.int64)
    broadcast(seed, 0, group)
    return int(seed)


@named_communication("lazyengine.dist.broadcast_object_list")
def broadcast_object_list(data: list[Any], src: int = 0, group: torch_dist.ProcessGroup | None = None) -> None:
    """Replace the items of a list by those of one rank, in place.

    Args:
        data: Picklable objects; the same number on every rank.
        src: The rank in the group that sends.
        group: By default all ranks.

    Raises:
        TypeError: `data` is not a list.
        ValueError: `src` is no rank, or the lengths differ (on every rank).
    """
    if not isinstance(data, list):
        raise TypeError(f"broadcast_object_list takes a list, whose items it replaces, not {type(data).__name__}")
    root = _global_rank(src, group, "src")
    if _to_send(torch.empty(len(data), dtype=torch.uint8), "broadcast_object_list", group) is not None and data:
        torch_dist.broadcast_object_list(data, root, group, device=get_comm_device(group))


@named_communication("lazyengine.dist.all_gather_object")
def all_gather_object(data: Any, group: torch_dist.ProcessGroup | None = None) -> list[Any]:
    """Gather any picklable objects of all ranks; in a single process the result is `[data]`."""
    if get_world_size(group) == 1:
        return [data]
    received: list[Any] = [None] * get_world_size(group)
    torch_dist.all_gather_object(received, data, group)
    return received


@named_communication("lazyengine.dist.gather_object")
def gather_object(data: Any, dst: int = 0, group: torch_dist.ProcessGroup | None = None) -> list[Any] | None:
    """Gather any picklable objects of all ranks on one.

    The object of `dst` itself is passed through without pickling.

    Args:
        data: A picklable object.
        dst: The rank in the group that receives.
        group: By default all ranks.

    Returns:
        On `dst` one object for each rank; elsewhere None.
    """
    root = _global_rank(dst, group, "dst")
    world_size = get_world_size(group)
    if world_size == 1:
        return [data]
    is_root = get_rank(group) == dst
    received: list[Any] | None = [None] * world_size if is_root else None
    torch_dist.gather_object(None if is_root else data, received, root, group)
    if received is not None:
        received[dst] = data
    return received


def _reduced(
    tensors: list[Tensor], op: str, group: torch_dist.ProcessGroup | None, max_bytes: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Reduce tensors, as one message for those of one dtype and device up to `max_bytes` (a larger tensor is alone).

    Yields:
        The position of a tensor and its reduced value, of the same shape.
    """
    by_kind: dict[Any, list[list[int]]] = {}
    for index, tensor in enumerate(tensors):
        buckets = by_kind.setdefault((tensor.dtype, tensor.device), [[]])
        is_full = max_bytes is not None and sum(tensors[i].nbytes for i in (*buckets[-1], index)) > max_bytes
        if buckets[-1] and is_full:
            buckets.append([])
        buckets[-1].append(index)
    for bucket in itertools.chain.from_iterable(by_kind.values()):
        flat = torch.cat([tensors[index].detach().reshape(-1) for index in bucket])
        all_reduce(flat, op, group)
        pieces = flat.split([tensors[index].numel() for index in bucket])
        yield from ((index, piece.view(tensors[index].shape)) for index, piece in zip(bucket, pieces))


@named_communication("lazyengine.dist.all_reduce_dict")
def all_reduce_dict(data: dict[str, Tensor], op: str = "sum", group: torch_dist.ProcessGroup | None = None) -> None:
    """Reduce the tensors of a dict over all ranks, in place, one message for each dtype.

    Args:
        data: Tensors by name; the same names, shapes and dtypes on every rank, in any order. Values are replaced.
        op: As for `all_reduce`.
        group: By default all ranks.

    Raises:
        TypeError: `data` is not a dict of tensors.
        ValueError: An unknown `op`, or the ranks have other names or shapes (on every rank).
    """
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise TypeError(f"all_reduce_dict takes a dict of tensors, not {type(data).__name__}")
    _reduce_operation(op)
    if get_world_size(group) == 1:
        return
    keys = sorted(data)
    tensors = [data[key] for key in keys]
    everyone = all_gather_object([(key, tuple(data[key].shape), str(data[key].dtype)) for key in keys], group)
    for rank, other in enumerate(everyone):
        if other != everyone[0]:
            raise ValueError(
                "all_reduce_dict needs the same names, shapes and dtypes on every rank; "
                f"rank {rank} and rank 0 differ in {sorted({*other} ^ {*everyone[0]})[:10]}"
            )
    data.update((keys[index], reduced) for index, reduced in _reduced(tensors, op, group))


def start_average(
    lists: dict[str, list[float]], group: torch_dist.ProcessGroup | None = None
) -> Callable[..., dict[str, list[float]] | None]:
    """Ask for the means over all ranks of lists of numbers by name, without waiting for them.

    Up to 256 numbers are one message of a fixed size; more are sent in a second one, which waits for the first. The
    first holds a hash of names and lengths and its square: these are the same on all ranks where the sum of the
    squares, times the number of ranks, is the square of the sum.

    Returns:
        What gives the means when called, which is no collective call: None where names or lengths differ between
        ranks. Called with `timeout_s`, it raises a `TimeoutError` when the other ranks have not sent theirs by then.
    """
    digest = zlib.crc32(repr([(name, len(values)) for name, values in lists.items()]).encode())
    tags = [digest & 0xFFFF, digest >> 16]
    numbers = list(itertools.chain.from_iterable(lists.values()))
    first, rest = numbers[:_NUMBERS_IN_A_MESSAGE], numbers[_NUMBERS_IN_A_MESSAGE:]
    padding = [0.0] * (_NUMBERS_IN_A_MESSAGE - len(first))
    receive = _start_sums([*tags, *(tag**2 for tag in tags), *first, *padding], group)
    world_size = get_world_size(group)

    def is_same(received: list[float]) -> bool:
        low, high, low_squares, high_squares = map(int, received[:4])
        return low**2 == world_size * low_squares and high**2 == world_size * high_squares

    receive_rest = _start_sums(rest, group) if rest and is_same(receive()) else list

    def finish(timeout_s: float | None = None) -> dict[str, list[float]] | None:
        received = receive(timeout_s)
        if not is_same(received):
            return None
        means = (total / world_size for total in received[4 : 4 + len(first)] + (receive_rest() if rest else []))
        return {name: list(itertools.islice(means, len(values))) for name, values in lists.items()}

    return finish


def _start_sums(numbers: list[float], group: torch_dist.ProcessGroup | None) -> Callable[..., list[float]]:
    """Ask for the sum over all ranks of each of some numbers, as many on every rank."""
    sums = torch.tensor(numbers, dtype=torch.float64, device=get_comm_device(group))
    if get_world_size(group) == 1:
        return lambda timeout_s=None: numbers
    with named_communication("lazyengine.dist.start_average"):
        work: Any = torch_dist.all_reduce(sums, group=group, async_op=True)

    def receive(timeout_s: float | None = None) -> list[float]:
        with named_communication("lazyengine.dist.start_average"):
            deadline = time.monotonic() + (timeout_s or 0.0)
            while timeout_s is not None and not work.is_completed():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the other ranks have not sent their values within {timeout_s:g} s")
                time.sleep(0.001)
            work.wait()
            return sums.tolist()

    return receive


@named_communication("lazyengine.dist.all_reduce_params")
def all_reduce_params(
    params: Iterable[Tensor],
    coalesce: bool = True,
    bucket_size_mb: int = -1,
    op: str = "sum",
    group: torch_dist.ProcessGroup | None = None,
) -> None:
    """Reduce parameters or buffers over all ranks, in place.

    Args:
        params: Tensors; the same shapes and dtypes in the same order on every rank.
        coalesce: Send many as one message.
        bucket_size_mb: At most so many MiB in a message; -1 for one message for each dtype and device.
        op: As for `all_reduce`.
        group: By default all ranks.
    """
    _reduce_operation(op)
    if get_world_size(group) == 1:
        return
    tensors = [param.detach() for param in params]
    max_bytes = (bucket_size_mb << 20 if bucket_size_mb > 0 else None) if coalesce else 0
    for index, reduced in _reduced(tensors, op, group, max_bytes):
        tensors[index].copy_(reduced)

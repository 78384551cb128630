"""Bring the results of all ranks together on rank 0, in the order of the data set."""

import contextlib
import gc
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_dist

from .comm import DTYPES, all_gather_object, broadcast_object_list, exchange_numbers, gather_object
from .guard import communication
from .info import can_send_from, get_comm_device, get_dist_info, get_local_size, get_rank

_FILLER = object()
_OBJECTS, _LIST, _TENSOR = range(3)  # how results travel: pickled, as one tensor made of a list of them, as a tensor
_MAX_SAMPLE_DIMENSIONS = 6


def collect_results(results: Any, size: int, device: str = "cpu", tmpdir: str | None = None) -> Any:
    """Collect a list, or a tensor, of results from all ranks (collective: every rank must call).

    Result ``i`` of rank ``r`` goes to place ``i * world_size + r``, which is the order in which samplers deal out
    indices; then the list is cut to ``size``, since samplers repeat some at the end. In a single process:
    ``results[:size]``.

    Tensors travel as tensors, ten and more times faster than as objects: a tensor ``(N, ...)`` with one row for each
    sample, or a list of tensors of the same shape and dtype.

    Args:
        results: The list of this rank, of any length; or a tensor ``(N, ...)``, ``N`` may differ between ranks.
        size: Number of samples in the data set.
        device: ``"cpu"``: objects go through files in a folder that all ranks see. ``"gpu"``: they are sent.
        tmpdir: Where ``"cpu"`` makes its folder, which is deleted afterwards. By default the system's folder for
            temporary files on one machine, the working directory on several.

    Returns:
        On rank 0 the list, or the tensor, of at most ``size`` results; None elsewhere.

    Raises:
        ValueError: An unknown ``device``, or a ``tmpdir`` for another than ``"cpu"``.
        RuntimeError: A rank could not write its file (on every rank), or ``tmpdir`` is not the same folder everywhere.
    """
    if device not in ("cpu", "gpu", "npu"):
        raise ValueError(f"device must be 'cpu', 'gpu' or 'npu', not {device!r}")
    if device != "cpu":
        if tmpdir is not None:
            raise ValueError(f"tmpdir is for device='cpu'; with device={device!r} nothing is written, so leave it out")
        return collect_results_gpu(results, size)
    return collect_results_cpu(results, size, tmpdir)


@communication
def collect_results_cpu(result_part: Any, size: int, tmpdir: str | None = None) -> Any:
    """Collect results through a folder that all ranks see; see ``collect_results``."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return result_part[:size]
    is_tensor, collected = _collect_tensors(result_part, size)
    if is_tensor:
        return collected
    folder = _shared_folder(tmpdir)
    try:
        return _collect_through(folder, result_part, size, rank, world_size)
    finally:
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _collect_through(folder: str, result_part: Sequence[Any], size: int, rank: int, world_size: int) -> Any:
    failure = None
    if rank != 0:  # rank 0 keeps its own
        try:
            with open(os.path.join(folder, f"part_{rank}.pkl"), "wb") as file, _without_collector():
                pickle.dump(result_part, file, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    _raise_together(failure, f"write its results to {folder}")
    if rank != 0:
        return None
    parts = [result_part]
    for other in range(1, world_size):
        path = os.path.join(folder, f"part_{other}.pkl")
        if not os.path.exists(path):
            raise RuntimeError(
                f"the results of rank {other} are not in {folder}: it is not the same folder on every machine; "
                "give a tmpdir on a shared disk, or use device='gpu'"
            )
        with open(path, "rb") as file, _without_collector():
            parts.append(pickle.load(file))
    return _interleave(parts, size)


@communication
def collect_results_gpu(result_part: Any, size: int) -> Any:
    """Collect results by sending them; see ``collect_results``."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return result_part[:size]
    is_tensor, collected = _collect_tensors(result_part, size)
    if is_tensor:
        return collected
    with _without_collector():
        parts = gather_object(result_part)
    return _interleave(parts, size) if rank == 0 and parts is not None else None


def _interleave(parts: Sequence[Sequence[Any]], size: int) -> list[Any]:
    if len({len(part) for part in parts}) == 1:
        return list(chain.from_iterable(zip(*parts)))[:size]
    merged = chain.from_iterable(zip_longest(*parts, fillvalue=_FILLER))
    return [result for result in merged if result is not _FILLER][:size]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the cyclic garbage collector off: while objects are made in bulk it only looks for garbage in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _shared_folder(tmpdir: str | None) -> str:
    """Make the folder on rank 0 and tell the others; where that fails, raise everywhere."""
    rank, world_size = get_dist_info()
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            if tmpdir is None:
                parent = None if get_local_size() == world_size else os.getcwd()
            else:
                parent = os.path.abspath(tmpdir)
                os.makedirs(parent, exist_ok=True)
            answer[0] = tempfile.mkdtemp(prefix=".collect_results_", dir=parent)
        except OSError as error:
            answer[1] = f"{type(error).__name__}: {error}"
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise RuntimeError(f"rank 0 could not make the folder for results: {answer[1]}")
    return answer[0]


def _raise_together(failure: str | None, what: str) -> None:
    """Wait for all ranks; raise on all of them if one has a failure."""
    failed = [f"rank {rank}: {text}" for rank, text in enumerate(all_gather_object(failure)) if text is not None]
    if failed:
        raise RuntimeError(f"not every rank could {what}: {'; '.join(failed)}")


def _collect_tensors(part: Any, size: int) -> tuple[bool, Any]:
    """Collect as tensors if every rank can.

    Returns:
        Whether it was done, and the result (None on other ranks than 0).
    """
    is_list = isinstance(part, (list, tuple))
    if not is_list and not (isinstance(part, Tensor) and part.dim() > 0):
        raise TypeError(f"results must be a list, or a tensor with a row for each sample, not {type(part).__name__}")
    own = _stackable(part) if is_list else part.detach()
    layouts = exchange_numbers(_layout(own, is_list, len(part)))
    kinds = {(kind, *rest) for kind, rows, *rest in layouts if (kind, rows) != (_OBJECTS, 0)}  # no results fit to any
    if len(kinds) != 1 or next(iter(kinds))[0] == _OBJECTS:
        if _TENSOR in {kind for kind, *_ in kinds}:
            raise ValueError(
                "results must be tensors of the same dtype and shape of a sample on every rank; "
                f"rank {get_rank()} got {'a list' if is_list else f'{part.dtype} of {tuple(part.shape[1:])} a sample'}"
            )
        return False, None
    kind, dtype, num_dims, *dims = next(iter(kinds))
    rows = [layout[1] for layout in layouts]
    device = own.device if own is not None and can_send_from(own.device) else get_comm_device()
    if own is not None and own.shape[0] == max(rows) and own.device == device:
        sent = own.contiguous()
    else:
        sent = torch.zeros((max(rows), *dims[:num_dims]), dtype=DTYPES[dtype], device=device)
        if own is not None:
            sent[: own.shape[0]] = own
    received = [torch.empty_like(sent) for _ in rows] if get_rank() == 0 else None
    torch_dist.gather(sent, received)
    if received is None:
        return True, None
    merged = torch.stack(received, dim=1).flatten(0, 1)  # (max rows, world size, ...) to the order of the data set
    if len(set(rows)) > 1:
        is_row = torch.arange(max(rows))[:, None] < torch.tensor(rows)[None, :]
        merged = merged[is_row.flatten().to(merged.device)]
    merged = merged[:size]
    return True, list(merged.unbind(0)) if kind == _LIST else merged


def _layout(own: Tensor | None, is_list: bool, num_results: int) -> list[int]:
    """Describe results in numbers: kind, rows, and for tensors the dtype and shape of a sample."""
    sample = own.shape[1:] if own is not None else ()
    if own is None or own.dtype not in DTYPES or len(sample) > _MAX_SAMPLE_DIMENSIONS:
        return [_OBJECTS, num_results] + [0] * (2 + _MAX_SAMPLE_DIMENSIONS)
    padding = [0] * (_MAX_SAMPLE_DIMENSIONS - len(sample))
    kind = _LIST if is_list else _TENSOR
    return [kind, num_results, DTYPES.index(own.dtype), len(sample), *sample, *padding]


def _stackable(part: Sequence[Any]) -> Tensor | None:
    """Return the tensors of a list as one, or None if they are not all tensors of one shape, dtype and device."""
    if not part or not isinstance(part[0], Tensor) or not all(type(item) is Tensor for item in part):
        return None
    first = part[0]
    if len({(t.shape, t.dtype, t.device) for t in part}) > 1 or first.layout != torch.strided:
        return None
    return torch.stack([item.detach() for item in part])

"""Bring the results of all ranks together on rank 0, in the order of the data set."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor

from ..nesting import iter_leaves, map_leaves
from .comm import DTYPES, all_gather_object, broadcast_object_list, gather, gather_object
from .guard import named_communication
from .info import get_dist_info, get_local_size, get_rank

_FILLER = object()
_OBJECTS = ("objects",)


@named_communication("lazyengine.dist.collect_results")
def collect_results(results: Any, size: int, device: str = "cpu", tmpdir: str | None = None) -> Any:
    """Collect a list, or a tensor, of results from all ranks (collective: every rank must call).

    Result `i` of rank `r` goes to place `i * world_size + r`, which is the order in which samplers deal out
    indices; then the list is cut to `size`, since samplers repeat some at the end. In a single process:
    `results[:size]`.

    Tensors travel as tensors, ten and more times faster than as objects: a tensor `(N, ...)` with one row for each
    sample, or a list of tensors of the same shape and dtype. Those within objects arrive in host memory.

    Args:
        results: The list of this rank, of any length; or a tensor `(N, ...)`, `N` may differ between ranks.
        size: Number of samples in the data set.
        device: `"cpu"`: objects go through files in a folder that all ranks see. `"gpu"`: they are sent.
        tmpdir: Where `"cpu"` makes its folder, which is deleted afterwards. By default the system's folder for
            temporary files on one machine, the working directory on several.

    Returns:
        On rank 0 the list, or the tensor, of at most `size` results; None elsewhere.

    Raises:
        ValueError: An unknown `device`, or a `tmpdir` for another than `"cpu"`.
        RuntimeError: A rank could not write its file (on every rank), or `tmpdir` is not the same folder everywhere.
    """
    if device not in ("cpu", "gpu", "npu"):
        raise ValueError(f"device must be 'cpu', 'gpu' or 'npu', not {device!r}")
    if device != "cpu" and tmpdir is not None:
        raise ValueError(f"tmpdir is for device='cpu'; with device={device!r} nothing is written, so leave it out")
    rank, world_size = get_dist_info()
    own, layout = _layout_of(results) if world_size > 1 else (None, _OBJECTS)
    everyone = all_gather_object((len(results), layout))
    if world_size == 1:
        return results[:size]
    layouts = {each for num_results, each in everyone if (num_results, each) != (0, _OBJECTS)}
    if len(layouts) == 1 and _OBJECTS not in layouts:
        return _collect_tensors(own, layouts.pop(), [num_results for num_results, _ in everyone], size)
    if any(kind == "tensor" for kind, *_ in layouts):
        raise ValueError(
            "results must be tensors of the same dtype, device and shape of a sample on every rank; rank "
            f"{rank} got a {type(results).__name__}{'' if own is None else f', {own.dtype}, {tuple(own.shape[1:])}'}"
        )
    has_device = torch.accelerator.is_available()  # else nothing has to be looked at, which takes longer than sending
    if has_device and any(isinstance(leaf, Tensor) and not leaf.is_cpu for _, leaf in iter_leaves(results)):
        # It would come out on the device of its rank, which rank 0 does not use and may not see.
        results = map_leaves(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, results)
    parts = gather_object(results) if device != "cpu" else _exchange_files(results, tmpdir)
    if rank != 0 or parts is None:
        return None
    merged = chain.from_iterable(zip_longest(*parts, fillvalue=_FILLER))
    return [result for result in merged if result is not _FILLER][:size]


def collect_results_cpu(result_part: Any, size: int, tmpdir: str | None = None) -> Any:
    """Collect results through a folder that all ranks see; see `collect_results`."""
    return collect_results(result_part, size, "cpu", tmpdir)


def collect_results_gpu(result_part: Any, size: int) -> Any:
    """Collect results by sending them; see `collect_results`."""
    return collect_results(result_part, size, "gpu")


def _exchange_files(part: Sequence[Any], tmpdir: str | None) -> list[Any] | None:
    """Return the results of each rank on rank 0, through files in a folder that it makes."""
    rank, world_size = get_dist_info()
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            parent = tmpdir or (None if get_local_size() == world_size else os.getcwd())
            if parent is not None:
                os.makedirs(parent, exist_ok=True)
            answer[0] = os.path.abspath(tempfile.mkdtemp(prefix=".collect_results_", dir=parent))
        except OSError as error:
            answer[1] = f"rank 0 could not make the folder for results: {type(error).__name__}: {error}"
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise RuntimeError(answer[1])
    folder, failure = answer[0], None
    paths = [os.path.join(folder, f"part_{other}.pkl") for other in range(world_size)]
    try:
        try:
            if rank != 0:  # rank 0 keeps its own
                with open(paths[rank], "wb") as file:
                    pickle.dump(part, file, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            failure = f"rank {rank}: {type(error).__name__}: {error}"
        if failures := [text for text in all_gather_object(failure) if text is not None]:
            raise RuntimeError(f"not every rank could write its results to {folder}: {'; '.join(failures)}")
        return [part, *map(_read, paths[1:])] if rank == 0 else None
    finally:
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _read(path: str) -> Any:
    if not os.path.exists(path):
        raise RuntimeError(
            f"the results of another rank are not there as {path}: it is not the same folder on every machine; "
            "give a tmpdir on a shared disk, or use device='gpu'"
        )
    with open(path, "rb") as file:
        return pickle.load(file)


def _layout_of(part: Any) -> tuple[Tensor | None, tuple[Any, ...]]:
    """Return results as a tensor, where they are one or can be stacked, and how they travel.

    That is kind, dtype, type of device and shape of a sample of tensors; `_OBJECTS` where they are pickled.
    """
    is_list = isinstance(part, (list, tuple))
    if not is_list and not (isinstance(part, Tensor) and part.dim() > 0):
        raise TypeError(f"results must be a list, or a tensor with a row for each sample, not {type(part).__name__}")
    own = _stacked(part) if is_list else part.detach()
    if own is None or own.dtype not in DTYPES:
        return None, _OBJECTS
    return own, ("list" if is_list else "tensor", own.dtype, own.device.type, own.shape[1:])


def _stacked(part: Sequence[Any]) -> Tensor | None:
    """Return the tensors of a list as one, or None if they are not all tensors of one shape, dtype and device."""
    if not all(type(item) is Tensor and item.layout == torch.strided for item in part):
        return None
    is_alike = len({(item.shape, item.dtype, item.device) for item in part}) == 1
    return torch.stack([item.detach() for item in part]) if is_alike else None


def _collect_tensors(own: Tensor | None, layout: tuple[Any, ...], rows: list[int], size: int) -> Any:
    """Gather tensors, padded to the same number of rows, and deal them out in the order of the data set."""
    kind, dtype, device, shape = layout
    sent = torch.zeros((max(rows), *shape), dtype=dtype, device=device if own is None else own.device)
    sent[: rows[get_rank()]] = 0 if own is None else own
    received = gather(sent)
    if get_rank() != 0:
        return None
    merged = torch.stack(received, dim=1).flatten(0, 1)  # (max rows, world size, ...) to the order of the data set
    if rows != [len(range(rank, sum(rows), len(rows))) for rank in range(len(rows))]:  # else all padding is at the end
        is_row = torch.arange(max(rows))[:, None] < torch.tensor(rows)[None, :]
        merged = merged[is_row.flatten().to(merged.device)]
    merged = merged[: sum(rows)][:size]
    return list(merged.unbind(0)) if kind == "list" else merged

"""Reading one batch in several ways that must give the same: what no look at the objects finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ..dataset import set_epoch
from ..nesting import iter_leaves
from ..seeding import seed_everything


def check_batches(make_loader: Callable[[], Any], epoch: int = 1, position: int = 1) -> list[str]:
    """Read a batch directly, again, after those before it and in two workers, each time by a fresh loader, and compare.

    A resume begins at a batch directly, and workers read some of the batches only; so what differs here differs between
    runs. It finds what no look at the objects does: counters, generators in globals of a module, clocks, C libraries.

    Args:
        make_loader: Makes the loader with all that is in it anew, with the seed of the run.
        epoch: The epoch of the batch.
        position: The batch in the epoch.

    Returns:
        For each way that differed, the first field that did.
    """
    expected = _read(make_loader, epoch, position, "directly")
    ways = {"directly": "read again", "through": "read after the batches before it", "workers": "read by 2 workers"}
    found = []
    for way, text in ways.items():
        read = _read(make_loader, epoch, position, way)
        if read is not None and (path := first_difference(expected, read)) is not None:
            found.append(f"batch{path} differs when batch {position} of epoch {epoch} is {text}")
    return found


def _read(make_loader: Callable[[], Any], epoch: int, position: int, way: str) -> Any:
    seed_everything(0)
    loader = make_loader()
    dataset = getattr(loader, "dataset", None)
    is_stream = isinstance(dataset, IterableDataset)
    has_shares = not is_stream or hasattr(dataset, "num_shards")  # else a batch is what a worker reads
    if way == "workers" and not (has_shares and hasattr(loader, "set_start")):
        return None
    loader.num_workers = 2 if way == "workers" else 0
    if way == "directly" and position and hasattr(loader, "set_start"):
        if is_stream:
            before = make_loader()
            before.num_workers = 0
            set_epoch(before, epoch)
            for _ in itertools.islice(before, position):
                pass
            loader.load_state_dict(before.state_dict())
        set_epoch(loader, epoch)
        loader.set_start(position)
        return next(iter(loader))
    set_epoch(loader, epoch)
    return next(itertools.islice(loader, position, None))


def first_difference(first: Any, second: Any) -> str | None:
    """Return the path of the first leaf in which two nested values differ, bit for bit, or None."""
    leaves, others = list(iter_leaves(first)), list(iter_leaves(second))
    for (path, value), (other_path, other) in itertools.zip_longest(leaves, others, fillvalue=("", None)):
        if path != other_path or type(value) is not type(other) or not _is_same(value, other):
            return path
    return None


def _is_same(value: Any, other: Any) -> bool:
    if isinstance(value, torch.Tensor):
        alike = value.dtype == other.dtype and value.shape == other.shape
        return alike and torch.equal(*(each.detach().reshape(-1).view(torch.uint8) for each in (value, other)))
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and value.shape == other.shape and value.tobytes() == other.tobytes()
    try:
        return bool(value == other) or value != value
    except Exception:  # what cannot be compared
        return True

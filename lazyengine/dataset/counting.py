"""How much a batch holds."""

from __future__ import annotations

from typing import Any

from ..nesting import iter_leaves
from .combined import CombinedLoader


def count_batch(batch: Any, loader: Any = None) -> tuple[int | None, int | None]:
    """Return the number of samples and of tokens in a batch; reads no values, and only shapes.

    Samples are the length of the first tensor or array with a dimension, or of a list of samples. Tokens are the
    elements of the first whole-number one of shape ``(N, L)`` with more than one column, as token ids have it; None
    where there is none. Of a batch of a `CombinedLoader` they are those of all its loaders.
    """
    if isinstance(loader, CombinedLoader):
        counts = [count_batch(batch.get(name), each) for name, each in loader.loaders.items()]
        samples, tokens = ([number for number in each if number is not None] for each in zip(*counts, strict=True))
        return sum(samples) or None, sum(tokens) or None
    samples = tokens = None
    for _, leaf in iter_leaves(batch):
        shape = getattr(leaf, "shape", None)
        if not shape:
            continue
        samples = int(shape[0]) if samples is None else samples
        if tokens is None and len(shape) == 2 and shape[1] > 1 and _is_whole(leaf.dtype):
            tokens = int(shape[0] * shape[1])
    if isinstance(batch, list) and batch and isinstance(batch[0], dict):
        samples = len(batch)
    return samples, tokens


def _is_whole(dtype: Any) -> bool:
    return str(dtype).rpartition(".")[2] in ("int32", "int64")

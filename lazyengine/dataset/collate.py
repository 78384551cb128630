"""Samples to batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate as torch_default_collate
from torch.utils.data import get_worker_info


def pseudo_collate(data_batch: Sequence[Any]) -> Any:
    """Gather the values of samples of equal structure, without making tensors of them.

    A batch of dicts becomes a dict of lists, a batch of lists or tuples a list of such; strings, tensors, arrays,
    numbers and other objects stay a list of what each sample had.

    Args:
        data_batch: The samples.

    Raises:
        RuntimeError: Lists of different lengths, or keys that not all samples have.
    """
    return _collate(data_batch, lambda values, path: values, "")


def default_collate(data_batch: Sequence[Any]) -> Any:
    """Gather the values of samples of equal structure and stack them to tensors.

    Tensors of shape `(...)` become one of shape `(N, ...)`; arrays likewise; numbers become a tensor of shape `(N,)`
    (float: float64, int: int64); strings and None stay a list. Dicts, lists, tuples, named tuples and dataclasses are
    walked; a dataclass gives the same dataclass.

    Args:
        data_batch: The samples.

    Raises:
        RuntimeError: Tensors of different shapes (named, with their place in the sample), lists of different lengths,
            or keys that not all samples have.
        TypeError: A value that no tensor can be made of.
    """
    return _collate(data_batch, _stack, "")


def _stack(values: Sequence[Any], path: str) -> Any:
    first = values[0]
    if isinstance(first, (str, bytes)) or (first is None and all(value is None for value in values)):
        return values
    try:
        if type(first) is torch.Tensor and get_worker_info() is None:
            return torch.stack(tuple(values))
        return torch_default_collate(values)  # type: ignore[arg-type] - in a worker it writes into shared memory
    except RuntimeError as error:
        shapes = [tuple(getattr(value, "shape", ())) for value in values]
        odd = [i for i, shape in enumerate(shapes) if shape != shapes[0]]
        if not odd:
            raise
        raise RuntimeError(
            f"cannot stack {path or 'the samples'}: sample 0 of the batch has shape {shapes[0]}, "
            + ", ".join(f"sample {i} has {shapes[i]}" for i in odd[:5])
            + "; make them equal in the pipeline (resize, crop, pad), or pass collate_fn=pseudo_collate"
        ) from error
    except TypeError as error:
        kinds = " beside ".join(dict.fromkeys(type(value).__name__ for value in values))
        error.add_note(f"at {path or 'the samples'} of the batch; pass a collate_fn that knows {kinds}")
        raise


def _collate(batch: Sequence[Any], leaf: Callable[[Sequence[Any], str], Any], path: str) -> Any:
    first = batch[0]
    kind = type(first)
    if kind is torch.Tensor or isinstance(first, (str, bytes)):
        return leaf(batch, path)
    if isinstance(first, Sequence):
        columns = _collate_columns(batch, leaf, path)
        if isinstance(first, tuple):
            return kind(*columns) if hasattr(first, "_fields") else columns  # a list, as torch does
        try:
            return kind(columns)  # type: ignore[call-arg]
        except TypeError:  # a sequence that cannot be built from its elements, such as range
            return columns
    if isinstance(first, Mapping):
        has_same = all(len(each) == len(first) for each in batch)
        keys = first if has_same else dict.fromkeys(key for each in batch for key in each)
        collated = {key: _collate(_values_of(batch, key, path), leaf, f"{path}[{key!r}]") for key in keys}
        try:
            return kind(collated) if kind is not dict else collated  # type: ignore[call-arg]
        except TypeError:  # a mapping that cannot be built from another, such as defaultdict
            return collated
    if leaf is _stack and dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first) if field.init]
        columns = {name: [getattr(sample, name) for sample in batch] for name in names}
        return kind(**{name: _collate(column, leaf, f"{path}.{name}") for name, column in columns.items()})
    return leaf(batch, path)


def _collate_columns(batch: Sequence[Any], leaf: Callable[[Sequence[Any], str], Any], path: str) -> list[Any]:
    lengths = [len(sample) for sample in batch]
    if lengths.count(lengths[0]) != len(lengths):
        raise RuntimeError(
            f"each element of the batch should have equal size at {path or 'the samples'}: got lengths {lengths}; "
            "make them equal in the pipeline, or pass a collate_fn that pads"
        )
    return [_collate(column, leaf, f"{path}[{i}]") for i, column in enumerate(zip(*batch))]


def _values_of(batch: Sequence[Mapping[Any, Any]], key: Any, path: str) -> list[Any]:
    try:
        return [sample[key] for sample in batch]
    except KeyError:
        lacking = [i for i, sample in enumerate(batch) if key not in sample]
        raise RuntimeError(
            f"a sample of the batch has {path}[{key!r}], but samples {lacking[:5]} have not; "
            "all samples need the same keys"
        ) from None

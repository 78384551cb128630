"""What a metric is given: predictions of a batch as a dict, an object, a tuple or a list of samples.

The conventions, for every metric of this package:

- a *batch at once*: a dict, dataclass or named tuple of batched values, ``{"scores": (N, C), "label": (N,)}``; a plain
  tuple of batched values by position, ``(scores, label)``; or one tensor, the predictions;
- *sample by sample*: a list of such dicts, objects or tuples, each of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..errors import UsageKeyError, UsageTypeError
from ..nesting import map_leaves

BATCH = "batch_"
_NAMED_BY = ("__dataclass_fields__", "_fields", "__dict__")  # dataclasses, named tuples, other objects


class SampleList(list[Any]):
    """Samples one by one that also answer to the name of a value, as the batch at once of which they came would."""

    def __getitem__(self, key: Any) -> Any:
        """Return a sample, a part of the list, or (by name) the samples' values with the batch dimension first."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        value = find(self, key)
        if value is None:
            raise UsageKeyError(f"no {key!r} in {describe(self)}")
        return value


def find(data: Any, key: str, position: int | None = None) -> Any:
    """Find a batched value.

    Args:
        data: Samples as described above, or a data batch.
        key: Name of the value in a dict or object.
        position: Its place in a plain tuple (or in a list of tensors, as collating tuples gives); None for nowhere.

    Returns:
        The value with its batch dimension first, a tensor where its samples could be stacked; None if it is not there.
    """
    if isinstance(data, Mapping):
        return data.get(key)
    if is_sample_list(data) and data:
        values = [find(sample, key, position) for sample in data]
        if any(value is None for value in values):
            return None
        return values if any(isinstance(value, Mapping) for value in values) else _stack(values)
    if isinstance(data, Tensor) or is_positional(data):
        return fields_of(data).get(position)
    return getattr(data, key, None)


def require(data: Any, key: str, position: int | None, owner: str, data_batch: Any = None) -> Tensor:
    """Find a batched tensor in the samples, or else in the data batch.

    Raises:
        KeyError: It is in neither; the message lists what is there.
        TypeError: It is no tensor and no list of numbers.
    """
    value = find(data, key, position)
    if value is None:
        value = find(data_batch, key, position)
    if value is None:
        raise UsageKeyError(
            f"{owner}: no {key!r} in the predictions ({describe(data)}), nor in the batch ({describe(data_batch)}) · "
            "return it from the model's predict mode, or name the right key"
        )
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageTypeError(f"{owner}: {key!r} must be a tensor or numbers, got {type(value).__name__}") from error


def describe(data: Any) -> str:
    """Return in a few words what samples look like, for messages."""
    if data is None:
        return "none given"
    if isinstance(data, Tensor):
        return f"tensor {tuple(data.shape)}"
    if is_positional(data):
        return f"{type(data).__name__} of {len(data)}" + (f", the first a {describe(data[0])}" if data else "")
    kind = "dict" if isinstance(data, Mapping) else type(data).__name__
    return f"{kind} with {sorted(fields_of(data), key=str)}"


def fields_of(data: Any) -> Mapping[Any, Any]:
    """Return the values of a dict, dataclass, named tuple or object by name, of a tuple, list or tensor by place."""
    if isinstance(data, Mapping):
        return data
    if isinstance(data, Tensor):
        return {0: data}
    if is_positional(data):
        return dict(enumerate(data))
    names = next((getattr(data, each) for each in _NAMED_BY if hasattr(data, each)), ())
    return {name: getattr(data, name) for name in names if hasattr(data, name)}


def num_samples(*sources: Any) -> int | None:
    """Return the batch size: the length of the first list of samples or batched tensor; None when there is neither."""
    for data in sources:
        if is_sample_list(data):
            return len(data)
        for value in fields_of(data).values():
            if isinstance(value, Tensor) and value.dim() > 0:
                return len(value)
    return None


def _length(value: Any) -> int | None:
    is_batched = isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.dim() > 0)
    return len(value) if is_batched else None


def iter_samples(data: Any) -> Iterator[Any]:
    """Yield the samples of a batch one by one: of a list its elements, of a batch at once a dict (or tuple) for each.

    Values of another length than the batch (a scalar loss) are repeated in every sample.
    """
    if is_sample_list(data) or isinstance(data, Tensor):
        yield from data
        return
    count = num_samples(data)
    if count is None:
        raise UsageTypeError(f"cannot tell the samples apart: no batched tensor in {describe(data)}")
    fields = fields_of(data)
    columns = [value if _length(value) == count else repeat(value, count) for value in fields.values()]
    for values in zip(*columns):
        yield values if is_positional(data) else dict(zip(fields, values))


def mark_of_batch(data: Any) -> Any:
    """Return a batch at once whose values are told apart: those of all samples together are ``batch_<name>``.

    Where there are such, it has a ``batch_size``, too. Other arrangements, which have no names or no batch, stay.
    """
    count = None if is_sample_list(data) or is_positional(data) or isinstance(data, Tensor) else num_samples(data)
    if count is None:
        return data
    fields = fields_of(data)
    marked = {name if _length(value) == count else f"{BATCH}{name}": value for name, value in fields.items()}
    return marked if marked.keys() == fields.keys() else {**marked, f"{BATCH}size": count}


def collate(samples: Sequence[Any]) -> Any:
    """Return samples of a dataset as a batch; what cannot be stacked, since sizes differ, stays a list."""
    if isinstance(samples[0], Mapping):
        return {key: _stack([sample[key] for sample in samples]) for key in samples[0]}
    return tuple(_stack(values) for values in zip(*samples)) if is_positional(samples[0]) else _stack(samples)


def to_cpu(data: Any) -> Any:
    """Return the same with every tensor on the CPU."""
    return map_leaves(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, data)


def to_number(value: Any) -> Any:
    """Return tensors, arrays and numpy scalars of one element as Python numbers, and everything else as it is."""
    size = value.numel() if isinstance(value, Tensor) else getattr(value, "size", None)
    return value.item() if size == 1 and hasattr(value, "item") else value


def is_sample_list(data: Any) -> bool:
    """Return whether data is a list of samples, and no list of batched tensors."""
    return isinstance(data, list) and not (data and isinstance(data[0], Tensor))


def is_positional(data: Any) -> bool:
    """Return whether data is a tuple or list whose values have no names."""
    return isinstance(data, tuple | list) and not hasattr(data, "_fields")


def _stack(values: Sequence[Any]) -> Any:
    make = torch.as_tensor if isinstance(values[0], list | tuple) else default_collate
    try:
        return make(values)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, KeyError):  # of several sizes, or no numbers
        return list(values)

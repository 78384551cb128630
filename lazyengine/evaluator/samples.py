"""What a metric is given: predictions of a batch as a dict, an object, a tuple or a list of samples.

The conventions, for every metric of this package:

- a *batch at once*: a dict, dataclass or named tuple of batched values, ``{"scores": (N, C), "label": (N,)}``; a plain
tuple
  of batched values by position, ``(scores, label)``; or one tensor, the predictions;
- *sample by sample*: a list of such dicts, objects or tuples, each of one sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


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
    if isinstance(data, Tensor):
        return data if position == 0 else None
    if isinstance(data, list) and data and not isinstance(data[0], Tensor):
        values = [find(sample, key, position) for sample in data]
        return None if any(value is None for value in values) else _stack(values)
    if isinstance(data, tuple | list) and not hasattr(data, "_fields"):
        return data[position] if position is not None and position < len(data) else None
    return getattr(data, key, None)


def require(data: Any, key: str, position: int | None, owner: str, data_batch: Any = None) -> Tensor:
    """Find a batched tensor in the samples, or else in the data batch.

    Raises:
        KeyError: It is in neither; the message lists what is there.
        TypeError: It is no tensor and no list of numbers.
    """
    value = find(data, key, position)
    if value is None and data_batch is not None:
        value = find(data_batch, key, position)
    if value is None:
        raise KeyError(
            f"{owner}: no {key!r} in the predictions ({describe(data)}), nor in the batch ({describe(data_batch)}) · "
            "return it from the model's predict mode, or name the right key"
        )
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{owner}: {key!r} must be a tensor or numbers, got {type(value).__name__}") from error


def describe(data: Any) -> str:
    """Say in a few words what samples look like, for messages."""
    if data is None:
        return "none given"
    if isinstance(data, Mapping):
        return f"dict with {list(data)}"
    if isinstance(data, Tensor):
        return f"tensor {tuple(data.shape)}"
    if isinstance(data, list | tuple) and not hasattr(data, "_fields"):
        return f"{type(data).__name__} of {len(data)}" + (f", the first a {describe(data[0])}" if data else "")
    return f"{type(data).__name__} with {sorted(fields_of(data))}"


def fields_of(sample: Any) -> dict[str, Any]:
    """Return the named values of a dict, dataclass, named tuple or plain object."""
    if isinstance(sample, Mapping):
        return dict(sample)
    if dataclasses.is_dataclass(sample):
        return {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    if hasattr(sample, "_asdict"):
        return dict(sample._asdict())
    return dict(getattr(sample, "__dict__", {}))


def num_samples(*sources: Any) -> int | None:
    """Return the batch size: the length of the first list of samples or batched tensor; None when there is neither."""
    for data in sources:
        if isinstance(data, list) and data and not isinstance(data[0], Tensor):
            return len(data)
        values = data if isinstance(data, list | tuple) else [data] if isinstance(data, Tensor) else ()
        for value in values or fields_of(data).values():
            if isinstance(value, Tensor) and value.dim() > 0:
                return len(value)
    return None


def iter_samples(data: Any) -> Iterator[Any]:
    """Yield the samples of a batch one by one: of a list its elements, of a batch at once a dict (or tuple) for each.

    Values of another length than the batch (a scalar loss) are repeated in every sample.
    """
    if isinstance(data, list) and not (data and isinstance(data[0], Tensor)):
        yield from data
        return
    if isinstance(data, Tensor):
        yield from data.unbind(0)
        return
    count = num_samples(data)
    if count is None:
        raise TypeError(f"cannot tell the samples apart: no batched tensor in {describe(data)}")

    def of(value: Any, index: int) -> Any:
        batched = isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.dim() > 0)
        return value[index] if batched and len(value) == count else value

    for index in range(count):
        if isinstance(data, tuple | list) and not hasattr(data, "_fields"):
            yield tuple(of(value, index) for value in data)
        else:
            yield {name: of(value, index) for name, value in fields_of(data).items()}


def to_cpu(data: Any) -> Any:
    """Return the same with every tensor on the CPU."""
    if isinstance(data, Tensor):
        return data.detach().cpu()
    if isinstance(data, Mapping):
        return {key: to_cpu(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_cpu(value) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(to_cpu(value) for value in data)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        changed = {name: to_cpu(value) for name, value in fields_of(data).items()}
        return dataclasses.replace(data, **{f.name: changed[f.name] for f in dataclasses.fields(data) if f.init})
    return data


def _stack(values: Sequence[Any]) -> Any:
    if all(isinstance(value, Tensor) for value in values):
        return torch.stack(list(values))
    return values if any(isinstance(value, Tensor) for value in values) else list(values)

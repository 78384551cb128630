"""Turn a checkpoint into tensors and built-in types, which ``torch.load(weights_only=True)`` accepts."""

import enum
import os
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .errors import CheckpointError

# Of exactly these types, values are kept as they are. (Empty bytes are not accepted by torch, so bytes are looked at.)
_ATOMS = frozenset({type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Size})
_ACCEPTED = "numbers, strings, bytes, tensors, arrays, enums, paths, and lists, tuples, sets and dicts of them"


def to_plain(value: Any, path: str = "checkpoint") -> Any:
    """Convert a value to tensors and built-in types only.

    numpy scalars become Python numbers, numeric arrays tensors, other arrays lists; enums their values; named tuples
    tuples; frozen sets sets; paths strings; subclasses of int, float, str, list and dict their base (an ``OrderedDict``
    keeps its type and attributes: the versions of a state dict's modules are one); parameters and plain subclasses of
    tensors tensors without gradient; empty bytes an empty bytearray.

    Args:
        value: What to convert. It is not changed; containers and tensors without need for conversion are shared.
        path: How to call it in errors.

    Returns:
        The plain value.

    Raises:
        CheckpointError: Something in it has no plain form; the message holds its key path, such as
            ``checkpoint['hooks'][0]['fn']``.
    """
    return _convert(value, path, ())


def _convert(value: Any, path: str, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, path)
    if isinstance(value, enum.Enum):
        return _convert(value.value, path, above)
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain_array(value, path, above)
    if isinstance(value, (Mapping, list, tuple, set, frozenset, deque)):
        if id(value) in above:
            raise _refusal(value, path, "it contains itself")
        return _plain_container(value, path, (*above, id(value)))
    for base in cast("tuple[type, ...]", (int, float, complex, str, bytearray)):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, bytes):
        return bytes(value) or bytearray()
    if isinstance(value, os.PathLike):
        return _convert(os.fspath(value), path, above)
    raise _refusal(value, path, "it is not plain data")


def _refusal(value: Any, path: str, reason: str) -> CheckpointError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return CheckpointError(
        f"cannot save {path} of type {kind}: {reason}. A checkpoint holds {_ACCEPTED}; save the object's state_dict() "
        "or the numbers that describe it instead."
    )


def _plain_tensor(tensor: torch.Tensor, path: str) -> torch.Tensor:
    if torch.nn.parameter.is_lazy(tensor):
        raise _refusal(tensor, path, "it has no shape yet; run the model once before saving")
    if is_traceable_wrapper_subclass(tensor):
        raise _refusal(tensor, path, "it is spread or wrapped (for a DTensor, save tensor.full_tensor() instead)")
    if tensor.device.type == "meta":
        raise _refusal(tensor, path, "it is on the meta device and has no data")
    plain = tensor.detach()
    if type(plain) is not torch.Tensor:
        plain = plain.as_subclass(torch.Tensor)
    if plain.layout == torch.strided and not plain.is_quantized:
        plain = plain.resolve_conj().resolve_neg()
    return plain


def _plain_array(array: "np.ndarray | np.generic", path: str, above: tuple[int, ...]) -> Any:
    if array.dtype.kind in "biufc":
        if isinstance(array, np.generic):
            return array.item() if array.dtype.itemsize <= 16 and array.dtype.char not in "gG" else float(array)
        native = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray adds a dimension to 0-d arrays
        native = native.astype(array.dtype.newbyteorder("="), copy=not native.flags.writeable)
        try:
            return torch.from_numpy(native)
        except TypeError:
            raise _refusal(array, path, f"torch has no dtype for {array.dtype}; convert it to float64") from None
    if array.dtype.kind in "OSU":
        return _convert(array.tolist(), path, above)
    raise _refusal(array, path, f"arrays of dtype {array.dtype} have no plain form")


def _plain_container(value: Any, path: str, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if isinstance(value, Mapping):
        if kind is dict and _ATOMS.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values())):
            return value
        items = {_plain_key(k, f"{path} key"): _convert(v, f"{path}[{k!r}]", above) for k, v in value.items()}
        if len(items) != len(value):
            raise _refusal(value, path, "two of its keys have the same plain form")
        if not isinstance(value, OrderedDict):
            return items
        ordered = OrderedDict(items)
        ordered.__dict__.update({k: _convert(v, f"{path}.{k}", above) for k, v in vars(value).items()})
        return ordered
    if _ATOMS.issuperset(map(type, value)):
        plain = value
    elif isinstance(value, (set, frozenset)):
        plain = [_plain_key(v, f"{path} element") for v in value]
    else:
        plain = [_convert(v, f"{path}[{i}]", above) for i, v in enumerate(value)]
    base = list if isinstance(value, (list, deque)) else tuple if isinstance(value, tuple) else set
    return plain if type(plain) is base else base(plain)


def _plain_key(key: Any, path: str) -> Any:
    plain = tuple(_plain_key(part, path) for part in key) if isinstance(key, tuple) else _convert(key, path, ())
    try:
        hash(plain)
    except TypeError:
        raise _refusal(key, f"{path} {key!r}", "its plain form cannot be hashed") from None
    if isinstance(plain, torch.Tensor):
        raise _refusal(key, f"{path} {key!r}", "a tensor as a key finds nothing after loading")
    return plain

"""Values as plain data: tensors and built-in types, which ``torch.load(weights_only=True)`` accepts, on the host."""

from __future__ import annotations

import enum
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch

from ._torch import holds_other_tensors
from .nesting import iter_leaves, map_leaves


class NotPlainError(TypeError):
    """A value has no form of tensors and built-in types."""


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
        NotPlainError: Something in it has no plain form; the message holds its key path, such as
            ``checkpoint['hooks'][0]['fn']``.
    """
    return _convert(value, path, ())


def plain_or_repr(value: Any) -> Any:
    """Return a nesting in which leaves are plain, as `to_plain` has them; of a leaf that cannot be, its repr."""

    def plain(leaf: Any) -> Any:
        try:
            return to_plain(leaf)
        except NotPlainError:
            return repr(leaf)

    return map_leaves(plain, value)


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


def _refusal(value: Any, path: str, reason: str) -> NotPlainError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return NotPlainError(
        f"cannot save {path} of type {kind}: {reason}. A checkpoint holds {_ACCEPTED}; save the object's state_dict() "
        "or the numbers that describe it instead."
    )


def _plain_tensor(tensor: torch.Tensor, path: str) -> torch.Tensor:
    if torch.nn.parameter.is_lazy(tensor):
        raise _refusal(tensor, path, "it has no shape yet; run the model once before saving")
    if holds_other_tensors(tensor):
        raise _refusal(tensor, path, "it is spread or wrapped (for a DTensor, save tensor.full_tensor() instead)")
    if tensor.device.type == "meta":
        raise _refusal(tensor, path, "it is on the meta device and has no data")
    plain = tensor.detach()
    if type(plain) is not torch.Tensor:
        plain = plain.as_subclass(torch.Tensor)
    if plain.layout == torch.strided and not plain.is_quantized:
        plain = plain.resolve_conj().resolve_neg()
    return plain


def _plain_array(array: np.ndarray | np.generic, path: str, above: tuple[int, ...]) -> Any:
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
    if isinstance(value, Mapping):
        items = {_plain_key(k, f"{path} key"): _convert(v, f"{path}[{k!r}]", above) for k, v in value.items()}
        if len(items) != len(value):
            raise _refusal(value, path, "two of its keys have the same plain form")
        if not isinstance(value, OrderedDict):
            return items
        ordered = OrderedDict(items)
        ordered.__dict__.update({k: _convert(v, f"{path}.{k}", above) for k, v in vars(value).items()})
        return ordered
    if isinstance(value, (set, frozenset)):
        return {_plain_key(v, f"{path} element") for v in value}
    plain = [_convert(v, f"{path}[{i}]", above) for i, v in enumerate(value)]
    return tuple(plain) if isinstance(value, tuple) else plain


def _plain_key(key: Any, path: str) -> Any:
    plain = tuple(_plain_key(part, path) for part in key) if isinstance(key, tuple) else _convert(key, path, ())
    if isinstance(plain, (list, dict, set, bytearray, torch.Tensor)):
        raise _refusal(key, f"{path} {key!r}", "its plain form finds nothing as a key after loading")
    return plain


def rebuild(value: Any, function: Callable[[Any, str], Any], path: str = "") -> Any:
    """Apply a function to every part of a plain value, outer ones first; the versions in state dicts are kept.

    Args:
        value: Dicts, lists, tuples and what they hold. It is not changed.
        function: Called with each part and its keys, joined by ``/``. What it replaces is not looked into.
        path: Where `value` is.
    """
    new = function(value, path)
    if new is not value:
        return new
    if isinstance(value, dict):
        items = {key: rebuild(item, function, f"{path}/{key}" if path else str(key)) for key, item in value.items()}
        if not isinstance(value, OrderedDict):
            return items
        copy = OrderedDict(items)
        copy.__dict__.update(vars(value))
        return copy
    if type(value) in (list, tuple):
        return type(value)(rebuild(item, function, f"{path}/{i}") for i, item in enumerate(value))
    return value


def on_host(plain: Any, memory: list[torch.Tensor] | None = None) -> Any:
    """Return a plain checkpoint with its tensors in host memory; those that share a storage go on sharing it.

    A storage that is mostly not saved (``t[:1]`` of a large ``t``) is not kept whole: its views are copied.

    Args:
        plain: What ``to_plain`` returned. It is not changed.
        memory: Kept from call to call: where all tensors are copied to. Without it, those in host memory are shared
            with `plain`.
    """
    views: dict[int, dict[Any, torch.Tensor]] = {}

    for _, value in iter_leaves(plain):
        if isinstance(value, torch.Tensor) and (key := _view_key(value)) is not None:
            views.setdefault(key[0], {})[key] = value
    copies: dict[Any, torch.Tensor] = {}
    place = 0
    for tensors in views.values():
        storage = next(iter(tensors.values())).untyped_storage()
        if sum(t.nbytes for t in tensors.values()) < storage.nbytes() or len({t.dtype for t in tensors.values()}) > 1:
            copies.update((key, t.cpu() if t.is_cuda else t.clone()) for key, t in tensors.items())
        elif memory is not None or storage.device.type != "cpu":
            host = _copy_storage(storage, [] if memory is None else memory, place).untyped_storage()
            place += 1
            for key, t in tensors.items():
                view: Any = torch.empty(0, dtype=t.dtype)
                copies[key] = view.set_(host, t.storage_offset(), t.shape, t.stride())
    wait_for_copies(t for tensors in views.values() for t in tensors.values())

    def replace(value: Any, path: str) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        key = _view_key(value)
        return copies.get(key, value) if key is not None else value.clone().cpu()

    return rebuild(plain, replace)


def wait_for_copies(tensors: Iterable[torch.Tensor]) -> None:
    """Wait until the queued copies of tensors are done, on every GPU that holds one of them."""
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.synchronize(device)


def _view_key(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """Return the storage and which part of it a tensor is; None where that is not all of it (sparse, quantized)."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return None
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _copy_storage(storage: torch.UntypedStorage, memory: list[torch.Tensor], place: int) -> torch.Tensor:
    """Copy a storage into the memory at a place, made anew where it does not fit; from a GPU, the copy is queued."""
    source: Any = torch.empty(0, dtype=torch.uint8, device=storage.device)
    source.set_(storage)
    kept = memory[place] if place < len(memory) else None
    if kept is None or kept.numel() != source.numel() or kept.is_pinned() != source.is_cuda:
        kept = torch.empty(source.numel(), dtype=torch.uint8, pin_memory=source.is_cuda)
        memory[place : place + 1] = [kept]
    wide = torch.uint8 if source.numel() % 8 else torch.int64  # which torch copies faster
    kept.view(wide).copy_(source.view(wide), non_blocking=source.is_cuda)
    return kept

"""What a dataset is recognised by, without reading its samples."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..config.finding import without_folder

_MAX_ITEMS = 256  # of a list or of records, evenly spread
_MAX_BYTES = 4_000_000  # of one array, evenly spread
_MAX_BLOCKS = 64
_MAX_FILES = 64
_MAX_DEPTH = 6


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Return what tells a dataset from another one: class, length, and a hash of what it exposes.

    Where it has a method ``fingerprint()``, that decides. Else these are hashed, of large ones an evenly spread part:
    the records that ``get_data_info`` returns, else the arrays, texts and lists among its attributes, of files that
    these name the size and time. ``__getitem__`` is never called. Datasets inside of wrappers count.

    Returns:
        ``class``, ``length`` (None where there is none), ``hash``, ``of``, which says what was hashed, and
        ``arguments``: the numbers among its attributes that the constructor has a parameter for, as ``seed``.
    """
    found: dict[str, Any] = {"class": f"{type(dataset).__module__}.{type(dataset).__qualname__}", "length": None}
    try:
        if hasattr(type(dataset), "__len__"):
            found["length"] = len(dataset)
        hashing = _Hashing()
        found["of"] = _add_dataset(hashing, dataset, 0)
        found["hash"] = hashing.sha.hexdigest()[:16]
        found["arguments"] = {} if found["of"] == "fingerprint()" else _arguments_of(dataset)
    except Exception as error:  # a class of somebody else; the run does not depend on it
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def changed_data(former: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return what differs between the fingerprints of two starts, by name of the loader, as lines."""
    lines = []
    for name in [name for name in former if name in present]:
        old, new = ({**each, "class": without_folder(str(each.get("class")))} for each in (former[name], present[name]))
        for key, word in (("class", "the class of the data"), ("length", "the number of samples")):
            if old.get(key) != new.get(key):
                lines.append(f"{name}: {word} was {old.get(key)} and is {new.get(key)}")
        is_same_shape = all(old.get(key) == new.get(key) for key in ("class", "length"))
        was, has = old.get("arguments") or {}, new.get("arguments") or {}
        if is_same_shape and (other := [n for n in was if n in has and was[n] != has[n]]):
            lines.append(f"{name}: {', '.join(f'{n} was {was[n]} and is {has[n]}' for n in other)}")
        elif is_same_shape and old.get("hash") != new.get("hash"):
            lines.append(f"{name}: the data are other ones ({new.get('of')})")
    return lines


class _Hashing:
    """A hash over nested values, of large ones over a part that depends on their size alone."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.num_files = 0

    def add(self, value: Any, depth: int = 0) -> None:
        """Add a value; objects that are no data count by their class."""
        if isinstance(value, torch.Tensor):
            self.text("tensor", value.dtype, tuple(value.shape))
            if value.layout is torch.strided and not value.is_meta:
                for part in _blocks(value.detach().reshape(-1), value.element_size()):
                    self.sha.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self.text("array", value.dtype, value.shape)
            for part in _blocks(value.reshape(-1), value.itemsize):
                self.sha.update(part.tobytes())
        elif isinstance(value, str | os.PathLike):
            self.path_or_text(os.fspath(value))
        elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
            self.text("dict", len(value))
            for key in _spread(list(value)):
                self.text(key)
                self.add(value[key], depth + 1)
        elif isinstance(value, list | tuple | np.ndarray) and depth < _MAX_DEPTH:
            self.text("list", len(value))
            for item in _spread(list(value) if isinstance(value, np.ndarray) else value):
                self.add(item, depth + 1)
        elif value is None or isinstance(value, bool | int | float | complex | bytes | np.generic):
            self.text(repr(value))
        else:
            self.text(type(value).__qualname__)

    def path_or_text(self, value: str) -> None:
        """Add a text; one that names a file by its name, size and time, whatever folder it lies in."""
        is_path = 0 < len(value) < 4096 and "\0" not in value and (os.sep in value or "." in value)
        if is_path and self.num_files < _MAX_FILES:
            self.num_files += 1
            if os.path.isfile(value):
                status = os.stat(value)
                return self.text("file", os.path.basename(value), status.st_size, status.st_mtime_ns)
        return self.text("text", os.path.basename(value) if os.path.isabs(value) else value)

    def text(self, *parts: object) -> None:
        """Add texts."""
        self.sha.update("\x1f".join(map(str, parts)).encode(errors="backslashreplace") + b"\x1e")


def _add_dataset(hashing: _Hashing, dataset: Any, depth: int) -> str:
    """Add a dataset and return what was hashed of it."""
    own = getattr(dataset, "fingerprint", None)
    if callable(own):
        hashing.text(own())
        return "fingerprint()"
    if isinstance(inner := getattr(dataset, "_fingerprint", None), str):  # of the datasets library
        hashing.text(inner)
        return "its own fingerprint"
    inner_ones = _inside(dataset)
    if inner_ones and depth < _MAX_DEPTH:
        hashing.add(getattr(dataset, "indices", None))
        kinds = [_add_dataset(hashing, one, depth + 1) for one in inner_ones]
        return ", ".join(dict.fromkeys(kinds))
    if callable(getattr(dataset, "get_data_info", None)) and getattr(dataset, "_fully_initialized", True):
        for index in _spread(range(len(dataset))):
            hashing.add(dataset.get_data_info(index))
        return "records"
    attributes = _data_of(dataset)
    for name, value in attributes:
        hashing.text(name)
        hashing.add(value)
    return ", ".join(name for name, _ in attributes) or "class and length alone"


def _inside(dataset: Any) -> Sequence[Any]:
    """Return the datasets that one wraps."""
    inside = getattr(dataset, "datasets", None) or getattr(dataset, "dataset", None)
    return inside if isinstance(inside, list | tuple) else [] if inside is None else [inside]


def _arguments_of(dataset: Any, prefix: str = "", depth: int = 0) -> dict[str, str]:
    """Return the numbers that a dataset, and those inside of it, were built with, as far as attributes keep them."""
    kept, names = getattr(dataset, "__dict__", {}), inspect.signature(type(dataset)).parameters
    found = {prefix + name: repr(kept[name]) for name in names if isinstance(kept.get(name), bool | int | float)}
    for number, one in enumerate(_inside(dataset) if depth < _MAX_DEPTH else ()):
        found |= _arguments_of(one, f"{prefix}[{number}].", depth + 1)
    return found


def _data_of(dataset: Any) -> list[tuple[str, Any]]:
    """Return the attributes that may hold data; numbers, which may be counters, and objects are none."""
    kinds = (torch.Tensor, np.ndarray, str, os.PathLike, list, tuple)
    items = sorted(getattr(dataset, "__dict__", {}).items())
    return [(name, value) for name, value in items if isinstance(value, kinds) and not name.startswith("_")]


def _blocks(flat: Any, item_bytes: int) -> list[Any]:
    """Return parts of a flat array that is too large to be hashed: blocks, so that of a mapped file few are read."""
    size = _MAX_BYTES // _MAX_BLOCKS // item_bytes
    if len(flat) <= size * _MAX_BLOCKS:
        return [flat]
    return [flat[begin : begin + size] for begin in _spread(range(0, len(flat), size), _MAX_BLOCKS)]


def _spread(items: Sequence[Any], limit: int = _MAX_ITEMS) -> Iterable[Any]:
    """Return at most so many items of a sequence, evenly spread, with the first and the last."""
    if len(items) <= limit:
        return items
    return [items[i * (len(items) - 1) // (limit - 1)] for i in range(limit)]

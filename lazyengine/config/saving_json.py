"""Configs as JSON: one value per line, so that any diff compares two runs; read back without running anything.

A node is `{"$call": "torch.optim:SGD", "$with": {"lr": 0.1}}`. What stands in several places is written at the first;
the others say `{"$same": "path of the first"}`. What JSON has no form for is an object with one `$` key.
"""

from __future__ import annotations

import base64
import enum
import io
import json
import math
import pathlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from .errors import ConfigError, SaveError
from .graph import FrozenDict, FrozenList
from .importable import DEFAULT_ALLOW, check_allowed, importable_name, is_allowed, resolve_name
from .loaded import Config
from .node import REQUIRED, Node, is_partial, join_path, new_node, target_of, unfit_arguments
from .ref import Ref
from .signature import import_target, signature_of
from .sources import Extra

__all__ = ["encode", "load_json", "read_json", "to_json"]

_VERSION = 1
_PATHS = {cls.__name__: cls for cls in (pathlib.Path, pathlib.PurePosixPath, pathlib.PureWindowsPath)}


def to_json(cfg: Config) -> tuple[str, list[str]]:
    """Return the config as JSON text, and the paths of leaves that only cloudpickle could write.

    Raises:
        SaveError: A value contains itself, or cannot even be pickled.
    """
    document, pickled = encode(cfg)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        text = json.dumps(document, indent=1, allow_nan=False)
    return text + "\n", pickled


def encode(cfg: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the config as a JSON document of plain types, and the paths of pickled leaves."""
    encoder = _Encoder()
    values = {name: encoder.encode(value, join_path("", name)) for name, value in cfg.__values__.items()}
    return {"lazyengine_config": _VERSION, "values": values}, encoder.pickled


class _Encoder:
    def __init__(self) -> None:
        self.first: dict[int, str] = {}
        self.active: set[int] = set()
        self.pickled: list[str] = []
        self.alive: list[Any] = []

    def encode(self, value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if value.bit_length() < 10000 else {"$int": hex(value)}  # decimal digits are limited
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind in (Node, list, dict, OrderedDict, FrozenList, FrozenDict):
            if id(value) in self.active:
                raise SaveError(f"{path} contains itself (it is {self.first[id(value)]}) and cannot be saved.")
            if id(value) in self.first:
                return {"$same": self.first[id(value)]}
            self.first[id(value)] = path
            self.active.add(id(value))
            result = self.node(value, path) if kind is Node else self.container(value, path)
            self.active.discard(id(value))
            return result
        return self.leaf(value, path)

    def node(self, node: Node, path: str) -> dict[str, Any]:
        target = target_of(node)
        result: dict[str, Any] = {"$partial" if is_partial(node) else "$call": self.target(target, path)}
        if isinstance(target, str):
            result["$deferred"] = True
        arguments = node.__arguments__
        extra = [self.encode(v, join_path(path, k)) for k, v in arguments.items() if isinstance(k, int)]
        if extra:
            result["$args"] = extra
        named = {k: self.encode(v, join_path(path, k)) for k, v in arguments.items() if isinstance(k, str)}
        return {**result, "$with": named} if named else result

    def target(self, target: Any, path: str) -> Any:
        if isinstance(target, str):
            return target
        name = importable_name(target)
        return ":".join(name) if name else self.pickle(target, f"{path}._target_")

    def container(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [self.encode(v, f"{path}[{i}]") for i, v in enumerate(value)]
        if not isinstance(value, OrderedDict) and all(isinstance(k, str) and k[:1] != "$" for k in value):
            return {k: self.encode(v, join_path(path, k)) for k, v in value.items()}
        pairs = [[self.encode(k, f"{path} key"), self.encode(v, join_path(path, k))] for k, v in value.items()]
        return {"$odict" if isinstance(value, OrderedDict) else "$dict": pairs}

    def items(self, value: Any, path: str) -> list[Any]:
        return [self.encode(v, f"{path}[{i}]") for i, v in enumerate(value)]

    def leaf(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is tuple:
            return {"$tuple": self.items(value, path)}
        if kind in (set, frozenset):
            before = len(self.pickled)
            items = sorted(self.items(value, path), key=lambda item: json.dumps(item, sort_keys=True))
            del self.pickled[before:]
            return {f"${kind.__name__}": items}
        if kind is complex:
            return {"$complex": [self.encode(value.real, path), self.encode(value.imag, path)]}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if value is REQUIRED:
            return {"$required": True}
        if kind is Ref:
            function = {} if value.function is None else {"$function": self.encode(value.function, f"{path} function")}
            return {"$ref": list(value.paths), **function}
        if isinstance(value, enum.Enum) and value.name is not None and (name := importable_name(kind)):
            return {"$enum": ":".join(name), "$name": value.name}
        if isinstance(value, pathlib.PurePath) and kind.__module__.startswith("pathlib"):
            concrete = isinstance(value, pathlib.Path)
            return {"$path": str(value), "$kind": "Path" if concrete else kind.__name__}
        if isinstance(value, tuple) and hasattr(value, "_fields") and (name := importable_name(kind)):
            return {"$namedtuple": ":".join(name), "$items": self.items(value, path)}
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
            array: Any = value
            if not array.dtype.hasobject:
                return self.array(numpy, array, path)
        name = importable_name(value)
        return {"$object": ":".join(name)} if name else self.pickle(value, path)

    def array(self, numpy: Any, value: Any, path: str) -> dict[str, Any]:
        scalar = {"$scalar": True} if isinstance(value, numpy.generic) else {}
        is_plain = bool(scalar) or type(value) is numpy.ndarray
        if is_plain and value.dtype.kind in "biuf" and value.itemsize <= 8 and value.size <= 1000:
            data = self.items(value.reshape(-1).tolist(), path)
            return {"$array": data, "$dtype": value.dtype.str, "$shape": list(value.shape), **scalar}
        buffer = io.BytesIO()
        numpy.save(buffer, value, allow_pickle=False)
        return {"$npy": base64.b64encode(buffer.getvalue()).decode(), **scalar}

    def pickle(self, value: Any, path: str) -> dict[str, Any]:
        self.pickled.append(path)
        data = base64.b64encode(pickle_leaf(value, path)).decode()
        return {"$pickle": data, "$is": f"{value!r:.80}".split(" at 0x")[0]}


def pickle_leaf(value: Any, path: str) -> bytes:
    """Pickle by value what no import gives: a lambda, a local class, an object.

    Raises:
        SaveError: It cannot be pickled.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(value, protocol=4)
    except Exception as error:  # pickling calls methods of any class
        raise SaveError(
            f"{path}: {value!r:.80} cannot be saved: {error}. Let a node call what makes it instead."
        ) from error


# -------------------------------------------------------------------------------------------------- reading
def load_json(path: str, *, allow: Sequence[str] = (), trusted: bool = False) -> Config:
    """Read a config that was saved as JSON. Nothing in it is run; what it names is imported only if allowed.

    Args:
        path: The file.
        allow: Modules (with all below them) whose classes and functions it may name, besides `DEFAULT_ALLOW`.
        trusted: Whether pickled leaves may be read, which runs whatever was put there, and every module be imported.

    Raises:
        SaveError: The file is not such a config, names something that is not allowed, or holds pickled leaves.
        FileNotFoundError: There is no such file.
    """
    with open(path, "rb") as file:
        return read_json(file.read(), str(path), allow=allow, trusted=trusted)


def read_json(data: bytes, file: str = "", *, allow: Sequence[str] = (), trusted: bool = False) -> Config:
    """Read a config from the bytes of a JSON file, as `load_json` does."""
    try:
        document = json.loads(data.decode("utf-8"))
        if type(document) is not dict or document.get("lazyengine_config") != _VERSION:
            raise SaveError("there is no 'lazyengine_config': 1 at its top")
        if type(document.get("values")) is not dict:
            raise SaveError("'values' must be an object")
        decoder = _Decoder(file, (*DEFAULT_ALLOW, *allow), trusted)
        values = {name: decoder.top(name, item) for name, item in document["values"].items()}
        if pickled := decoder.refused:
            raise SaveError(
                f"it holds pickled code or objects at {', '.join(pickled[:10])}; reading them runs whatever was put "
                "there: pass trusted=True if you know where the file is from"
            )
        return Config(values, file)
    except RecursionError:
        raise SaveError(f"{file or 'The text'} cannot be read as a config: it is nested too deeply.") from None
    except SaveError as error:
        raise SaveError(f"{file or 'The text'} cannot be read as a config: {error}") from error.__cause__
    except ValueError as error:  # not JSON, not UTF-8, a number with too many digits
        if isinstance(error, ConfigError):
            raise
        raise SaveError(f"{file or 'The text'} is not a JSON file: {error}.") from None


class _Decoder:
    def __init__(self, file: str, allow: Sequence[str], trusted: bool):
        self.file, self.allow, self.trusted = file, allow, trusted
        self.made: dict[str, Any] = {}
        self.refused: list[str] = []

    def top(self, name: str, item: Any) -> Any:
        if not name.isidentifier() or name.startswith("_"):
            raise SaveError(f"{name!r} is not a name that a config can have.")
        return self.decode(item, name)

    def decode(self, item: Any, path: str) -> Any:
        if type(item) is list:
            made: list[Any] = []
            made.extend(self.items(item, path))
            return self.made.setdefault(path, made)
        if type(item) is not dict:
            return item
        if not any(key[:1] == "$" for key in item):
            return self.made.setdefault(path, {key: self.decode(v, join_path(path, key)) for key, v in item.items()})
        tag = next((key for key in item if key in _READERS), "")
        read, allowed = _READERS.get(tag, (None, ""))
        if read is None or set(item) - {tag, *allowed.split()}:
            raise SaveError(f"{path}: the keys {', '.join(map(repr, item))} are not a value that this version writes.")
        return read(self, item, path)

    def items(self, item: Any, path: str) -> list[Any]:
        return [self.decode(v, f"{path}[{i}]") for i, v in enumerate(self.a(list, item, path))]

    @staticmethod
    def a(kind: type, item: Any, path: str) -> Any:
        """Check that a part of the document has its type."""
        if type(item) is not kind:
            raise SaveError(f"{path}: {kind.__name__} is expected, got {item!r:.80}.")
        return item

    def same(self, item: Any, path: str) -> Any:
        first = self.a(str, item["$same"], path)
        if first not in self.made:
            raise SaveError(f"{path}: it is said to be the same as {first!r}, which does not come before it.")
        return self.made[first]

    def node(self, item: Any, path: str) -> Node:
        tag = "$call" if "$call" in item else "$partial"
        target = item[tag]
        if item.get("$deferred"):
            target = self.deferred(self.a(str, target, path), path)
        elif type(target) is dict and "$pickle" in target:
            target = self.decode(target, f"{path}._target_")
        else:
            target = self.name(target, path)
            if not callable(target):
                raise SaveError(f"{path}: {item[tag]!r} cannot be called.")
        extra = self.items(item.get("$args", []), path)
        named = self.a(dict, item.get("$with", {}), path)
        arguments: dict[Any, Any] = {name: self.decode(v, join_path(path, name)) for name, v in named.items()}
        arguments.update(enumerate(extra))
        where = f"{self.file}: {path}"
        node = new_node(signature_of(target), arguments, where, Extra(partial=True) if tag == "$partial" else None)
        if unfit := unfit_arguments(node):
            accepted = ", ".join(node.__sig__.parameters) or "nothing"
            names = ", ".join(map(str, unfit))
            raise SaveError(f"{path}: {node.__sig__.label} does not accept {names}. It accepts: {accepted}.")
        return self.made.setdefault(path, node)

    def name(self, item: Any, path: str) -> Any:
        name = self.a(str, item, path)
        return resolve_name(name, None if self.trusted else self.allow, path)

    def deferred(self, name: str, path: str) -> str:
        """Check what a target given as text will import."""
        if not self.trusted:
            if not is_allowed(name.replace(":", "."), self.allow) or not all(
                part.isidentifier() for part in name.replace(":", ".").split(".")
            ):
                raise SaveError(f"{path}: {name!r} is refused: the allowlist does not have it.")
            try:
                check_allowed(import_target(name), self.allow, path, name)
            except ImportError as error:
                raise SaveError(f"{path}: cannot import {name!r}: {error}.") from error
        return name

    def pairs(self, item: Any, path: str) -> list[tuple[Any, Any]]:
        pairs = []
        for pair in self.a(list, item, path):
            if len(self.a(list, pair, path)) != 2:
                raise SaveError(f"{path}: [key, value] is expected, got {pair!r:.80}.")
            key = self.decode(pair[0], f"{path} key")
            pairs.append((key, self.decode(pair[1], join_path(path, key))))
        return pairs

    def hashed(self, kind: Callable[[Any], Any], items: Any, path: str) -> Any:
        try:
            return kind(items)
        except TypeError as error:
            raise SaveError(f"{path}: {error}.") from None

    def array(self, item: Any, path: str) -> Any:
        import numpy

        try:
            if "$npy" in item:
                data = base64.b64decode(self.a(str, item["$npy"], path), validate=True)
                array = numpy.load(io.BytesIO(data), allow_pickle=False)
            else:
                dtype = numpy.dtype(self.a(str, item.get("$dtype"), path))
                shape = [self.a(int, n, path) for n in self.a(list, item.get("$shape"), path)]
                values = self.items(item["$array"], path)
                if dtype.kind not in "biuf" or not all(isinstance(v, bool | int | float) for v in values):
                    raise SaveError(f"{path}: an array of numbers is expected.")
                with numpy.errstate(over="raise", invalid="raise"):
                    array = numpy.array(values, dtype=dtype).reshape(shape)
            return array[()] if item.get("$scalar") else array
        except SaveError:
            raise
        except (ValueError, TypeError, ArithmeticError, EOFError, SyntaxError, MemoryError) as error:
            raise SaveError(f"{path}: the array cannot be read: {error}.") from None

    def enum(self, item: Any, path: str) -> Any:
        cls, name = self.name(item["$enum"], path), self.a(str, item.get("$name"), path)
        if not (isinstance(cls, type) and issubclass(cls, enum.Enum)) or name not in cls.__members__:
            raise SaveError(f"{path}: {item['$enum']!r} is no enum with a member {name!r}.")
        return cls.__members__[name]

    def namedtuple(self, item: Any, path: str) -> Any:
        cls, items = self.name(item["$namedtuple"], path), self.items(item.get("$items"), path)
        fields = getattr(cls, "_fields", None)
        if not (isinstance(cls, type) and issubclass(cls, tuple)) or fields is None or len(fields) != len(items):
            raise SaveError(f"{path}: {item['$namedtuple']!r} is no namedtuple of {len(items)} fields.")
        return tuple.__new__(cls, items)

    def path(self, item: Any, path: str) -> Any:
        kind = item.get("$kind")
        if kind not in _PATHS:
            raise SaveError(f"{path}: $kind must be one of {', '.join(_PATHS)}, got {kind!r:.80}.")
        return _PATHS[kind](self.a(str, item["$path"], path))

    def ref(self, item: Any, path: str) -> Any:
        paths = tuple(self.a(str, p, path) for p in self.a(list, item["$ref"], path))
        function = self.decode(item["$function"], f"{path} function") if "$function" in item else None
        if not paths or (function is None and len(paths) > 1) or not (function is None or callable(function)):
            raise SaveError(f"{path}: a ref takes paths, and a function if there are several.")
        return Ref(paths, function, f"{self.file}: {path}")

    def number(self, item: Any, path: str) -> Any:
        (tag,) = item
        try:
            if tag == "$complex":
                real, imag = (float(v) for v in self.items(item[tag], path))
                return complex(real, imag)
            return int(self.a(str, item[tag], path), 16) if tag == "$int" else float(self.a(str, item[tag], path))
        except (ValueError, TypeError, OverflowError) as error:
            raise SaveError(f"{path}: {error}.") from None

    def bytes(self, item: Any, path: str) -> bytes:
        try:
            return base64.b64decode(self.a(str, item["$bytes"], path), validate=True)
        except ValueError as error:
            raise SaveError(f"{path}: {error}.") from None

    def pickle(self, item: Any, path: str) -> Any:
        data = self.a(str, item["$pickle"], path)
        if not self.trusted:
            self.refused.append(path)
            return _refused_leaf
        import pickle

        try:
            return pickle.loads(base64.b64decode(data, validate=True))
        except Exception as error:  # unpickling runs anything
            raise SaveError(f"{path}: the pickled value cannot be read: {type(error).__name__}: {error}.") from error


def _refused_leaf(*args: Any, **kwargs: Any) -> None:
    """Stand for pickled leaves until all of them were found and can be listed."""


_READERS: dict[str, tuple[Callable[[_Decoder, Any, str], Any], str]] = {
    "$same": (_Decoder.same, ""),
    "$call": (_Decoder.node, "$deferred $args $with"),
    "$partial": (_Decoder.node, "$deferred $args $with"),
    "$tuple": (lambda d, item, path: tuple(d.items(item["$tuple"], path)), ""),
    "$set": (lambda d, item, path: d.hashed(set, d.items(item["$set"], path), path), ""),
    "$frozenset": (lambda d, item, path: d.hashed(frozenset, d.items(item["$frozenset"], path), path), ""),
    "$dict": (lambda d, item, path: d.made.setdefault(path, d.hashed(dict, d.pairs(item["$dict"], path), path)), ""),
    "$odict": (
        lambda d, item, path: d.made.setdefault(path, d.hashed(OrderedDict, d.pairs(item["$odict"], path), path)),
        "",
    ),
    "$int": (_Decoder.number, ""),
    "$float": (_Decoder.number, ""),
    "$complex": (_Decoder.number, ""),
    "$bytes": (_Decoder.bytes, ""),
    "$required": (lambda d, item, path: REQUIRED, ""),
    "$ref": (_Decoder.ref, "$function"),
    "$enum": (_Decoder.enum, "$name"),
    "$path": (_Decoder.path, "$kind"),
    "$namedtuple": (_Decoder.namedtuple, "$items"),
    "$array": (_Decoder.array, "$dtype $shape $scalar"),
    "$npy": (_Decoder.array, "$scalar"),
    "$object": (lambda d, item, path: d.name(item["$object"], path), ""),
    "$pickle": (_Decoder.pickle, "$is"),
}

"""Configs as JSON: one value per line, so that any diff compares two runs; read back without running anything.

A node is `{"$call": "torch.optim:SGD", "$with": {"lr": 0.1}}`. What stands in several places is written at the first;
the others say `{"$same": "path of the first"}`. What JSON has no form for is an object with one `$` key.
`saving_python` prints the same document as code.
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
from .node import REQUIRED, Config, Node, is_partial, join_path, new_node, target_of, unfit_arguments
from .ref import Ref
from .signature import import_target, signature_of
from .sources import Extra

_VERSION = 1
_PATHS = {cls.__name__: cls for cls in (pathlib.Path, pathlib.PurePosixPath, pathlib.PureWindowsPath)}


def to_json(cfg: Config) -> tuple[str, list[str]]:
    """Return the config as JSON text, and the paths of leaves that only cloudpickle could write."""
    encoder = Encoder()
    document = {"lazyengine_config": _VERSION, "values": encoder.values(cfg)}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        text = json.dumps(document, indent=1, allow_nan=False)
    return text + "\n", encoder.pickled


class Encoder:
    """Turns the values of a config into a document of JSON's types.

    Attributes:
        pickled: The paths of pickled leaves.
        shared: Path to document, of everything that a `$same` points to.
    """

    def __init__(self, as_code: bool = False):
        self.as_code = as_code  # the document is to be printed as code, which may call things
        self.pickled: list[str] = []
        self.shared: dict[str, Any] = {}
        self._first: dict[int, tuple[str, Any, Any]] = {}  # id of a node or container -> path, document, itself

    def values(self, cfg: Config) -> dict[str, Any]:
        """Return name to document."""
        return {name: self.encode(value, join_path("", name)) for name, value in cfg.__arguments__.items()}

    def encode(self, value: Any, path: str) -> Any:
        """Return the document of one value."""
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if value.bit_length() < 10000 else {"$int": hex(value)}  # decimal digits are limited
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind not in (Node, list, dict, OrderedDict, FrozenList, FrozenDict):
            return self._leaf(value, path)
        if id(value) in self._first:
            first, document, _ = self._first[id(value)]
            if document is None:
                raise SaveError(f"{path} contains itself (it is {first}) and cannot be saved.")
            self.shared[first] = document
            return {"$same": first}
        self._first[id(value)] = path, None, value
        document = self._node(value, path) if kind is Node else self._container(value, path)
        self._first[id(value)] = path, document, value
        return document

    def _node(self, node: Node, path: str) -> dict[str, Any]:
        target, arguments = target_of(node), node.__arguments__
        name = (
            target if isinstance(target, str) else importable_name(target) or self._pickle(target, f"{path}._target_")
        )
        result: dict[str, Any] = {"$partial" if is_partial(node) else "$call": name}
        if isinstance(target, str):
            result["$deferred"] = True
        extra = [key for key in arguments if isinstance(key, int)]
        first = node.__sig__.positional if extra and self.as_code else ()  # in code, they come before the extra ones
        if missing := [name for name in first if name not in arguments]:
            raise SaveError(f"{path}: {missing[0]!r} must be set, because arguments by position follow it.")
        if extra:
            result["$args"] = [self.encode(arguments[key], join_path(path, key)) for key in (*first, *extra)]
        named = [name for name in arguments if isinstance(name, str) and name not in first]
        if named:
            result["$with"] = {name: self.encode(arguments[name], join_path(path, name)) for name in named}
        return result

    def _container(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return self._items(value, path)
        if not isinstance(value, OrderedDict) and all(isinstance(k, str) and k[:1] != "$" for k in value):
            return {k: self.encode(v, join_path(path, k)) for k, v in value.items()}
        pairs = [[self.encode(k, f"{path} key"), self.encode(v, join_path(path, k))] for k, v in value.items()]
        return {"$odict" if isinstance(value, OrderedDict) else "$dict": pairs}

    def _items(self, value: Any, path: str) -> list[Any]:
        return [self.encode(v, f"{path}[{i}]") for i, v in enumerate(value)]

    def _leaf(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is tuple:
            return {"$tuple": self._items(value, path)}
        if kind in (set, frozenset):
            return {f"${kind.__name__}": sorted(self._items(value, path), key=json.dumps)}
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
            return {"$enum": name, "$name": value.name}
        if isinstance(value, pathlib.PurePath) and kind.__module__.startswith("pathlib"):
            return {"$path": str(value), "$kind": "Path" if isinstance(value, pathlib.Path) else kind.__name__}
        if isinstance(value, tuple) and hasattr(value, "_fields") and (name := importable_name(kind)):
            return {"$namedtuple": name, "$items": self._items(value, path)}
        numpy: Any = sys.modules.get("numpy")
        array: Any = value
        if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not array.dtype.hasobject:
            return self._array(numpy, array, path)
        name = importable_name(value)
        return {"$object": name} if name else self._made_by_call(value, path) or self._pickle(value, path)

    def _array(self, numpy: Any, value: Any, path: str) -> dict[str, Any]:
        scalar = {"$scalar": True} if isinstance(value, numpy.generic) else {}
        is_plain = bool(scalar) or type(value) is numpy.ndarray
        if is_plain and value.dtype.kind in "biuf" and value.itemsize <= 8 and value.size <= 1000:
            data = self._items(value.reshape(-1).tolist(), path)
            return {"$array": data, "$dtype": value.dtype.str, "$shape": list(value.shape), **scalar}
        buffer = io.BytesIO()
        numpy.save(buffer, value, allow_pickle=False)
        return {"$npy": base64.b64encode(buffer.getvalue()).decode(), **scalar}

    def _made_by_call(self, value: Any, path: str) -> Any:
        """In code, write an object as the call that pickle would make (torch.device, range, Fraction ...)."""
        try:
            reduced = value.__reduce_ex__(2) if self.as_code else ()
        except Exception:  # what cannot be pickled is reported by the attempt
            return None
        if not isinstance(reduced, tuple) or len(reduced) < 2 or any(part is not None for part in reduced[2:]):
            return None
        name = importable_name(reduced[0])
        if not name or name.startswith("copyreg:"):
            return None
        simple = all(v is None or isinstance(v, bool | int | float | str | tuple) for v in reduced[1])
        return {"$make": name, "$args": self._items(reduced[1], path)} if simple else None

    def _pickle(self, value: Any, path: str) -> dict[str, Any]:
        import cloudpickle  # type: ignore[import-untyped]

        self.pickled.append(path)
        try:
            data = cloudpickle.dumps(value, protocol=4)
        except Exception as error:  # pickling calls methods of any class
            raise SaveError(
                f"{path}: {value!r:.80} cannot be saved: {error}. Let a node call what makes it instead."
            ) from error
        return {"$pickle": base64.b64encode(data).decode(), "$is": f"{value!r:.80}".split(" at 0x")[0]}


# -------------------------------------------------------------------------------------------------- reading
def read_json(data: bytes, file: str = "", *, allow: Sequence[str] = (), trusted: bool = False) -> Config:
    """Read a config from the bytes of a JSON file; see `saving.load_saved`."""
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


def _a(kind: type, item: Any, path: str) -> Any:
    """Check that a part of the document has its type."""
    if type(item) is not kind:
        raise SaveError(f"{path}: {kind.__name__} is expected, got {item!r:.80}.")
    return item


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
            return self.made.setdefault(path, self.items(item, path))
        if type(item) is not dict:
            return item
        if not any(key[:1] == "$" for key in item):
            return self.made.setdefault(path, {key: self.decode(v, join_path(path, key)) for key, v in item.items()})
        tag = next((key for key in item if key in _READERS), "")
        read, allowed = _READERS.get(tag, (None, ""))
        if read is None or set(item) - {tag, *allowed.split()}:
            raise SaveError(f"{path}: the keys {', '.join(map(repr, item))} are not a value that this version writes.")
        try:
            return read(self, item, item[tag], path)
        except (ConfigError, RecursionError):
            raise
        except Exception as error:  # of int(), base64, numpy, pickle ...: the file is wrong
            raise SaveError(f"{path}: {tag} cannot be read: {error}.") from error

    def items(self, item: Any, path: str) -> list[Any]:
        return [self.decode(v, f"{path}[{i}]") for i, v in enumerate(_a(list, item, path))]

    def same(self, item: Any, first: Any, path: str) -> Any:
        if _a(str, first, path) not in self.made:
            raise SaveError(f"{path}: it is said to be the same as {first!r}, which does not come before it.")
        return self.made[first]

    def node(self, item: Any, target: Any, path: str) -> Node:
        if item.get("$deferred"):
            self.check_deferred(_a(str, target, path), path)
        elif type(target) is dict and "$pickle" in target:
            target = self.decode(target, f"{path}._target_")
        elif not callable(target := self.name(name := target, path)):
            raise SaveError(f"{path}: {name!r} cannot be called.")
        extra = self.items(item.get("$args", []), path)
        named = _a(dict, item.get("$with", {}), path)
        arguments: dict[Any, Any] = {name: self.decode(v, join_path(path, name)) for name, v in named.items()}
        arguments.update(enumerate(extra))
        partial = Extra(partial=True) if "$partial" in item else None
        node = new_node(signature_of(target), arguments, f"{self.file}: {path}", partial)
        if unfit := unfit_arguments(node):
            accepted = ", ".join(node.__sig__.parameters) or "nothing"
            names = ", ".join(map(str, unfit))
            raise SaveError(f"{path}: {node.__sig__.label} does not accept {names}. It accepts: {accepted}.")
        return self.made.setdefault(path, node)

    def name(self, name: Any, path: str) -> Any:
        return resolve_name(_a(str, name, path), None if self.trusted else self.allow, path)

    def check_deferred(self, name: str, path: str) -> None:
        """Check what a target given as text will import."""
        if not self.trusted:
            dotted = name.replace(":", ".")
            if not is_allowed(dotted, self.allow) or not all(part.isidentifier() for part in dotted.split(".")):
                raise SaveError(f"{path}: {name!r} is refused: the allowlist does not have it.")
            check_allowed(import_target(name), self.allow, path, name)

    def dict(self, kind: type, item: Any, path: str) -> Any:
        pairs = []
        for pair in _a(list, item, path):
            if len(_a(list, pair, path)) != 2:
                raise SaveError(f"{path}: [key, value] is expected, got {pair!r:.80}.")
            key = self.decode(pair[0], f"{path} key")
            pairs.append((key, self.decode(pair[1], join_path(path, key))))
        return self.made.setdefault(path, kind(pairs))

    def array(self, item: Any, data: Any, path: str) -> Any:
        import numpy

        if "$npy" in item:
            raw = base64.b64decode(_a(str, data, path), validate=True)
            array = numpy.load(io.BytesIO(raw), allow_pickle=False)
        else:
            dtype = numpy.dtype(_a(str, item.get("$dtype"), path))
            shape = [_a(int, n, path) for n in _a(list, item.get("$shape"), path)]
            values = self.items(data, path)
            if dtype.kind not in "biuf" or not all(isinstance(v, bool | int | float) for v in values):
                raise SaveError(f"{path}: an array of numbers is expected.")
            with numpy.errstate(over="raise", invalid="raise"):
                array = numpy.array(values, dtype=dtype).reshape(shape)
        return array[()] if item.get("$scalar") else array

    def enum(self, item: Any, cls: Any, path: str) -> Any:
        cls, name = self.name(cls, path), _a(str, item.get("$name"), path)
        if not (isinstance(cls, type) and issubclass(cls, enum.Enum)) or name not in cls.__members__:
            raise SaveError(f"{path}: {item['$enum']!r} is no enum with a member {name!r}.")
        return cls.__members__[name]

    def namedtuple(self, item: Any, cls: Any, path: str) -> Any:
        cls, items = self.name(cls, path), self.items(item.get("$items"), path)
        fields = getattr(cls, "_fields", None)
        if not (isinstance(cls, type) and issubclass(cls, tuple)) or fields is None or len(fields) != len(items):
            raise SaveError(f"{path}: {item['$namedtuple']!r} is no namedtuple of {len(items)} fields.")
        return tuple.__new__(cls, items)

    def path(self, item: Any, text: Any, path: str) -> Any:
        kind = item.get("$kind")
        if kind not in _PATHS:
            raise SaveError(f"{path}: $kind must be one of {', '.join(_PATHS)}, got {kind!r:.80}.")
        return _PATHS[kind](_a(str, text, path))

    def ref(self, item: Any, paths: Any, path: str) -> Any:
        paths = tuple(_a(str, p, path) for p in _a(list, paths, path))
        function = self.decode(item["$function"], f"{path} function") if "$function" in item else None
        if not paths or (function is None and len(paths) > 1) or not (function is None or callable(function)):
            raise SaveError(f"{path}: a ref takes paths, and a function if there are several.")
        return Ref(paths, function, f"{self.file}: {path}")

    def complex(self, item: Any, parts: Any, path: str) -> complex:
        real, imag = (float(v) for v in self.items(parts, path))
        return complex(real, imag)

    def pickle(self, item: Any, data: Any, path: str) -> Any:
        raw = base64.b64decode(_a(str, data, path), validate=self.trusted)
        if not self.trusted:
            self.refused.append(path)
            return _refused_leaf
        import pickle

        return pickle.loads(raw)


def _refused_leaf(*args: Any, **kwargs: Any) -> None:
    """Stand for pickled leaves until all of them were found and can be listed."""


_READERS: dict[str, tuple[Callable[[_Decoder, Any, Any, str], Any], str]] = {  # tag: reader, further keys
    "$same": (_Decoder.same, ""),
    "$call": (_Decoder.node, "$deferred $args $with"),
    "$partial": (_Decoder.node, "$deferred $args $with"),
    "$tuple": (lambda d, item, value, path: tuple(d.items(value, path)), ""),
    "$set": (lambda d, item, value, path: set(d.items(value, path)), ""),
    "$frozenset": (lambda d, item, value, path: frozenset(d.items(value, path)), ""),
    "$dict": (lambda d, item, value, path: d.dict(dict, value, path), ""),
    "$odict": (lambda d, item, value, path: d.dict(OrderedDict, value, path), ""),
    "$int": (lambda d, item, value, path: int(_a(str, value, path), 16), ""),
    "$float": (lambda d, item, value, path: float(_a(str, value, path)), ""),
    "$complex": (_Decoder.complex, ""),
    "$bytes": (lambda d, item, value, path: base64.b64decode(_a(str, value, path), validate=True), ""),
    "$required": (lambda d, item, value, path: REQUIRED, ""),
    "$ref": (_Decoder.ref, "$function"),
    "$enum": (_Decoder.enum, "$name"),
    "$path": (_Decoder.path, "$kind"),
    "$namedtuple": (_Decoder.namedtuple, "$items"),
    "$array": (_Decoder.array, "$dtype $shape $scalar"),
    "$npy": (_Decoder.array, "$scalar"),
    "$object": (lambda d, item, value, path: d.name(value, path), ""),
    "$pickle": (_Decoder.pickle, "$is"),
}

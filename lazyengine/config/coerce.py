"""What a text value becomes where it is put: converted to the parameter's annotation, else to the old value's type."""

import enum
import functools
import os
import pathlib
import sys
import types
import typing
from collections import OrderedDict, abc
from collections.abc import Callable
from typing import Any

from .errors import OverrideError
from .grammar import Word, plain, read_value
from .node import is_node

Convert = Callable[[Any, str | None], Any]
"""``convert(value, text)``: the converted value, or raises `Mismatch`; `text` is how an unquoted value was written."""


class Mismatch(Exception):
    """A value does not fit; the message says what is accepted."""


def coerce(text: str, annotation: Any, old: Any = None) -> Any:
    """Read a value written as text and convert it to what its place expects.

    Args:
        text: The value as an override gives it, without outer spaces.
        annotation: The type of the place; ``Any`` when unknown, and then the old value's type decides.
        old: The value that stands there now, or None.

    Raises:
        Mismatch: If it does not fit; the message says what is accepted.
        OverrideError: If it starts like a literal and is none, where no text is expected.
    """
    try:
        convert = _SIMPLE.get(annotation) or converter_of(annotation)
    except TypeError:
        convert = converter_of(annotation)
    try:
        value = read_value(text)
    except OverrideError:
        if convert is _str or (convert is _anything and type(old) is str) or annotation == str | None:
            return text  # such as a pattern, [0-9]*.png
        raise
    written = None if type(value) is str and value != text else text  # None when it was quoted
    if convert is _anything:
        return _like(value, written, old)
    result = convert(value, written)
    if type(result) is list and type(old) is tuple:  # Sequence accepts both: stay what it was
        again = convert(tuple(result), None)
        return again if type(again) is tuple else result
    return result


def _anything(value: Any, text: str | None) -> Any:
    return plain(value)


def _none(value: Any, text: str | None) -> None:
    if value is not None:
        raise Mismatch("null")


def _bool(value: Any, text: str | None) -> bool:
    if type(value) is not bool:
        raise Mismatch("true or false")
    return value


def _int(value: Any, text: str | None) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= 1e22:  # 1e5; powers of ten are exact up to 1e22
        return int(value)
    raise Mismatch("int")


def _float(value: Any, text: str | None) -> float:
    if type(value) is float:
        return value
    try:
        if type(value) is int:
            return float(value)
    except OverflowError:
        pass
    raise Mismatch("float")


def _complex(value: Any, text: str | None) -> complex:
    return value if type(value) is complex else complex(_float(value, text))


def _str(value: Any, text: str | None) -> str:
    if type(value) is str:
        return value
    if text is None or value is None or isinstance(value, (list, tuple, dict, set, bytes)):
        raise Mismatch("str (quotes make text of anything)")
    return text  # version=1.10 stays "1.10"


def _path(cls: type, value: Any, text: str | None) -> Any:
    try:
        return cls(_str(value, text))
    except Mismatch:
        raise Mismatch("a path") from None


def _enum(cls: type[enum.Enum], value: Any, text: str | None) -> enum.Enum:
    name = value.rpartition(".")[2] if type(value) is str else text
    if name is not None and name in cls.__members__:
        return cls.__members__[name]
    for member in cls:
        if (member.value == value and type(member.value) is type(value)) or member.value == text:
            return member
    raise Mismatch(f"one of {', '.join(cls.__members__)}")


def _literal(choices: tuple[Any, ...], value: Any, text: str | None) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    for choice in choices:
        if (isinstance(choice, str) and choice == text) or (isinstance(choice, enum.Enum) and choice.name == text):
            return choice
    raise Mismatch(f"one of {', '.join(map(repr, choices))}")


def _union(options: list[tuple[Any, Convert]], value: Any, text: str | None) -> Any:
    for annotation, convert in options:  # the member that the value already is
        if (typing.get_origin(annotation) or annotation) in (type(value), None if value is None else type(value)):
            try:
                return convert(value, text)
            except Mismatch:
                pass
    for _, convert in sorted(options, key=lambda option: option[0] is str):  # text takes everything: last
        try:
            return convert(value, text)
        except Mismatch:
            pass
    raise Mismatch(" or ".join(describe(annotation) for annotation, _ in options))


def _item(convert: Convert, item: Any) -> Any:
    return convert(item.value, item.text) if type(item) is Word else convert(item, None)


def _items(kind: Callable[[Any], Any] | None, convert: Convert, name: str, value: Any, text: str | None) -> Any:
    if not isinstance(value, (list, tuple, set)) or (isinstance(value, set) and kind not in (set, frozenset)):
        raise Mismatch(name)
    try:
        return (kind or type(value))([_item(convert, item) for item in value])
    except TypeError:  # an unhashable item of a set
        raise Mismatch(name) from None


def _fixed_tuple(converts: list[Convert], name: str, value: Any, text: str | None) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != len(converts):
        raise Mismatch(name)
    return tuple(_item(convert, item) for convert, item in zip(converts, value))


def _namedtuple(cls: Any, value: Any, text: str | None) -> Any:
    if isinstance(value, (list, tuple)):
        try:
            return cls(*map(plain, value))
        except TypeError:
            pass
    raise Mismatch(f"{cls.__name__}({', '.join(cls._fields)})")


def _dict(kind: type, key: Convert, item: Convert, name: str, value: Any, text: str | None) -> Any:
    if not isinstance(value, dict):
        raise Mismatch(name)
    return kind({key(k, str(k) if type(k) is int else None): _item(item, v) for k, v in value.items()})


def _instance(cls: type, value: Any, text: str | None) -> Any:
    value = plain(value)
    try:
        fits = isinstance(value, cls)
    except TypeError:  # a protocol that cannot be asked at run time
        return value
    if not fits:
        raise Mismatch(describe(cls))
    return value


_SIMPLE: dict[Any, Convert] = {
    Any: _anything,
    object: _anything,
    None: _none,
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
}
_SEQUENCES = (abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence, abc.Reversible, abc.Container)
_WRAPPERS = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired)


def converter_of(annotation: Any) -> Convert:
    """The function that converts a value to `annotation`; cached."""
    try:
        return _SIMPLE.get(annotation) or _cached_converter(annotation)
    except TypeError:  # an unhashable annotation, such as Annotated[int, []]
        return _make_converter(annotation)


@functools.lru_cache(4096, typed=True)
def _cached_converter(annotation: Any) -> Convert:
    return _make_converter(annotation)


def _make_converter(annotation: Any) -> Convert:
    """Compile an annotation; what is not understood (a forward reference, a protocol) accepts anything."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _WRAPPERS or _is_lazy(origin):
        return converter_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        options = [(argument, converter_of(argument)) for argument in arguments if not _is_lazy(argument)]
        if any(convert is _anything for _, convert in options):
            return _anything
        return options[0][1] if len(options) == 1 else functools.partial(_union, options)
    if origin is typing.Literal:
        return functools.partial(_literal, arguments)
    if isinstance(annotation, typing.NewType):
        return converter_of(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        if annotation.__constraints__:
            return converter_of(typing.Union[annotation.__constraints__])  # noqa: UP007
        return converter_of(annotation.__bound__) if annotation.__bound__ is not None else _anything
    if isinstance(annotation, getattr(typing, "TypeAliasType", ())):
        return converter_of(annotation.__value__)
    cls, name = origin or annotation, describe(annotation)
    if not isinstance(cls, type):
        return _anything
    first: Convert = converter_of(arguments[0]) if arguments and cls is not type else _anything
    if cls is tuple:
        if arguments and arguments[-1] is not Ellipsis:
            converts = [] if arguments == ((),) else [converter_of(argument) for argument in arguments]
            return functools.partial(_fixed_tuple, converts, name)
        return functools.partial(_items, tuple, first, name)
    if cls in (list, set, frozenset):
        return functools.partial(_items, cls, first, name)
    if cls in (abc.Set, abc.MutableSet):
        return functools.partial(_items, set, first, name)
    if cls in _SEQUENCES:
        return functools.partial(_items, None, first, name)
    if cls in (dict, OrderedDict, abc.Mapping, abc.MutableMapping) or typing.is_typeddict(cls):
        second = converter_of(arguments[1]) if len(arguments) == 2 else _anything
        return functools.partial(_dict, OrderedDict if cls is OrderedDict else dict, first, second, name)
    if issubclass(cls, enum.Enum):
        return functools.partial(_enum, cls)
    if cls is os.PathLike or issubclass(cls, pathlib.PurePath):
        return functools.partial(_path, pathlib.Path if cls is os.PathLike else cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return functools.partial(_namedtuple, cls)
    return functools.partial(_instance, cls)


def _is_lazy(annotation: Any) -> bool:
    cls = typing.get_origin(annotation) or annotation
    return getattr(cls, "__module__", "") == f"{__package__}.lazy" and getattr(cls, "__name__", "") == "Lazy"


def _like(value: Any, text: str | None, old: Any) -> Any:
    """Convert to the type of the value that stands there now; null is always accepted."""
    if value is None or old is None:
        return plain(value)
    kind = type(old)
    if kind is int and type(value) is float:  # without an annotation, 1 may widen to 1.5
        return int(value) if value.is_integer() and abs(value) <= 1e22 else value
    if kind in _SIMPLE:
        return _SIMPLE[kind](value, text)
    if is_node(old):
        raise Mismatch("null, or arguments and _target_ of the node that stands there")
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        kinds = {type(item) for item in old}
        same = _SIMPLE[kinds.pop()] if len(kinds) == 1 and kinds <= {float, str} else _anything
        try:
            return kind([_item(same, item) for item in value])
        except Mismatch:
            return kind(map(plain, value))
    if kind in (list, set, frozenset, dict, bytes, OrderedDict) or isinstance(old, (enum.Enum, os.PathLike, tuple)):
        return converter_of(kind)(value, text)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(old, numpy.ndarray) and not isinstance(value, str):
        try:
            return numpy.array(plain(value), dtype=old.dtype)
        except (ValueError, TypeError):
            pass
    elif numpy is not None and isinstance(old, numpy.generic):
        return kind(_SIMPLE.get(type(old.item()), _anything)(value, text))
    if getattr(kind, "__module__", "").startswith(f"{__package__}."):  # REQUIRED and references give no hint
        return plain(value)
    raise Mismatch(
        f"null; the value that stands there ({kind.__module__}.{kind.__qualname__}) cannot be written as text"
    )


def describe(annotation: Any) -> str:
    """An annotation as its author would write it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments if not _is_lazy(a))
    if annotation is type(None) or annotation is None:
        return "null"
    if annotation is Ellipsis:
        return "..."
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is abc.Callable:
        return "a callable"
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(describe, arguments))}]"
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return f"{annotation.__name__} ({', '.join(annotation.__members__)})"
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


def item_annotation(annotation: Any, key: Any) -> Any:
    """The annotation of one item of a list, tuple or dict; ``Any`` when unknown."""
    origin = typing.get_origin(annotation)
    arguments: tuple[Any, ...] = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        found = [item for item in (item_annotation(a, key) for a in arguments) if item is not Any]
        return typing.Union[tuple(found)] if found else Any  # noqa: UP007
    if origin is typing.Annotated or _is_lazy(origin):
        return item_annotation(arguments[0], key)
    if not isinstance(origin, type) or not arguments:
        return Any
    if origin is tuple and arguments[-1] is not Ellipsis:
        return arguments[key] if isinstance(key, int) and -len(arguments) <= key < len(arguments) else Any
    if issubclass(origin, abc.Mapping):
        return arguments[-1]
    return arguments[0] if issubclass(origin, abc.Iterable) else Any

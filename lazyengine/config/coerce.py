"""What a text value becomes where it is put: converted to the parameter's annotation, else to the old value's type."""

import contextlib
import enum
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
from .graph import plain_type
from .lazy import Lazy
from .node import REQUIRED, is_node
from .ref import Ref

Convert = Callable[[Any, str | None], Any]
"""`convert(value, text)`: the converted value, or raises `Mismatch`; `text` is how an unquoted value was written."""


class Mismatch(Exception):
    """A value does not fit; the message says what is accepted."""


def coerce(text: str, annotation: Any, old: Any = None) -> Any:
    """Read a value written as text and convert it to what its place expects.

    Args:
        text: The value as an override gives it, without outer spaces.
        annotation: The type of the place; `Any` when unknown, and then the old value's type decides.
        old: The value that stands there now, or None.

    Raises:
        Mismatch: It does not fit; the message says what is accepted.
        OverrideError: It starts like a literal and is none, where no text is expected.
    """
    reader = _simple(annotation)
    if reader is None:  # not one of the common ones
        annotation = _core(annotation)
        reader = _simple(annotation)
    try:
        value = read_value(text)
    except OverrideError:
        if reader is _str or (reader is _anything and type(old) is str) or annotation == str | None:
            return text  # such as a pattern, [0-9]*.png
        raise
    written = None if type(value) is str and value != text else text  # None when it was quoted
    if reader is _anything:
        return _like(value, written, old)
    result = reader(value, written) if reader is not None else convert(annotation, value, written)
    if type(result) is list and type(old) is tuple:  # Sequence accepts both: stay what it was
        again = convert(annotation, tuple(result), None)
        return again if type(again) is tuple else result
    return result


# ---------------------------------------------------------------------------------------------- simple types
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
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Mismatch("float") from None
    raise Mismatch("float")


def _complex(value: Any, text: str | None) -> complex:
    return value if type(value) is complex else complex(_float(value, text))


def _str(value: Any, text: str | None) -> str:
    if type(value) is str:
        return value
    if text is None or value is None or isinstance(value, list | tuple | dict | set | bytes):
        raise Mismatch("str (quotes make text of anything)")
    return text  # version=1.10 stays "1.10"


_SIMPLE: dict[Any, Convert] = {
    **dict.fromkeys((Any, object), _anything),
    **dict.fromkeys((None, type(None)), _none),
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
}


def _simple(annotation: Any) -> Convert | None:
    try:
        return _SIMPLE.get(annotation)
    except TypeError:  # an unhashable annotation, such as Annotated[int, []]
        return None


# ------------------------------------------------------------------------------------------- any annotation
_SEQUENCES = (abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence, abc.Reversible, abc.Container)
_SETS = {set: set, frozenset: frozenset, abc.Set: set, abc.MutableSet: set}
_WRAPPERS = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired)
_UNIONS = (typing.Union, types.UnionType)


def _core(annotation: Any) -> Any:
    """The annotation without its wrappers; `Any` for what is not understood, such as a forward reference."""
    while True:
        origin = typing.get_origin(annotation)
        if origin in _WRAPPERS or _is_lazy(origin):
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            one_of = annotation.__constraints__
            annotation = typing.Union[one_of] if one_of else annotation.__bound__ or Any  # noqa: UP007
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif origin in (*_UNIONS, typing.Literal) or annotation is None or isinstance(origin or annotation, type):
            return annotation
        else:
            return Any


def convert(annotation: Any, value: Any, text: str | None) -> Any:
    """Convert a value, unquoted written as `text`, to an annotation; raises `Mismatch`."""
    annotation = _core(annotation)
    if (reader := _simple(annotation)) is not None:
        return reader(value, text)
    cls: Any = typing.get_origin(annotation) or annotation
    made: Any = cls
    arguments = typing.get_args(annotation)
    if cls in _UNIONS:
        return _union([_core(a) for a in arguments if not _is_lazy(a)], value, text)
    if cls is typing.Literal:
        return _literal(arguments, value, text)
    first = arguments[0] if arguments and cls is not type else Any
    if cls is tuple and arguments[-1:] != (Ellipsis,) and arguments:
        kinds = () if arguments == ((),) else arguments
        if isinstance(value, list | tuple) and len(value) == len(kinds):
            return tuple(_item(kind, item) for kind, item in zip(kinds, value))
    elif cls in (tuple, list, *_SEQUENCES):
        if isinstance(value, list | tuple):
            kind = cls if cls in (tuple, list) else type(value)
            return kind([_item(first, item) for item in value])
    elif cls in _SETS:
        if isinstance(value, list | tuple | set):
            with contextlib.suppress(TypeError):  # an unhashable item
                return _SETS[cls](_item(first, item) for item in value)
    elif cls in (dict, OrderedDict, abc.Mapping, abc.MutableMapping) or typing.is_typeddict(cls):
        if isinstance(value, dict):
            second = arguments[1] if len(arguments) == 2 else Any
            pairs = {convert(first, k, str(k) if type(k) is int else None): _item(second, v) for k, v in value.items()}
            return OrderedDict(pairs) if cls is OrderedDict else pairs
    elif issubclass(cls, enum.Enum):
        return _enum(cls, value, text)
    elif cls is os.PathLike or issubclass(cls, pathlib.PurePath):
        try:
            return made(_str(value, text)) if cls is not os.PathLike else pathlib.Path(_str(value, text))
        except Mismatch:
            raise Mismatch("a path") from None
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        if isinstance(value, list | tuple):
            with contextlib.suppress(TypeError):
                return made(*map(plain, value))
        raise Mismatch(f"{cls.__name__}({', '.join(made._fields)})")
    else:
        value = plain(value)
        try:
            if isinstance(value, cls):
                return value
        except TypeError:  # a protocol that cannot be asked at run time
            return value
        annotation = cls
    raise Mismatch(describe(annotation))


def _item(annotation: Any, item: Any) -> Any:
    return convert(annotation, item.value, item.text) if type(item) is Word else convert(annotation, item, None)


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


def _union(options: list[Any], value: Any, text: str | None) -> Any:
    if any(_simple(option) is _anything for option in options):
        return plain(value)
    kinds = (type(value), None if value is None else type(value))
    is_already = [option for option in options if (typing.get_origin(option) or option) in kinds]
    for option in [*is_already, *sorted(options, key=lambda option: option is str)]:  # text takes everything: last
        try:
            return convert(option, value, text)
        except Mismatch:
            if len(options) == 1:
                raise
    raise Mismatch(" or ".join(describe(option) for option in options))


def _is_lazy(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) is Lazy


def _like(value: Any, text: str | None, old: Any) -> Any:
    """Convert to the type of the value that stands there now; null is always accepted."""
    kind: Any = plain_type(old)
    if value is None or old is None or kind is Ref or old is REQUIRED:
        return plain(value)
    if kind is int and type(value) is float:  # without an annotation, 1 may widen to 1.5
        return int(value) if value.is_integer() and abs(value) <= 1e22 else value
    if kind in _SIMPLE:
        return _SIMPLE[kind](value, text)
    if is_node(old):
        raise Mismatch("null, or arguments and _target_ of the node that stands there")
    if kind in (list, tuple) and isinstance(value, list | tuple):
        kinds = {type(item) for item in old}
        same = kinds.pop() if len(kinds) == 1 and kinds <= {float, str} else Any
        try:
            return kind([_item(same, item) for item in value])
        except Mismatch:
            return kind(map(plain, value))
    if kind in (list, set, frozenset, dict, bytes, OrderedDict) or isinstance(old, enum.Enum | os.PathLike | tuple):
        return convert(kind, value, text)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(old, numpy.ndarray) and not isinstance(value, str):
        with contextlib.suppress(ValueError, TypeError):
            return numpy.array(plain(value), dtype=old.dtype)
    elif numpy is not None and isinstance(old, numpy.generic):
        return kind(convert(type(old.item()), value, text))
    raise Mismatch(
        f"null; the value that stands there ({kind.__module__}.{kind.__qualname__}) cannot be written as text"
    )


def describe(annotation: Any) -> str:
    """An annotation as its author would write it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
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
    """The annotation of one item of a list, tuple or dict; `Any` when unknown."""
    origin = typing.get_origin(annotation)
    arguments: tuple[Any, ...] = typing.get_args(annotation)
    if origin in _UNIONS:
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

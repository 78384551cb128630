"""What a text value becomes where it is put: converted to the parameter's annotation, else to the old value's type."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import pathlib
import re
import sys
import types
import typing
from collections import OrderedDict, abc
from typing import Any

from .errors import OverrideError, TargetError
from .grammar import Word, plain, read_value, starts_quoted
from .node import Node, make_node
from .ref import REQUIRED, Lazy, Ref
from .signature import import_object


class Mismatch(Exception):
    """A value does not fit; the message says what is accepted, `place` and `got` which item of it does not."""

    place: str = ""
    got: Any = None


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
    annotation = _core(annotation)
    if (":" in text or "." in text) and (found := _by_name(text, annotation, old)) is not None:
        return found
    try:
        value = read_value(text)
    except OverrideError:
        is_text = annotation in (str, str | None) or (annotation in _ANY and type(old) is str)
        if is_text and not (starts_quoted(text) and text[-1:] in "'\""):
            return text  # such as a pattern, [0-9]*.png
        raise
    written = None if type(value) is str and value != text else text  # None when it was quoted
    if annotation in _ANY:
        return _like(value, written, old)
    if type(value) is list and type(old) is tuple:  # Sequence accepts both: stay what it was
        value = tuple(value)
    return convert(annotation, value, written)


_FUNCTIONS = types.FunctionType | types.BuiltinFunctionType | types.MethodType
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(?P<colon>:)?(?(colon)[^\W\d])[\w.]*")


def _by_name(text: str, annotation: Any, old: Any) -> Any:
    """Return what a name such as `pkg.mod:Cls` or `torch.float64` leads to, where no text is meant; a node of a class.

    Without an annotation, and a node to replace, only the form with a colon is a name.
    """
    is_open = annotation in _ANY
    match = _NAME.fullmatch(text)
    if not match or not (match["colon"] or "." in text) or (is_open and not (match["colon"] or type(old) is Node)):
        return None
    kinds = _kinds(annotation)
    classes: Any = tuple(kind for kind in kinds if isinstance(kind, type))
    if _is_written(kinds) or (is_open and type(old) not in (type(None), Node, Ref)):
        return None
    try:
        found = import_object(text)
    except TargetError:
        if not is_open or text.partition(":")[0].partition(".")[0] in sys.modules:
            raise
        return None
    with contextlib.suppress(TypeError):  # a protocol that cannot be asked at run time
        if abc.Callable in kinds or isinstance(found, classes):
            return convert(annotation, found, None)
    return convert(annotation, make_node(found, False), None) if callable(found) else None


def tells_type(value: Any) -> bool:
    """Return whether a default says what type its parameter has: not None, nor an object that marks absence."""
    return value is not None and type(value) is not object and not type(value).__name__.startswith("_")


_OF_TORCH = {("torch", name) for name in ("dtype", "layout", "memory_format")}


def annotation_of(value: Any) -> Any:
    """Return the annotation of a place that has none, where a class, a dtype or a function stands; else `Any`."""
    if isinstance(value, type | _FUNCTIONS | functools.partial):
        kind: Any = type if isinstance(value, type) else abc.Callable[..., Any]
        return kind | None
    is_constant = (type(value).__module__, type(value).__name__) in _OF_TORCH
    return type(value) | None if is_constant else Any


def _kinds(annotation: Any) -> list[Any]:
    options = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
    return [typing.get_origin(_core(option)) or _core(option) for option in options if option not in _ANY]


def _is_written(kinds: list[Any]) -> bool:
    written: Any = (*_SIMPLE[1:], os.PathLike, enum.Enum)  # what is given as text or number
    return typing.Literal in kinds or any(isinstance(kind, type) and issubclass(kind, written) for kind in kinds)


def is_given_by_name(annotation: Any) -> bool:
    """Return whether an override gives such a value as `pkg.mod:Cls`: it is written neither as text nor in brackets."""
    kinds = [kind for kind in _kinds(_core(annotation)) if kind is not type(None)]
    has_literal = any(isinstance(kind, type) and issubclass(kind, (*_PLAIN, abc.Collection)) for kind in kinds)
    return bool(kinds) and not _is_written(kinds) and not has_literal


_ANY = (Any, object)
_SIMPLE = (type(None), bool, int, float, complex, str)
_NAMES = {type(None): "null", bool: "true or false", str: "str (quotes make text of anything)"}


def _simple(kind: Any, value: Any, text: str | None) -> Any:
    """Convert to one of the types in `_SIMPLE`."""
    given = type(value)
    if given is kind:
        return value
    if kind is int and given is float and value.is_integer() and abs(value) <= 1e22:
        return int(value)  # 1e5; powers of ten are exact up to 1e22
    if kind in (float, complex) and given in (int, float):
        with contextlib.suppress(OverflowError):
            return kind(value)
    if kind is str and text is not None and given in (bool, int, float, complex):
        return text  # version=1.10 stays "1.10"
    raise Mismatch(_NAMES.get(kind, kind.__name__))


# ------------------------------------------------------------------------------------------- any annotation
_SEQUENCES = (abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence, abc.Reversible, abc.Container)
_SETS = {set: set, frozenset: frozenset, abc.Set: set, abc.MutableSet: set}
_MAPPINGS = (dict, OrderedDict, abc.Mapping, abc.MutableMapping)
_WRAPPERS = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired, Lazy)
_UNIONS = (typing.Union, types.UnionType)
_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, type(None))


def _core(annotation: Any) -> Any:
    """Return the annotation without its wrappers; `Any` for what is not understood, such as a forward reference."""
    while type(annotation) is not type:  # the usual case, and done
        origin = typing.get_origin(annotation)
        if origin in _WRAPPERS:
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
    return annotation


def convert(annotation: Any, value: Any, text: str | None) -> Any:
    """Convert a value, unquoted written as `text`, to an annotation; what is not known before it is built passes.

    Raises:
        Mismatch: It does not fit.
    """
    annotation = _core(annotation)
    if isinstance(value, _PLAIN) and (annotation in _ANY or annotation is None or annotation in _SIMPLE):
        return plain(value) if annotation in _ANY else _simple(annotation or type(None), value, text)
    cls: Any = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if cls in _UNIONS:
        return _union([_core(a) for a in arguments if not _is_lazy(a)], value, text)
    first: Any = arguments[0] if arguments else Any
    if not isinstance(value, _PLAIN):
        if cls is type and isinstance(value, type) and isinstance(first, type) and not issubclass(value, first):
            raise Mismatch(describe(annotation))
        return _unbuilt(cls, value)
    if cls is typing.Literal:
        return _one_of({repr(choice): choice for choice in arguments}, value, text)
    if issubclass(cls, enum.Enum):
        return _one_of(dict(cls.__members__), value, text)
    made: Any = pathlib.Path if cls is os.PathLike else cls
    if cls is os.PathLike or issubclass(cls, pathlib.PurePath):
        with contextlib.suppress(Mismatch):
            return made(_simple(str, value, text))
        raise Mismatch("a path")
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        with contextlib.suppress(TypeError):
            if isinstance(value, list | tuple):
                return made(*map(plain, value))
        raise Mismatch(f"{cls.__name__}({', '.join(made._fields)})")
    if cls is tuple and arguments and arguments[-1] is not Ellipsis:
        if isinstance(value, list | tuple) and len(value) == len(arguments):
            return tuple(_item(kind, item, i) for i, (kind, item) in enumerate(zip(arguments, value)))
    elif cls in (tuple, list, *_SEQUENCES):
        if isinstance(value, list | tuple):
            items = [_item(first, item, i) for i, item in enumerate(value)]
            return (cls if cls in (tuple, list) else type(value))(items)
    elif cls in _SETS:
        with contextlib.suppress(TypeError):  # an unhashable item
            if isinstance(value, list | tuple | set | frozenset):
                return _SETS[cls](_item(first, item, i) for i, item in enumerate(value))
    elif typing.is_typeddict(cls):
        hints = typing.get_type_hints(cls)
        if isinstance(value, dict) and value.keys() <= hints.keys():
            return {key: _item(hints[key], item, key) for key, item in value.items()}
        raise Mismatch(f"{cls.__name__} (a dict of {', '.join(hints)})")
    elif cls in _MAPPINGS:
        if isinstance(value, dict):
            second = arguments[1] if len(arguments) == 2 else Any
            pairs = {
                convert(first, k, str(k) if type(k) is int else None): _item(second, v, k) for k, v in value.items()
            }
            return OrderedDict(pairs) if cls is OrderedDict else pairs
    else:
        try:
            if isinstance(plain(value), cls):
                return plain(value)
        except TypeError:  # a protocol that cannot be asked at run time
            return plain(value)
    raise Mismatch(describe(annotation))


def _item(annotation: Any, item: Any, key: Any) -> Any:
    value, text = (item.value, item.text) if type(item) is Word else (item, None)
    try:
        found = None if text is None or annotation in _ANY else _by_name(text, _core(annotation), None)
        return convert(annotation, value, text) if found is None else found
    except Mismatch as error:
        error.place, error.got = f"[{key!r}]{error.place}", error.got or text or value
        raise


def _unbuilt(cls: Any, value: Any) -> Any:
    """Refuse a node of a class that certainly is not the one that is asked for, and what only would make an object."""
    is_node = type(value) is Node
    made = value.__sig__.target if is_node else value.func if isinstance(value, functools.partial) else value
    if isinstance(made, type) and cls not in _ANY:
        with contextlib.suppress(TypeError):
            if not is_node or value.__partial__:
                is_right = not issubclass(made, cls) or issubclass(functools.partial if is_node else type(value), cls)
            else:
                is_right = cls is not typing.Literal and (issubclass(made, cls) or getattr(cls, "_is_protocol", False))
            if not is_right:
                raise Mismatch(describe(cls))
    return value


def _one_of(choices: dict[str, Any], value: Any, text: str | None) -> Any:
    """Return the choice, a literal or a member of an enum, that was given by value or by name."""
    for choice in choices.values():
        if type(choice) is type(value) and choice == value:
            return choice
    name = value.rpartition(".")[2] if type(value) is str else text
    for choice in choices.values():
        is_member = isinstance(choice, enum.Enum)
        given = choice.value if is_member else choice
        if (is_member and choice.name == name) or (type(given) is str and given == text):
            return choice
        if given == value and type(given) is type(value):
            return choice
    raise Mismatch(f"one of {', '.join(choices)}")


def _union(options: list[Any], value: Any, text: str | None) -> Any:
    if any(option in _ANY for option in options):
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
    kind: Any = type(old)
    if value is None or old is None or kind is Ref or old is REQUIRED:
        return plain(value)
    if kind is Node:
        parts = "{path}.name=value, {path}._target_=pkg.mod:Cls"
        raise Mismatch(f"null, another node as pkg.mod:Cls, or changes of its parts: {parts}")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(old, numpy.generic):
        return kind(convert(type(old.item()), value, text))
    if numpy is not None and isinstance(old, numpy.ndarray) and not isinstance(value, str):
        with contextlib.suppress(ValueError, TypeError):
            return numpy.array(plain(value), dtype=old.dtype)
    if kind in (list, tuple) and len(kinds := {type(item) for item in old}) == 1 and kinds <= set(_SIMPLE[1:]):
        item: Any = kinds.pop()
        item = int | float | None if item is int else item | None
        return convert(list[item] if kind is list else tuple[item, ...], value, text)
    try:
        return convert(kind, value, text)
    except Mismatch:
        if kind is int and type(value) is float:  # without an annotation, 1 may widen to 1.5
            return value
        raise


def describe(annotation: Any) -> str:
    """Return an annotation as its author would write it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " or ".join(describe(a) for a in arguments if not _is_lazy(a))
    if annotation in (None, type(None), Ellipsis):
        return "..." if annotation is Ellipsis else "null"
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is abc.Callable:
        return "a callable"
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(describe, arguments))}]"
    if not isinstance(annotation, type):
        return str(annotation).replace("typing.", "")
    members = f" ({', '.join(annotation.__members__)})" if issubclass(annotation, enum.Enum) else ""
    return f"{annotation.__qualname__}{members}"


def item_annotation(annotation: Any, key: Any) -> Any:
    """Return the annotation of one item of a list, tuple or dict; `Any` when unknown."""
    annotation = _core(annotation)
    origin = typing.get_origin(annotation)
    arguments: tuple[Any, ...] = typing.get_args(annotation)
    if origin in _UNIONS:
        found = [item for item in (item_annotation(a, key) for a in arguments) if item is not Any]
        return typing.Union[tuple(found)] if found else Any  # noqa: UP007
    if not isinstance(origin, type) or not arguments:
        return Any
    if origin is tuple and arguments[-1] is not Ellipsis:
        return arguments[key] if isinstance(key, int) and -len(arguments) <= key < len(arguments) else Any
    if issubclass(origin, abc.Mapping):
        return arguments[-1]
    return arguments[0] if issubclass(origin, abc.Iterable) else Any

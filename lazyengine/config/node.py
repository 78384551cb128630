"""The node: a target, its arguments, where it was written and what changed it.

A node has dunder members only, so that every ordinary name is an argument's (`node.keys`); everything that can be done
with it is a function of this module or of `graph`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from .errors import ConfigWarning, UnknownNameError, UnsetError
from .loaded import Config, add_value, delete_value, first_sources, set_value, values_of
from .signature import Signature, check_name, import_target, near, signature_of
from .sources import Extra, Source, check_editable, describe_source, source_here

__all__ = [
    "REQUIRED",
    "Config",
    "Node",
    "Source",
    "add_value",
    "arguments_of",
    "children_of",
    "defined_at",
    "delete_argument",
    "delete_value",
    "describe_source",
    "is_frozen",
    "is_node",
    "is_partial",
    "join_path",
    "make_node",
    "make_partial",
    "new_node",
    "resolve_target",
    "set_argument",
    "set_target",
    "set_value",
    "signature_of_node",
    "source_here",
    "sources_of",
    "target_of",
    "unfit_arguments",
    "values_of",
    "walk",
]


class _Required:
    """The type of `REQUIRED`: an argument that must be given before the node is built."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "REQUIRED"

    def __reduce__(self) -> str:
        return "REQUIRED"

    def __bool__(self) -> bool:
        raise UnsetError("REQUIRED stands for a value that is not known yet: it has no truth value.")


REQUIRED: Any = _Required()


class Node:
    """What `LazyCall(target)(...)` returns: a description of a call. Attributes are the arguments."""

    __slots__ = ("__arguments__", "__extra__", "__owner__", "__sig__", "__where__")
    __hash__ = None  # type: ignore[assignment]  # equality is structural and arguments change
    __iter__ = None  # `__getitem__` would make it iterable

    __sig__: Signature
    __arguments__: dict[str | int, Any]
    __where__: Source
    __extra__: Extra | None
    __owner__: Config | None

    def __getattr__(self, name: str) -> Any:  # only called for what is not a dunder member
        if name[:2] == "__" == name[-2:]:
            raise AttributeError(name)
        return _read(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        set_argument(self, name, value, source=source_here(1))

    def __delattr__(self, name: str) -> None:
        delete_argument(self, name, source=source_here(1))

    def __getitem__(self, index: int) -> Any:
        """Read an extra positional argument (`*args`) by its index."""
        return _read(self, index)

    def __setitem__(self, index: int, value: Any) -> None:
        set_argument(self, index, value, source=source_here(1))

    def __dir__(self) -> list[str]:
        return sorted({str(name) for name in self.__arguments__} | self.__sig__.names)

    def __eq__(self, other: object) -> bool:
        from .graph import is_equal

        return is_equal(self, other) if type(other) is Node else NotImplemented

    def __repr__(self) -> str:
        brief = [f"{name}={_brief(value)}" for name, value in self.__arguments__.items()]
        return f"{'LazyPartial' if is_partial(self) else 'LazyCall'}({self.__sig__.label})({', '.join(brief)})"

    def __copy__(self) -> Node:
        return new_node(
            self.__sig__, dict(self.__arguments__), self.__where__, self.__extra__ and self.__extra__.copy()
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Node:
        from .graph import copy_graph

        return copy_graph(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        extra = self.__extra__
        edits = (extra.partial, extra.frozen, extra.described()) if extra else (False, False, {})
        return _blank, (), (self.__sig__.target, self.__arguments__, defined_at(self), *edits)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        target, arguments, where, partial, frozen, history = state
        extra = Extra(partial, frozen, history) if partial or frozen or history else None
        _restore(self, signature_of(target), arguments, where, extra, None)


_SIG, _ARGUMENTS, _WHERE, _EXTRA, _OWNER = (  # past `Node.__setattr__`, and twice as fast as object.__setattr__
    Node.__dict__[f"__{name}__"].__set__ for name in ("sig", "arguments", "where", "extra", "owner")
)
_NEW = Node.__new__


def _blank() -> Node:
    return Node.__new__(Node)


def _restore(node: Node, *parts: Any) -> None:
    for put, part in zip((_SIG, _ARGUMENTS, _WHERE, _EXTRA, _OWNER), parts):
        put(node, part)


def new_node(sig: Signature, arguments: dict[Any, Any], where: Source, extra: Extra | None = None) -> Node:
    """Make a node of checked parts."""
    node = _NEW(Node)
    _SIG(node, sig)
    _ARGUMENTS(node, arguments)
    _WHERE(node, where)
    _EXTRA(node, extra)
    _OWNER(node, None)
    return node


# ------------------------------------------------------------------------------------------------- creation
def make_node(target: Any, /, *args: Any, **kwargs: Any) -> Node:
    """Create a node: what `LazyCall(target)(*args, **kwargs)` does. The caller's line becomes its place.

    Raises:
        UnknownNameError: The target does not accept an argument.
        TargetError: The target is not callable.
    """
    sig = signature_of(target)
    frame = sys._getframe(1)
    node = _NEW(Node)  # `new_node`, written out: configs make thousands
    _SIG(node, sig)
    _ARGUMENTS(node, kwargs)
    _WHERE(node, (frame.f_code, frame.f_lasti))
    _EXTRA(node, None)
    _OWNER(node, None)
    if args or not kwargs.keys() <= sig.names:
        _check_arguments(node, args)
    return node


def make_partial(target: Any, /, *args: Any, **kwargs: Any) -> Node:
    """Create a node that builds `functools.partial(target, ...)`: what `LazyPartial(target)(...)` does."""
    frame = sys._getframe(1)
    node = new_node(signature_of(target), kwargs, (frame.f_code, frame.f_lasti), Extra(partial=True))
    _check_arguments(node, args)
    return node


def _check_arguments(node: Node, args: tuple[Any, ...]) -> None:
    where = defined_at(node)
    sig = node.__sig__
    for name in list(node.__arguments__):
        _warn(check_name(sig, str(name), where), 4)
    if args:
        _ARGUMENTS(node, _bind(sig, args, node.__arguments__, where))


def _bind(sig: Signature, args: tuple[Any, ...], kwargs: dict[Any, Any], where: str) -> dict[str | int, Any]:
    """Give positional arguments their names; extra ones (`*args`) get their index."""
    named: dict[str | int, Any] = dict(zip(sig.positional, args))
    extra = args[len(sig.positional) :]
    for name in named:
        if name in kwargs:
            raise UnknownNameError(f"{where}: {sig.label} got {name!r} twice: by position and by name.")
    if extra and not sig.has_var_positional:
        raise UnknownNameError(
            f"{where}: {sig.label} takes at most {len(sig.positional)} positional arguments "
            f"({', '.join(sig.positional) or 'none'}), got {len(args)}."
        )
    return {**named, **dict(enumerate(extra)), **kwargs}


def _warn(message: str | None, stacklevel: int) -> None:
    if message:
        import warnings

        warnings.warn(ConfigWarning(message), stacklevel=stacklevel)


# ------------------------------------------------------------------------------------------------ questions
def is_node(value: object) -> bool:
    """Return whether `value` is what `LazyCall(...)(...)` or `LazyPartial(...)(...)` returns."""
    return type(value) is Node


def is_partial(node: Node) -> bool:
    """Return whether the node was made by `LazyPartial`, so that it builds a `functools.partial`."""
    return node.__extra__ is not None and node.__extra__.partial


def is_frozen(node: Node | Config) -> bool:
    """Return whether `freeze` was applied."""
    return node.__extra__ is not None and node.__extra__.frozen


def target_of(node: Node) -> Callable[..., Any] | str:
    """Return the callable that the node will call, or its name as long as it was not imported."""
    return node.__sig__.target


def arguments_of(node: Node) -> dict[str | int, Any]:
    """Return the arguments that the config sets: by parameter name, extra positional ones (`*args`) by index.

    The dict is the live one: read it, and change it only through `set_argument` and `delete_argument`.
    """
    return node.__arguments__


def signature_of_node(node: Node) -> Signature:
    """Return what the node's target accepts, without importing it."""
    return node.__sig__


def resolve_target(node: Node) -> Callable[..., Any]:
    """Return the callable of the node; a name (`LazyCall("pkg.mod:Cls")`) is imported now and its arguments checked.

    Raises:
        TargetError: The name cannot be imported.
        UnknownNameError: The target does not accept one of the arguments.
    """
    sig = node.__sig__
    if sig.is_resolved:
        return sig.target
    where = defined_at(node)
    try:
        sig = signature_of(import_target(sig.target))
    except Exception as error:
        error.add_note(f"while importing the target of the node defined at {where}")
        raise
    arguments = node.__arguments__
    named = {name: value for name, value in arguments.items() if isinstance(name, str)}
    for name in named:
        _warn(check_name(sig, name, where), 2)
    bound = _bind(sig, tuple(v for name, v in arguments.items() if not isinstance(name, str)), named, where)
    _ARGUMENTS(node, bound)  # swapped, not edited: another thread may be reading
    _SIG(node, sig)
    return sig.target


def unfit_arguments(node: Node) -> list[str | int]:
    """Return the names (or indices) of arguments that the target does not accept, as after `set_target`."""
    sig = node.__sig__
    return [
        name
        for name in node.__arguments__
        if not (name in sig.names or (sig.has_var_keyword if isinstance(name, str) else sig.has_var_positional))
    ]


def _read(node: Node, name: str | int) -> Any:
    try:
        return node.__arguments__[name]
    except KeyError:
        pass
    sig, where = node.__sig__, defined_at(node)
    parameter = sig.parameters.get(str(name))
    if parameter is None:
        given = ", ".join(map(str, node.__arguments__)) or "nothing"
        close = near(name, {*sig.parameters, *node.__arguments__})
        raise UnsetError(
            f"The {sig.label} node defined at {where} has no argument {name!r}.{close} It sets: {given}; "
            f"accepted: {', '.join(sig.parameters) or 'no names'}."
        )
    default = "it is required" if parameter.default is parameter.empty else f"its default is {parameter.default!r:.80}"
    raise UnsetError(
        f"The {sig.label} node defined at {where} does not set {name!r} ({default}). "
        "A default belongs to the class and is not handed out: set the argument before reading it."
    )


def _brief(value: Any) -> str:
    if type(value) is Node:
        return f"{value.__sig__.label}(...)" if value.__arguments__ else f"{value.__sig__.label}()"
    if type(value) in (list, tuple, dict) and len(value) > 4:
        return f"<{type(value).__name__} of {len(value)}>"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def defined_at(node: Node) -> str:
    """Return `"file.py:12"`, the place of the call that made the node."""
    return describe_source(node.__where__)


def sources_of(node: Node | Config, name: str | int) -> list[str]:
    """Return what set an argument of a node, or a name of a config, oldest first: `"file.py:12"`, `"cli:#3 lr=1"`.

    The name `"_target_"` asks for the target. A name that was never set has no sources.
    """
    history = node.__extra__.history.get(name) if node.__extra__ else None
    if history is None:
        history = first_sources(node, str(name)) if isinstance(node, Config) else _first_sources(node, name)
    return [describe_source(source) for source in history]


def _first_sources(node: Node, name: str | int) -> list[Source]:
    return [node.__where__] if name == "_target_" or name in node.__arguments__ else []


# ---------------------------------------------------------------------------------------------------- edits
def _begin_edit(node: Node, name: str | int, source: Source) -> None:
    check_editable(is_frozen(node), f"{node.__sig__.label} node", name, source)


def _remember(node: Node, name: str | int, source: Source) -> None:
    extra = node.__extra__
    if extra is None:
        extra = Extra()
        _EXTRA(node, extra)
    if name not in extra.history:
        extra.history[name] = _first_sources(node, name)
    extra.history[name].append(source)


def set_argument(node: Node, name: str | int, value: Any, *, source: Source) -> None:
    """Set an argument, checked against the signature, and remember the source.

    Raises:
        UnknownNameError: The target does not accept it.
        FrozenError: The node is frozen.
    """
    _begin_edit(node, name, source)
    sig = node.__sig__
    if isinstance(name, int):
        if not (sig.has_var_positional and 0 <= name <= len([k for k in node.__arguments__ if isinstance(k, int)])):
            raise UnknownNameError(
                f"{describe_source(source)}: {sig.label} has no positional argument [{name}] to set."
            )
    elif name not in sig.names:
        _warn(check_name(sig, name, describe_source(source)), 4)
    _remember(node, name, source)
    node.__arguments__[name] = value
    if node.__owner__ is not None:
        from .graph import adopt

        adopt(node.__owner__, value)


def delete_argument(node: Node, name: str | int, *, source: Source) -> None:
    """Remove an argument, so that the target's default applies; of extra positional ones only the last.

    Raises:
        UnsetError: It is not set.
        FrozenError: The node is frozen.
    """
    _begin_edit(node, name, source)
    if name not in node.__arguments__:
        _read(node, name)
    if isinstance(name, int) and name + 1 in node.__arguments__:
        raise UnknownNameError(
            f"{describe_source(source)}: only the last extra positional argument can be removed, not [{name}]."
        )
    _remember(node, name, source)
    del node.__arguments__[name]


def set_target(node: Node, target: Callable[..., Any] | str, *, source: Source) -> None:
    """Swap the target. Arguments that no longer fit stay and are listed by `unfit_arguments`.

    Raises:
        TargetError: It is not callable.
        FrozenError: The node is frozen.
    """
    _begin_edit(node, "_target_", source)
    sig = signature_of(target)
    _remember(node, "_target_", source)
    _SIG(node, sig)


# -------------------------------------------------------------------------------------------------- walking
def join_path(path: str, key: Any) -> str:
    """Return the path of a child in the override grammar: `a.b`, `a[0]`, `a['odd key']`."""
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def walk(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Visit a config, node or container and everything in it, depth first, parents before children.

    Yields:
        `(path, value)` for nodes, containers and leaves. A node (or container) that is reached again is not repeated,
        so the path of a shared one is the first that leads to it.
    """
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [(path, root)]
    while stack:
        path, value = stack.pop()
        children = children_of(value)
        if children is not None:
            if id(value) in seen:
                continue
            seen.add(id(value))
        yield path, value
        if children:
            stack.extend((join_path(path, key), child) for key, child in reversed(children))


def children_of(value: Any) -> list[tuple[Any, Any]] | None:
    """Return `(key, child)` of a config, node, dict, list or tuple (subclasses included); None for a leaf."""
    if isinstance(value, Node):
        return list(value.__arguments__.items())
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return list(value.__values__.items()) if isinstance(value, Config) else None

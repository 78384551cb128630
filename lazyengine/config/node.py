"""The node: a target, its arguments, where it was written and what changed it; and the loaded config that holds nodes.

Both have dunder members only, so that every ordinary name is an argument's (`node.keys`); everything that can be done
with them is a function of this module or of `graph`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from .errors import ConfigWarning, FrozenError, UnknownNameError, UnsetError
from .ref import Ref
from .signature import Signature, check_name, import_target, near, signature_of
from .sources import Extra, Source, describe_source, source_here

ATOMIC = frozenset(
    {int, float, str, bool, type(None), bytes, complex, type, FunctionType, type(len), range, ModuleType}
)


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


class _Holder:
    """What nodes and configs have in common: values by name, and perhaps a history."""

    __slots__ = ("__arguments__", "__extra__")
    __hash__ = None  # type: ignore[assignment]  # equality is structural and values change
    __iter__ = None  # `__getitem__` would make a node iterable

    __arguments__: dict[Any, Any]
    __extra__: Any  # an `Extra`, or None for most nodes

    def __getattr__(self, name: str) -> Any:  # only called for what is not a dunder member
        if name[:2] == "__" == name[-2:]:
            raise AttributeError(name)
        return _read(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        set_argument(self, name, value, source=source_here(1))

    def __delattr__(self, name: str) -> None:
        delete_argument(self, name, source=source_here(1))

    def __eq__(self, other: object) -> bool:
        from .graph import is_equal

        return is_equal(self, other) if type(other) is type(self) else NotImplemented

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        from .graph import copy_graph

        return copy_graph(self, memo)


class Node(_Holder):
    """What `LazyCall(target)(...)` returns: a description of a call. Attributes are the arguments."""

    __slots__ = ("__owner__", "__sig__", "__where__")

    __sig__: Signature
    __where__: Source
    __owner__: Config | None

    def __getitem__(self, index: int) -> Any:
        """Read an extra positional argument (`*args`) by its index."""
        return _read(self, index)

    def __setitem__(self, index: int, value: Any) -> None:
        set_argument(self, index, value, source=source_here(1))

    def __dir__(self) -> list[str]:
        return sorted({str(name) for name in self.__arguments__} | self.__sig__.names)

    def __repr__(self) -> str:
        from .text import brief

        def short(value: Any) -> str:
            is_long = type(value) in (list, tuple, dict) and len(value) > 4
            return f"<{type(value).__name__} of {len(value)}>" if is_long else brief(value)

        shown = ", ".join(f"{name}={short(value)}" for name, value in self.__arguments__.items())
        return f"{'LazyPartial' if is_partial(self) else 'LazyCall'}({self.__sig__.label})({shown})"

    def __copy__(self) -> Node:
        return new_node(
            self.__sig__, dict(self.__arguments__), self.__where__, self.__extra__ and self.__extra__.copy()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (Node,), (self.__sig__.target, self.__arguments__, defined_at(self), self.__extra__)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _fill(self, signature_of(state[0]), *state[1:])


class Config(_Holder):
    """A loaded config: its attributes are the file's public names that hold data. A new name is an error."""

    __slots__ = ("__file__", "__record__")

    __file__: str
    __record__: Any  # what the load knows of its source files (`loader.Load`); None for a copy or another origin

    def __init__(self, values: dict[str, Any], file: str = "", record: Any = None, extra: Extra | None = None):
        for name, value in (("arguments", values), ("file", file), ("record", record), ("extra", extra or Extra())):
            object.__setattr__(self, f"__{name}__", value)
        adopt(self, values)

    def __dir__(self) -> list[str]:
        return sorted(self.__arguments__)

    def __contains__(self, name: object) -> bool:
        return name in self.__arguments__

    def __repr__(self) -> str:
        return f"<Config {self.__file__ or 'of no file'}: {', '.join(self.__arguments__)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (Config,), (self.__arguments__, self.__file__, None, self.__extra__)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        Config.__init__(self, *state)


SET_SIG, SET_ARGUMENTS, SET_WHERE, SET_EXTRA, SET_OWNER = (  # past `__setattr__`, twice as fast as object.__setattr__
    getattr(Node, f"__{name}__").__set__ for name in ("sig", "arguments", "where", "extra", "owner")
)
NEW = object.__new__


def _blank(cls: type) -> Any:
    return NEW(cls)


def new_node(sig: Signature, arguments: dict[Any, Any], where: Source, extra: Extra | None = None) -> Node:
    """Make a node of checked parts."""
    return _fill(NEW(Node), sig, arguments, where, extra)


def _fill(node: Node, sig: Signature, arguments: dict[Any, Any], where: Source, extra: Extra | None) -> Node:
    SET_SIG(node, sig)
    SET_ARGUMENTS(node, arguments)
    SET_WHERE(node, where)
    SET_EXTRA(node, extra)
    SET_OWNER(node, None)
    return node


# ------------------------------------------------------------------------------------------------- creation
def make_node(target: Any, /, *args: Any, **kwargs: Any) -> Node:
    """Create a node: what `LazyCall(target)(*args, **kwargs)` does. The caller's line becomes its place."""
    sig = signature_of(target)
    frame = sys._getframe(1)
    node = NEW(Node)  # `new_node`, written out: configs make thousands
    SET_SIG(node, sig)
    SET_ARGUMENTS(node, kwargs)
    SET_WHERE(node, (frame.f_code, frame.f_lasti))
    SET_EXTRA(node, None)
    SET_OWNER(node, None)
    if args or not kwargs.keys() <= sig.names:
        _check_arguments(node, args)
    return node


def make_partial(target: Any, /, *args: Any, **kwargs: Any) -> Node:
    """Create a node that builds `functools.partial(target, ...)`: what `LazyPartial(target)(...)` does."""
    node = new_node(signature_of(target), kwargs, source_here(1), Extra(partial=True))
    _check_arguments(node, args)
    return node


def _check_arguments(node: Node, args: tuple[Any, ...]) -> None:
    where = defined_at(node)
    for name in node.__arguments__:
        _warn(check_name(node.__sig__, str(name), where), 4)
    if args:
        SET_ARGUMENTS(node, _bind(node.__sig__, args, node.__arguments__, where))


def _bind(sig: Signature, args: tuple[Any, ...], kwargs: dict[Any, Any], where: str) -> dict[str | int, Any]:
    """Give positional arguments their names; extra ones (`*args`) get their index."""
    named: dict[str | int, Any] = dict(zip(sig.positional, args))
    extra = args[len(sig.positional) :]
    for name in named.keys() & kwargs.keys():
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


def adopt(owner: Config, value: Any) -> tuple[list[Ref], list[list[Any]]]:
    """Tell all nodes and refs in `value` which config they belong to (refs are looked up there)."""
    refs: list[Ref] = []
    repeated: list[list[Any]] = []
    stack: list[Any] = [value]
    seen: set[int] = set()
    while stack:
        x = stack.pop()
        t = type(x)
        if t is Node:
            if x.__owner__ is not owner:
                SET_OWNER(x, owner)
                stack += [v for v in x.__arguments__.values() if type(v) not in ATOMIC]
        elif t is Ref:
            x.owner = owner
            refs.append(x)
        elif isinstance(x, dict | list | tuple) and x and id(x) not in seen:
            seen.add(id(x))
            inner = [v for v in (x.values() if isinstance(x, dict) else x) if type(v) not in ATOMIC]
            stack += inner
            if isinstance(x, list) and len(inner) > 1 and len(set(map(id, inner))) < len(inner):
                repeated.append(x)
    return refs, repeated


# ------------------------------------------------------------------------------------------------ questions
def is_node(value: object) -> bool:
    """Return whether `value` is what `LazyCall(...)(...)` or `LazyPartial(...)(...)` returns."""
    return type(value) is Node


def is_partial(node: Node) -> bool:
    """Return whether the node was made by `LazyPartial`, so that it builds a `functools.partial`."""
    return node.__extra__ is not None and node.__extra__.partial


def target_of(node: Node) -> Callable[..., Any] | str:
    """Return the callable that the node will call, or its name as long as it was not imported."""
    return node.__sig__.target


def arguments_of(holder: Node | Config) -> dict[Any, Any]:
    """Return the values that a config has, or the arguments that a node sets: by name, extra positional ones by index.

    The dict is the live one: read it, and change it only through `set_argument` and `delete_argument`.
    """
    return holder.__arguments__


def resolve_target(node: Node) -> Callable[..., Any]:
    """Return the callable of the node; a name (`LazyCall("pkg.mod:Cls")`) is imported now and its arguments checked."""
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
    SET_ARGUMENTS(node, bound)  # swapped, not edited: another thread may be reading
    SET_SIG(node, sig)
    return sig.target


def unfit_arguments(node: Node) -> list[str | int]:
    """Return the names (or indices) of arguments that the target does not accept, as after `set_target`."""
    sig = node.__sig__
    return [
        name
        for name in node.__arguments__
        if not (name in sig.names or (sig.has_var_keyword if isinstance(name, str) else sig.has_var_positional))
    ]


def _read(holder: _Holder, name: str | int) -> Any:
    arguments = holder.__arguments__
    if name in arguments:
        return arguments[name]
    if not isinstance(holder, Node):
        raise UnknownNameError(_no_such_name(holder, name))
    sig, what = holder.__sig__, f"The {holder.__sig__.label} node defined at {defined_at(holder)}"
    if name not in sig.names:
        raise UnsetError(
            f"{what} has no argument {name!r}.{near(name, {*sig.parameters, *arguments})} It sets: "
            f"{', '.join(map(str, arguments)) or 'nothing'}; accepted: {', '.join(sig.parameters) or 'no names'}."
        )
    raise UnsetError(
        f"{what} does not set {name!r} ({sig.default_text(str(name))}). "
        "A default belongs to the class and is not handed out: set the argument before reading it."
    )


def _no_such_name(config: Any, name: str | int) -> str:
    values = config.__arguments__
    return (
        f"{config.__file__ or 'The config'} has no name {name!r}.{near(name, values)} It has: {', '.join(values)}. "
        "Only the file itself (or an override +name=value) adds names."
    )


def defined_at(node: Node) -> str:
    """Return `"file.py:12"`, the place of the call that made the node."""
    return describe_source(node.__where__)


def sources_of(holder: Node | Config, name: str | int) -> list[str]:
    """Return what set an argument of a node, or a name of a config, oldest first: `"file.py:12"`, `"cli:#3 lr=1"`.

    The name `"_target_"` asks for the target. A name that was never set has no sources.
    """
    history = holder.__extra__.history.get(name) if holder.__extra__ else None
    return [describe_source(source) for source in history or _first_sources(holder, name)]


def _first_sources(holder: Any, name: str | int) -> list[Source]:
    if type(holder) is Node:
        return [holder.__where__] if name == "_target_" or name in holder.__arguments__ else []
    if name not in holder.__arguments__:
        return []
    assigned = holder.__record__.assigned_at(name) if holder.__record__ is not None else None
    return [assigned or holder.__file__ or "?"]


# ---------------------------------------------------------------------------------------------------- edits
def check_editable(holder: Any, name: str | int, source: Source) -> None:
    """Refuse to edit what is frozen."""
    if holder.__extra__ is not None and holder.__extra__.frozen:
        what = f"{holder.__sig__.label} node" if type(holder) is Node else "config"
        raise FrozenError(
            f"{describe_source(source)}: cannot change {name!r}: the {what} is frozen. Change a clone(...)."
        )


def remember(holder: Any, name: str | int, source: Source) -> None:
    """Add to the history of a name, before it is set."""
    extra = holder.__extra__
    if extra is None:
        SET_EXTRA(holder, extra := Extra())
    history = extra.history
    if name not in history:
        history[name] = _first_sources(holder, name)
    history[name].append(source)


def set_argument(holder: Any, name: str | int, value: Any, *, source: Source, add: bool = False) -> None:
    """Set an argument of a node, checked against the signature, or a name of a config; and remember the source."""
    check_editable(holder, name, source)
    if type(holder) is Node:
        sig, owner = holder.__sig__, holder.__owner__
        if isinstance(name, int):
            if not (sig.has_var_positional and 0 <= name <= sum(isinstance(k, int) for k in holder.__arguments__)):
                raise UnknownNameError(
                    f"{describe_source(source)}: {sig.label} has no positional argument [{name}] to set."
                )
        elif name not in sig.names:
            _warn(check_name(sig, name, describe_source(source)), 4)
    else:
        owner = holder
        if not add and name not in holder.__arguments__:
            raise UnknownNameError(f"{describe_source(source)}: {_no_such_name(holder, name)}")
    remember(holder, name, source)
    holder.__arguments__[name] = value
    if owner is not None:
        adopt(owner, value)


def delete_argument(holder: Any, name: str | int, *, source: Source) -> None:
    """Remove an argument, so that the target's default applies; of extra positional ones only the last. Or a name."""
    check_editable(holder, name, source)
    _read(holder, name)
    if isinstance(name, int) and name + 1 in holder.__arguments__:
        raise UnknownNameError(
            f"{describe_source(source)}: only the last extra positional argument can be removed, not [{name}]."
        )
    remember(holder, name, source)
    del holder.__arguments__[name]


def set_target(node: Node, target: Callable[..., Any] | str, *, source: Source) -> None:
    """Swap the target. Arguments that no longer fit stay and are listed by `unfit_arguments`."""
    check_editable(node, "_target_", source)
    sig = signature_of(target)
    remember(node, "_target_", source)
    SET_SIG(node, sig)


# -------------------------------------------------------------------------------------------------- walking
def join_path(path: str, key: Any) -> str:
    """Return the path of a child in the override grammar: `a.b`, `a[0]`, `a['odd key']`."""
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def walk(root: Any, path: str = "", breadth_first: bool = False) -> Iterator[tuple[str, Any]]:
    """Visit a config, node or container and everything in it, parents before children, depth first unless told."""
    seen: set[int] = set()
    todo: deque[tuple[str, Any]] = deque([(path, root)])
    while todo:
        path, value = todo.popleft() if breadth_first else todo.pop()
        children = children_of(value)
        if children is not None:
            if id(value) in seen:
                continue
            seen.add(id(value))
        yield path, value
        if children:
            todo.extend((join_path(path, k), child) for k, child in (children if breadth_first else reversed(children)))


def children_of(value: Any) -> list[tuple[Any, Any]] | None:
    """Return `(key, child)` of a config, node, dict, list or tuple (subclasses included); None for a leaf."""
    if isinstance(value, Node | Config):
        return list(value.__arguments__.items())
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else None


def find_path(root: Any, wanted: Any, path: str = "") -> str | None:
    """Return the shortest path to an object in (or at) `root`, None if it is not there."""
    return next((p for p, value in walk(root, path, breadth_first=True) if value is wanted), None)

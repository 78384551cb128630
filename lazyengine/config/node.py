"""The node: a target, its arguments, where it was written and what changed it; and the loaded config that holds nodes.

Both have dunder members only, and the one that notebooks ask for, so that every ordinary name is an argument's
(`node.keys`); everything that can be done with them is a function of this module or of `graph`.
"""

from __future__ import annotations

import copy
import enum
import functools
import html
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from ..text import did_you_mean, short
from .errors import TargetError, UnknownNameError, UnsetError
from .graph import ATOMIC, Edit, Holder, Source, children, describe_source, join_path, source_here, swap
from .ref import Ref
from .signature import Signature, check_name, import_target, signature_of

T = TypeVar("T")
P = ParamSpec("P")


class _Editable(Holder):
    """Reading and changing values as attributes."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:  # only called for what is not a dunder member
        if name[:2] == "__" == name[-2:]:
            raise AttributeError(name)
        return target_of(self) if name == "_target_" and type(self) is Node else _read(self, name)

    def __getitem__(self, name: str | int) -> Any:
        """Read an argument by its name, an extra positional one (`*args`) by its index."""
        return _read(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.__arguments__

    def __setitem__(self, name: str | int, value: Any) -> None:
        if name == "_target_" and type(self) is Node:
            set_target(self, value, source=source_here())
        else:
            set_argument(self, name, value, source=source_here())

    def __delitem__(self, name: str | int) -> None:
        delete_argument(self, name, source=source_here())

    __setattr__ = __setitem__
    __delattr__ = __delitem__

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the tree, whose branches open by a click."""
        return f"<div style='font-family: monospace'>{_as_html('', self, '', {})}</div>"


class Node(_Editable):
    """What `LazyCall(target)(...)` returns: a description of a call. Attributes are the arguments."""

    __slots__ = ("__owner__", "__partial__", "__sig__", "__where__")

    __sig__: Signature
    __where__: Source
    __partial__: bool  # whether it builds a `functools.partial`
    __owner__: Config | None

    def __dir__(self) -> list[str]:
        return sorted({str(name) for name in self.__arguments__} | self.__sig__.names)

    def __repr__(self) -> str:
        def shown(value: Any) -> str:
            is_long = type(value) in (list, tuple, dict) and len(value) > 4
            return f"<{type(value).__name__} of {len(value)}>" if is_long else brief(value)

        arguments = ", ".join(f"{name}={shown(value)}" for name, value in self.__arguments__.items())
        return f"{'LazyPartial' if self.__partial__ else 'LazyCall'}({self.__sig__.label})({arguments})"

    def __head__(self) -> list[Any]:
        return [self.__sig__.target, self.__partial__]

    def __twin__(self, memo: dict[int, Any]) -> Node:
        arguments, owner = self.__arguments__.copy(), self.__owner__
        owner = owner and memo.get(id(owner), owner)
        return _fill(_NEW(Node), self.__sig__, arguments, self.__where__, self.__partial__, self.__history__, owner)

    def __copy__(self) -> Node:
        return self.__twin__({})

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self.__sig__.target, self.__arguments__, defined_at(self), self.__partial__, _told(self), None)
        return _NEW, (Node,), state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _fill(self, signature_of(state[0]), *state[1:])


class Config(_Editable):
    """A loaded config: its attributes are the file's public names that hold data. A new name is an error."""

    __slots__ = ("__file__", "__record__")

    __file__: str
    __record__: Any  # what the load knows of its source files (`loader.Load`); None for a copy or another origin

    def __init__(self, values: dict[str, Any], file: str = "", record: Any = None, history: Any = None):
        for name, value in (("arguments", values), ("file", file), ("record", record), ("history", history)):
            object.__setattr__(self, f"__{name}__", value)
        adopt(self, values)

    def __dir__(self) -> list[str]:
        return sorted(self.__arguments__)

    def __repr__(self) -> str:
        return f"<Config {self.__file__ or 'of no file'}: {', '.join(self.__arguments__)}>"

    def __twin__(self, memo: dict[int, Any]) -> Config:
        twin = Config({}, self.__file__, self.__record__, self.__history__)
        twin.__arguments__.update(self.__arguments__)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return _NEW, (Config,), (self.__arguments__, self.__file__, None, _told(self))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        Config.__init__(self, *state)


_NEW = object.__new__
SET_SIG, SET_ARGUMENTS, SET_WHERE, _SET_PARTIAL, SET_HISTORY, SET_OWNER = (  # past `__setattr__`, twice as fast
    getattr(Node, f"__{name}__").__set__ for name in ("sig", "arguments", "where", "partial", "history", "owner")
)


def _fill(node: Node, sig: Any, arguments: Any, where: Any, partial: Any, history: Any, owner: Any) -> Node:
    """Give a node its checked parts."""
    SET_SIG(node, sig)
    SET_ARGUMENTS(node, arguments)
    SET_WHERE(node, where)
    _SET_PARTIAL(node, partial)
    SET_HISTORY(node, history)
    SET_OWNER(node, owner)
    return node


def _told(holder: Holder) -> dict[Any, tuple[str, ...]] | None:
    history = holder.__history__
    return history and {name: tuple(map(_as_told, sources)) for name, sources in history.items()}


def _as_told(source: Source) -> Source:
    text = describe_source(source)
    return Edit(text, source.was) if isinstance(source, Edit) else text


# ------------------------------------------------------------------------------------------------- creation
def make_node(target: Any, partial: bool, /, *args: Any, **kwargs: Any) -> Node:
    """Create a node: what `LazyCall(target)(*args, **kwargs)` does. The caller's line becomes its place."""
    where = source_here()
    if type(target) is NodeFactory:
        raise not_called(target)
    sig = signature_of(target, where)
    if args or not kwargs.keys() <= sig.names:
        kwargs = _checked(sig, args, kwargs, where)
    return _fill(_NEW(Node), sig, kwargs, where, partial, None, None)


def _checked(sig: Signature, args: Sequence[Any], kwargs: dict[Any, Any], source: Source) -> dict[Any, Any]:
    """Check names, and give positional arguments theirs; extra ones (`*args`) get their index."""
    for name in kwargs:
        check_name(sig, name, source, kwargs)
    named: dict[Any, Any] = dict(zip(sig.positional, args))
    extra = args[len(sig.positional) :]
    for name in named.keys() & kwargs.keys():
        raise UnknownNameError(f"{describe_source(source)}: {sig.label} got {name!r} twice: by position and by name.")
    if extra and not sig.has_var_positional:
        raise UnknownNameError(
            f"{describe_source(source)}: {sig.label} takes at most {len(sig.positional)} positional arguments "
            f"({', '.join(sig.positional) or 'none'}), got {len(args)}."
        )
    return {**named, **dict(enumerate(extra)), **kwargs}


def adopt(owner: Config, value: Any) -> list[Any]:
    """Tell all nodes and refs in `value` which config they belong to; return the refs and containers there."""
    found: list[Any] = []
    stack = [value]
    seen: set[int] = set()
    while stack:
        x = stack.pop()
        kind = type(x)
        if kind in ATOMIC or (kind is not Node and id(x) in seen):
            continue
        if kind is Node:
            if x.__owner__ is not None:  # what belongs to another config stays there, with its refs
                continue
            SET_OWNER(x, owner)
        elif kind is Ref:
            x.owner = x.owner or owner
            found.append(x)
            continue
        elif kind is NodeFactory:
            raise not_called(x)
        else:
            found.append(x)
            seen.add(id(x))
        stack += [child for _, child in children(x) or () if type(child) not in ATOMIC]
    return found


class NodeFactory(functools.partial):  # type: ignore[type-arg]
    """What `LazyCall(target)` returns at run time: called with arguments, it makes a node."""

    where: Source

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" or name == "where":
            raise AttributeError(name)
        raise not_called(self)


def _factory(target: Any, partial: bool) -> NodeFactory:
    factory = NodeFactory(make_node, target, partial)
    factory.where = source_here()
    return factory


def not_called(factory: NodeFactory) -> TargetError:
    """Return the error of a `LazyCall(target)` that stands where a node is meant."""
    target, partial = factory.args
    is_object = not isinstance(target, str) and not hasattr(target, "__qualname__")
    label = signature_of(type(target) if is_object else target).label
    made = f"{'LazyPartial' if partial else 'LazyCall'}({label})"
    return TargetError(
        f"{describe_source(factory.where)}: {made} alone describes nothing, a second call is missing. "
        f"Write {made}(...), with the arguments of {label}."
    )


@overload
def LazyCall(target: str, /) -> Callable[..., Any]: ...
@overload
def LazyCall(target: Callable[P, Any], /) -> Callable[P, Any]: ...
def LazyCall(target: Any, /) -> Any:
    """Describe a call instead of making it: `LazyCall(SGD)(lr=0.1)` is a node that `instantiate` turns into an SGD.

    Argument names are checked at once; a missing one only when it is built (`REQUIRED` says so in the config).
    The node's attributes are the arguments: `optimizer.lr = 0.2`.

    Args:
        target: A class, function or other callable; or its name `"pkg.mod:Cls"`, which is imported when it is built
            or checked.
    """
    return _factory(target, False)


def LazyPartial(target: str | Callable[..., Any], /) -> Callable[..., Any]:
    """Like `LazyCall`, but the node builds `functools.partial(target, ...)`, which takes more arguments later."""
    return _factory(target, True)


# ------------------------------------------------------------------------------------------------ questions
def is_node(value: object) -> bool:
    """Return whether `value` is what `LazyCall(...)(...)` or `LazyPartial(...)(...)` returns."""
    return type(value) is Node


def target_of(node: Node) -> Callable[..., Any] | str:
    """Return the callable that the node will call, or its name as long as it was not imported."""
    return node.__sig__.target


def arguments_of(holder: Node | Config) -> dict[Any, Any]:
    """Return the values that a config has, or the arguments that a node sets: by name, extra positional ones by index.

    The dict is the live one: read it, and change it only through attributes or `set_argument`.
    """
    return holder.__arguments__


def resolve_target(node: Node) -> Callable[..., Any]:
    """Return the callable of the node; a name (`LazyCall("pkg.mod:Cls")`) is imported now and its arguments checked."""
    sig = node.__sig__
    if sig.is_resolved:
        return sig.target
    try:
        sig = signature_of(import_target(sig.target))
    except Exception as error:
        error.add_note(f"while importing the target of the node defined at {defined_at(node)}")
        raise
    arguments = node.__arguments__
    named = {name: value for name, value in arguments.items() if isinstance(name, str)}
    args = tuple(value for name, value in arguments.items() if not isinstance(name, str))
    named = _checked(sig, args, named, node.__where__)
    SET_ARGUMENTS(node, named)  # swapped, not edited: another thread may be reading
    SET_SIG(node, sig)
    return sig.target


def _read(holder: Any, name: str | int, source: Source = None) -> Any:
    arguments = holder.__arguments__
    if name in arguments:
        return arguments[name]
    where = describe_source(source or source_here())
    if type(holder) is Config:
        raise UnknownNameError(f"{where}: {_no_such_name(holder, name)}")
    sig, what = holder.__sig__, f"{where}: The {holder.__sig__.label} node defined at {defined_at(holder)}"
    if name not in sig.names:
        if name in dir(dict):
            what = f"{where}: a node is no dict: set its arguments one by one, node.name = value. The {sig.label} node"
        raise UnsetError(
            f"{what} has no argument {name!r}.{did_you_mean(name, {*sig.parameters, *arguments})} It sets: "
            f"{', '.join(map(str, arguments)) or 'nothing'}; accepted: {', '.join(sig.parameters) or 'no names'}."
        )
    raise UnsetError(
        f"{what} does not set {name!r} ({sig.default_text(str(name))}). It sets: "
        f"{', '.join(map(str, arguments)) or 'nothing'}. "
        "A default belongs to the class and is not handed out: set the argument before reading it."
    )


def _no_such_name(config: Any, name: str | int) -> str:
    values = config.__arguments__
    return (
        f"{config.__file__ or 'The config'} has no name {name!r}.{did_you_mean(name, values)} "
        f"It has: {', '.join(values)}. Only the file itself, or "
        "LazyConfig.apply_overrides(cfg, ['+name=value']), adds names."
    )


def defined_at(node: Node) -> str:
    """Return `"file.py:12"`, the place of the call that made the node."""
    return describe_source(node.__where__)


def sources_of(holder: Holder, name: str | int) -> list[str]:
    """Return what set an argument of a node, or a name of a config, oldest first: `"file.py:12"`, `"cli:#3 lr=1"`.

    The name `"_target_"` asks for the target. A name that was never set has no sources.
    """
    history = holder.__history__ or {}
    return [describe_source(source) for source in history.get(name) or _first_sources(holder, name)]


def _first_sources(holder: Any, name: str | int) -> list[Source]:
    if type(holder) is Node:
        return [holder.__where__] if name == "_target_" or name in holder.__arguments__ else []
    if name not in holder.__arguments__:
        return []
    assigned = holder.__record__.assigned_at(name) if holder.__record__ is not None else None
    return [assigned or holder.__file__ or "?"]


# ---------------------------------------------------------------------------------------------------- edits
def _remember(holder: Any, name: str | int, source: Source) -> None:
    """Add to the history of a name, before it is set."""
    history = holder.__history__ or {}
    past = history.get(name) or _first_sources(holder, name)
    was = brief(holder.__arguments__[name]) if name in holder.__arguments__ else "-"
    edit = Edit(source, target_label(holder) if name == "_target_" else was)
    SET_HISTORY(holder, {**history, name: (*past, edit)})  # never changed in place: copies share it


def set_argument(holder: Any, name: str | int, value: Any, *, source: Source, add: bool = False) -> None:
    """Set an argument of a node, checked against the signature, or a name of a config; and remember the source."""
    if type(holder) is Node:
        sig, owner = holder.__sig__, holder.__owner__
        if isinstance(name, int):
            if not (sig.has_var_positional and 0 <= name <= sum(isinstance(k, int) for k in holder.__arguments__)):
                raise UnknownNameError(
                    f"{describe_source(source)}: {sig.label} has no positional argument [{name}] to set."
                )
        elif name not in sig.names:
            check_name(sig, name, source, holder.__arguments__)
    else:
        owner = holder
        if not add and name not in holder.__arguments__:
            raise UnknownNameError(f"{describe_source(source)}: {_no_such_name(holder, name)}")
    _remember(holder, name, source)
    old = holder.__arguments__.get(name)
    holder.__arguments__[name] = value
    if owner is not None and not add and owner.__record__ is not None:
        owner.__record__.note_set(holder, name, old)
    if owner is not None and type(value) not in ATOMIC:
        adopt(owner, value)


def delete_argument(holder: Any, name: str | int, *, source: Source) -> None:
    """Remove an argument, so that the target's default applies; of extra positional ones only the last. Or a name."""
    _read(holder, name, source)
    if isinstance(name, int) and name + 1 in holder.__arguments__:
        raise UnknownNameError(
            f"{describe_source(source)}: only the last extra positional argument can be removed, not [{name}]."
        )
    _remember(holder, name, source)
    del holder.__arguments__[name]


def set_target(node: Node, target: Callable[..., Any] | str, *, source: Source) -> None:
    """Swap the target. Arguments that no longer fit stay."""
    if isinstance(target, NodeFactory):
        raise not_called(target)
    sig = signature_of(target, source)
    _remember(node, "_target_", source)
    SET_SIG(node, sig)


def replace(old: T, new: Any, /) -> T:
    """Put `new` wherever `old` is used, and return it: `optimizer = replace(optimizer, LazyCall(SGD)(...))`.

    The node `old` itself takes over target and arguments of `new`, so that every reference to it sees the change.
    `new` may use `old` (a wrapper): inside of it the former `old` lives on.

    Raises:
        TargetError: One of them is not a node. (To remove a part, set the argument that holds it.)
    """
    source = source_here()
    if not (isinstance(old, Node) and isinstance(new, Node)):
        kinds = f"{type(old).__name__} and {type(new).__name__}"
        raise TargetError(f"{describe_source(source)}: replace(old, new) takes two nodes, got {kinds}.")
    if new is old:
        return old
    swap(new, old, copy.copy(old), lambda holder, name, value: holder.__arguments__.update({name: value}))
    past, owner = (old.__history__ or {}).get("_target_") or (old.__where__,), old.__owner__
    history = {**(new.__history__ or {}), "_target_": (*past, Edit(source, target_label(old)))}
    _fill(old, new.__sig__, new.__arguments__.copy(), new.__where__, new.__partial__, history, owner)
    if owner is not None:
        adopt(owner, list(old.__arguments__.values()))
    return old  # type: ignore[return-value]


# --------------------------------------------------------------------------------------------------- as text
def target_label(node: Node) -> str:
    """Return what a node calls, by its short name: `SGD`, `partial of relu`, `"pkg.mod:Cls"`."""
    target = target_of(node)
    name = repr(target) if isinstance(target, str) else node.__sig__.label
    return f"partial of {name}" if node.__partial__ else name


def brief(value: Any, limit: int = 80) -> str:
    """Return one line for any value, at most `limit` characters."""
    text = _text(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _as_html(name: str, value: Any, path: str, seen: dict[int, str]) -> str:
    """Return the part of a tree that is below a path; `seen` has the paths of what was shown already."""
    inner, head = children(value) or [], f"<b>{html.escape(name)}</b> = " if name else ""
    is_tree = isinstance(value, Holder) or any(children(child) for _, child in inner)
    if not is_tree or id(value) in seen:
        text = f"same as {seen[id(value)] or 'the top'}" if is_tree else brief(value, 100)
        return f"<div>{head}{html.escape(text)}</div>"
    seen[id(value)] = path
    what, where = type(value).__name__, ""
    if isinstance(value, Node):
        what, where = target_label(value), f" <span style='opacity: 0.6'>{html.escape(defined_at(value))}</span>"
    elif isinstance(value, Config):
        where = f" <span style='opacity: 0.6'>{html.escape(value.__file__)}</span>"
    parts = "".join(_as_html(str(key), child, join_path(path, key), seen) for key, child in inner)
    summary = f"<summary>{head}{html.escape(what)}{where}</summary>"
    return f"<details{'' if name else ' open'}>{summary}<div style='margin-left: 2em'>{parts}</div></details>"


def _text(value: Any) -> str:
    kind = type(value)
    if kind is float or (kind is int and value.bit_length() < 99):
        return repr(value)
    if kind is Node:
        return f"{target_label(value)}({'...' if value.__arguments__ else ''})"
    if kind in (list, tuple) and len(value) <= 30:
        inner = ", ".join(map(_text, value))
        return f"[{inner}]" if kind is list else f"({inner}{',' if len(value) == 1 else ''})"
    if kind is dict and len(value) <= 30:
        return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, enum.Enum):
        return f"{kind.__name__}.{value.name}"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value.__qualname__
    return repr(value) if kind is str else short(value, 1000)

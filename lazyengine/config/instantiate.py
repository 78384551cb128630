"""`instantiate`: turn a graph of nodes into objects, each node once."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ConfigError, MissingArgumentError, RefError, TargetError, strip_frames
from .graph import ATOMIC, children, describe_source, find_path, holds, join_path, rebuild
from .node import Config, Node, NodeFactory, defined_at, not_called, resolve_target
from .ref import REQUIRED, Lazy, Ref, lookup
from .signature import Signature, check_name

_BUILDING = object()


def instantiate(config: Any, /, **arguments: Any) -> Any:
    """Build the objects that nodes describe: one instance per node, however often the graph refers to it.

    Walks dicts, lists and tuples (new ones are made, of the same types); everything else passes through unchanged. A
    loaded config becomes a dict of its names.

    Args:
        config: A node, a container with nodes, or a loaded config.
        **arguments: Arguments of the node that its config leaves open (or to replace), without changing the node.

    Raises:
        MissingArgumentError: A required argument is not set; the message has its path.
        RefError: A `ref` cannot be computed.
        ConfigError: Nodes contain one another.
        Exception: Whatever a constructor raises, with a note (the path in the config and where the node was defined)
            and the path as its attribute `config_path`.
    """
    build = Build(config)
    try:
        if not arguments:
            return build.value(config)
        if type(config) is not Node:
            raise TargetError(f"instantiate takes arguments only for a node, got {type(config).__name__}.")
        return build.node(config, arguments)
    except Exception as error:
        strip_frames(error)
        raise  # a bare raise adds no frame of its own


class Build:
    """One call of `instantiate`: which nodes are built already, and where they stand in the config."""

    def __init__(self, root: Any):
        self._root = root
        self._memo: dict[int, Any] = {}  # id of a node, ref or late container -> its object
        self._active: list[Any] = []  # the nodes and refs whose objects are being made, outermost first
        self._given: list[dict[str, Any]] = []  # keeps what the ids above belong to alive
        self._lock = threading.RLock()

    def value(self, x: Any) -> Any:
        """Build whatever `x` is."""
        kind = type(x)
        if kind in ATOMIC:
            return x
        if kind is Node:
            return self.node(x)
        if kind is Ref:
            return self._once(x, self._computed)
        if x is REQUIRED:
            near = self._active[-1] if self._active else self._root
            path = find_path(near, x, self.path_of(near)) or "a value"
            raise MissingArgumentError(f"{path}: REQUIRED stands here and was not set.")
        inner = children(x.__arguments__ if kind is Config else x)
        if inner is None:
            if kind is NodeFactory:
                raise not_called(x)
            return set(x) if kind is set else x
        items = [self.value(child) for _, child in inner]
        return dict(zip(x.__arguments__, items)) if kind is Config else rebuild(x, items)

    def node(self, x: Node, given: dict[str, Any] | None = None) -> Any:
        """Return the object of a node, made now if it does not exist yet."""
        if given and self._memo.get(id(x), _BUILDING) is not _BUILDING:
            raise ConfigError(
                f"{self._label(x)} is already built: arguments ({', '.join(given)}) come with the first call."
            )
        return self._once(x, self._call, given)

    def _once(self, x: Node | Ref, make: Callable[..., Any], *more: Any) -> Any:
        """Return what `make(x)` makes, now or before; an error gets the place of `x` in the config."""
        key, memo = id(x), self._memo
        if key in memo:
            if memo[key] is not _BUILDING:
                return memo[key]
            if type(x) is Ref:
                raise RefError(f"References form a cycle: {self._chain(x)}.")
            raise ConfigError(f"Nodes contain one another: {self._chain(x)}.")
        memo[key] = _BUILDING
        self._active.append(x)
        try:
            memo[key] = made = make(x, *more)
            return made
        except BaseException as error:
            del memo[key]
            if isinstance(error, Exception) and not hasattr(error, "config_path"):
                error.add_note(f"while building {self._label(x)}")
                with contextlib.suppress(Exception):  # a class of somebody else that allows no attributes
                    error.config_path = self.path_of(x)  # type: ignore[attr-defined]
            raise
        finally:
            self._active.pop()

    def _call(self, x: Node, given: dict[str, Any] | None) -> Any:
        """Make the object of a node."""
        if not x.__sig__.is_resolved:
            resolve_target(x)
        sig = x.__sig__
        arguments: Mapping[Any, Any] = x.__arguments__
        if given:
            for name in given:
                check_name(sig, name, f"instantiate({self._label(x)})", given)
            self._given.append(given)
            arguments = {**arguments, **given}
        lazy = sig.lazy
        kwargs: dict[Any, Any] = {}
        for name, v in arguments.items():  # no comprehension, which is a further frame for each nested node
            if v is not REQUIRED:
                kwargs[name] = self.late_value(v, lazy[name]) if name in lazy else self.value(v)
        if len(kwargs) < len(arguments) or (sig.required and not sig.required <= kwargs.keys()):
            self._check_missing(x, sig, arguments)
        args = _positional(sig, kwargs) if sig.has_positional_only or 0 in kwargs else ()
        return functools.partial(sig.target, *args, **kwargs) if x.__partial__ else sig.target(*args, **kwargs)

    def _check_missing(self, x: Node, sig: Signature, arguments: Mapping[Any, Any]) -> None:
        if missing := sig.missing(arguments, x.__partial__):
            path = self.path_of(x)
            names = ", ".join(join_path(path, name) for name in missing)
            raise MissingArgumentError(
                f"{names}: required by {sig.label} (node defined at {defined_at(x)}) and not set. Set it in the "
                f"config, by an override, or with instantiate(node, {missing[0]}=...)."
            )

    def _computed(self, x: Ref) -> Any:
        root = self._config_of(x) or self._root
        values = [self.value(lookup(root, path, x)) for path in x.paths]
        if x.function is None:
            return values[0]
        made = x.function(*values)
        if not holds(made, Node, Ref):
            return made
        self._given.append({"": made})
        return self.value(made)  # a function may choose a node

    def late_value(self, x: Any, depths: set[int]) -> Any:
        """Build an argument whose parameter asks for recipes, at the value itself or inside of its containers."""
        while type(x) is Ref and x.function is None:
            x = lookup(self._config_of(x) or self._root, x.paths[0], x)
        if type(x) is Node:
            return Lazy(self, x) if 0 in depths else self.node(x)
        inner, below = children(x) or (), {depth - 1 for depth in depths if depth > 0}
        if inner and below:
            return rebuild(x, [self.late_value(child, below) for _, child in inner])
        return Lazy(self, x) if 0 in depths and inner and holds(x, Node, Ref) else self.value(x)

    def late(self, x: Any, given: dict[str, Any]) -> Any:
        """Build what a `Lazy` holds; from any thread."""
        with self._lock:
            if type(x) is Node:
                return self.node(x, given)
            if given:
                raise ConfigError(f"{self.path_of(x)} is a {type(x).__name__}: a recipe of it takes no arguments.")
            if id(x) not in self._memo:
                self._memo[id(x)] = self.value(x)
            return self._memo[id(x)]

    def target_of(self, x: Any) -> Any:
        """Return the imported target of a node; the type of a container."""
        return resolve_target(x) if type(x) is Node else type(x)

    def _config_of(self, x: Any) -> Config | None:
        owner = x.owner if type(x) is Ref else getattr(x, "__owner__", None)
        if owner is not None:
            return owner
        return self._root if type(self._root) is Config else getattr(self._root, "__owner__", None)

    def path_of(self, x: Any) -> str:
        """Return the shortest path to `x` from the config that it belongs to, else from what is being built."""
        for root in (self._config_of(x), self._root, *self._given):
            if (found := find_path(root, x)) is not None:
                return found
        return ""

    def _label(self, x: Any) -> str:
        path = self.path_of(x)
        if type(x) is Ref:
            return f"{path or repr(x)} (defined at {describe_source(x.where)})"
        target = x.__sig__.target
        name = target if isinstance(target, str) else f"{getattr(target, '__module__', '')}.{x.__sig__.label}"
        return f"{path}: {name}, defined at {defined_at(x)}" if path else f"{name}, defined at {defined_at(x)}"

    def _chain(self, x: Any) -> str:
        start = next(i for i, active in enumerate(self._active) if active is x)
        return " -> ".join(self.path_of(part) or repr(part) for part in [*self._active[start:], x])


def _positional(sig: Signature, kwargs: dict[Any, Any]) -> list[Any]:
    """Take the arguments that must be given by position out of `kwargs`."""
    extra = [kwargs.pop(i) for i in sorted(k for k in kwargs if isinstance(k, int))]
    names = list(sig.positional)
    if not extra:  # as few as needed: up to the last positional-only one that is set
        needed = [i for i, n in enumerate(names) if n in kwargs and sig.parameters[n].kind == 0]
        names = names[: max(needed, default=-1) + 1]
    args = []
    for name in names:
        default = sig.parameters[name].default
        if name not in kwargs and default is sig.parameters[name].empty:
            raise MissingArgumentError(f"{name!r} of {sig.label} must be set: positional arguments follow it.")
        args.append(kwargs.pop(name, default))
    return args + extra

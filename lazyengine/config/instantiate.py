"""`instantiate`: turn a graph of nodes into objects, each node once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError, MissingArgumentError, RefError, TargetError
from .graph import FrozenDict, FrozenList, changed, rebuilt_tuple
from .lazy import Lazy
from .node import (
    ATOMIC,
    REQUIRED,
    Config,
    Node,
    children_of,
    defined_at,
    find_path,
    is_partial,
    join_path,
    resolve_target,
)
from .ref import Ref, lookup
from .signature import LazySpec, Signature, check_name
from .sources import describe_source
from .tracebacks import strip_frames

_BUILDING = object()
_NOTE = "while building "


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
        Exception: Whatever a constructor raises, with a note: the path in the config and where the node was defined.
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

    __slots__ = ("_active", "_given", "_lock", "_memo", "_root")

    def __init__(self, root: Any):
        self._root = root
        self._memo: dict[int, Any] = {}  # id of a node, ref or late container -> its object
        self._active: list[Any] = []  # the nodes and refs whose objects are being made, outermost first
        self._given: list[dict[str, Any]] = []  # keeps what the ids above belong to alive
        self._lock = threading.RLock()

    def value(self, x: Any) -> Any:
        """Build whatever `x` is."""
        t = type(x)
        if t in ATOMIC:
            return x
        if t is Node:
            return self.node(x)
        if t is list or t is FrozenList:
            return [v if type(v) in ATOMIC else self.value(v) for v in x]
        if t is dict or t is FrozenDict:
            return {k: v if type(v) in ATOMIC else self.value(v) for k, v in x.items()}
        if t is tuple:
            return tuple([self.value(v) for v in x])
        if t is Ref:
            return self.ref(x)
        if t is Config:
            return {name: self.value(v) for name, v in x.__arguments__.items()}
        if isinstance(x, dict | list | tuple):
            return _rebuilt(x, self.value)
        if x is REQUIRED:
            raise MissingArgumentError(
                f"{find_path(self._root, x) or 'a value'}: REQUIRED stands here and was not set."
            )
        return set(x) if t is set else x

    def node(self, x: Node, given: dict[str, Any] | None = None) -> Any:
        """Return the object of a node, made now if it does not exist yet."""
        key, memo = id(x), self._memo
        if key in memo:
            if memo[key] is _BUILDING:
                raise ConfigError(f"Nodes contain one another: {self._chain(x)}.")
            if given:
                raise ConfigError(
                    f"{self._label(x)} is already built: arguments ({', '.join(given)}) come with the first call."
                )
            return memo[key]
        memo[key] = _BUILDING
        self._active.append(x)
        try:
            sig = x.__sig__
            if not sig.is_resolved:
                resolve_target(x)
                sig = x.__sig__
            lazy = sig.lazy
            arguments: Mapping[Any, Any] = x.__arguments__ if given is None else self._completed(x, sig, given)
            kwargs: dict[Any, Any] = {}
            for name, v in arguments.items():
                if type(v) in ATOMIC:
                    kwargs[name] = v
                elif v is not REQUIRED:
                    kwargs[name] = self.late_value(v, lazy[name]) if name in lazy else self.value(v)
            if len(kwargs) < len(arguments) or (sig.required and not sig.required_names <= kwargs.keys()):
                self._check_missing(x, sig, arguments, kwargs)
            args = _positional(sig, kwargs) if sig.has_positional_only or 0 in kwargs else ()
            if x.__extra__ is not None and x.__extra__.partial:
                made = functools.partial(sig.target, *args, **kwargs)
            else:
                made = sig.target(*args, **kwargs)
            memo[key] = made
            return made
        except BaseException as error:
            del memo[key]
            if isinstance(error, Exception) and not any(n.startswith(_NOTE) for n in getattr(error, "__notes__", ())):
                error.add_note(f"{_NOTE}{self._label(x)}")
            raise
        finally:
            self._active.pop()

    def _completed(self, x: Node, sig: Signature, given: dict[str, Any]) -> dict[Any, Any]:
        for name in given:
            check_name(sig, name, f"instantiate({self._label(x)})")
        self._given.append(given)
        return {**x.__arguments__, **given}

    def _check_missing(self, x: Node, sig: Signature, arguments: Mapping[Any, Any], kwargs: dict[Any, Any]) -> None:
        missing = [name for name, v in arguments.items() if v is REQUIRED]
        if not is_partial(x):
            missing += [name for name in sig.required if name not in kwargs and name not in missing]
        if missing:
            path = self.path_of(x)
            names = ", ".join(join_path(path, name) for name in missing)
            raise MissingArgumentError(
                f"{names}: required by {sig.label} (node defined at {defined_at(x)}) and not set. Set it in the "
                f"config, by an override, or with instantiate(node, {missing[0]}=...)."
            )

    def ref(self, x: Ref) -> Any:
        """Compute a `ref`, once."""
        key, memo = id(x), self._memo
        if key in memo:
            if memo[key] is _BUILDING:
                raise RefError(f"References form a cycle: {self._chain(x)}.")
            return memo[key]
        memo[key] = _BUILDING
        self._active.append(x)
        try:
            root = self._config_of(x) or self._root
            values = [self.value(lookup(root, path, x)) for path in x.paths]
            memo[key] = made = values[0] if x.function is None else x.function(*values)
            return made
        except BaseException as error:
            del memo[key]
            if not isinstance(error, ConfigError) and not getattr(error, "__notes__", None):
                error.add_note(f"{_NOTE}{self._label(x)}")
            raise
        finally:
            self._active.pop()

    def late_value(self, x: Any, spec: LazySpec) -> Any:
        """Build an argument whose parameter asks for recipes, at the value itself or inside of its containers."""
        while type(x) is Ref and x.function is None:
            x = lookup(self._config_of(x) or self._root, x.paths[0], x)
        if type(x) is Node:
            return Lazy(self, x) if spec.is_lazy else self.node(x)
        if isinstance(x, dict | list | tuple):
            items = spec.items
            if items is not None:
                return _rebuilt(x, lambda v: self.late_value(v, items))
            if spec.is_lazy and _holds_recipe(x):
                return Lazy(self, x)
        return self.value(x)

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


def _holds_recipe(x: Any) -> bool:
    return type(x) in (Node, Ref) or any(_holds_recipe(child) for _, child in children_of(x) or ())


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


def _rebuilt(x: Any, build: Any) -> Any:
    """Return a container of the same type (named tuple, OrderedDict, defaultdict, ...) with built items."""
    if isinstance(x, dict):
        built = {k: build(v) for k, v in x.items()}
        return built if type(x) in (dict, FrozenDict) else changed(x, built)
    items = [build(v) for v in x]
    if type(x) in (list, FrozenList):
        return items
    if isinstance(x, list):
        return changed(x, dict(enumerate(items)))
    if all(a is b for a, b in zip(items, x)):  # torch.Size and the like need not know how to be rebuilt
        return x
    return rebuilt_tuple(x, items)

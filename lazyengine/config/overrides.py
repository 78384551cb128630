"""Overrides: `a.b=v`, `+a.new=v`, `~a.old`, `a._target_=pkg.Cls`, applied to a loaded config: all of them or none."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Callable, Sequence
from typing import Any

from .coerce import Mismatch, coerce, item_annotation
from .errors import ConfigError, FrozenError, OverrideError
from .grammar import Override, format_path, parse_override, parse_path
from .graph import changed, rebuilt_tuple, swap
from .node import (
    SET_EXTRA,
    SET_SIG,
    Config,
    Node,
    children_of,
    defined_at,
    delete_argument,
    join_path,
    remember,
    set_argument,
    set_target,
    unfit_arguments,
    walk,
)
from .ref import Ref
from .signature import import_target, near
from .sources import describe_source

Step = str | int
_MISSING: Any = object()


def apply_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """Apply overrides given as text, in place: all of them or, if one is wrong, none.

    Swaps of `_target_` come first, the others in their order. A value is converted to the annotation of its place,
    else to the type of the old value. Nothing is evaluated or called; only `_target_` imports.
    """
    batch = _Batch(cfg)
    number, text = 0, ""
    try:
        later = []
        for number, text in enumerate(overrides, 1):
            parsed = parse_override(text)
            if parsed.path[-1] == "_target_":
                batch.apply(parsed, f"cli:#{number} {text}")
            else:
                later.append((number, text, parsed))
        for number, text, parsed in later:
            batch.apply(parsed, f"cli:#{number} {text}")
        batch.check()
    except BaseException as error:
        batch.undo()
        if not isinstance(error, ConfigError) or isinstance(error, FrozenError):
            error.add_note(f"while applying override #{number} {text!r}; nothing was changed")
            raise
        cause = None if type(error) is OverrideError else error
        where = getattr(error, "override", None) or f"override #{number} {text!r}"
        raise OverrideError(f"{where}: {error} Nothing was changed.") from cause
    return cfg


class _Batch:
    """One call of `apply_overrides`: applies each override at once and can take all of them back."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.saved: dict[int, tuple[Any, ...]] = {}
        self.targets: list[tuple[Node, str, str]] = []
        self.deleted: list[tuple[str, str]] = []
        self.copied: list[tuple[str, Any, str]] = []  # top-level plain values that were set: name, old value, source

    def save(self, holder: Node | Config) -> None:
        """Remember the state of a node or config before its first change."""
        if id(holder) not in self.saved:
            extra = holder.__extra__
            lengths = extra and {name: len(sources) for name, sources in extra.history.items()}
            sig = holder.__sig__ if type(holder) is Node else None
            self.saved[id(holder)] = (holder, extra, lengths, holder.__arguments__.copy(), sig)

    def undo(self) -> None:
        for holder, extra, lengths, before, sig in self.saved.values():
            holder.__arguments__.clear()
            holder.__arguments__.update(before)
            SET_EXTRA(holder, extra)
            for name in list(extra.history) if extra else ():
                del extra.history[name][lengths.get(name, 0) :]
                if name not in lengths:
                    del extra.history[name]
            if sig is not None:
                SET_SIG(holder, sig)

    def apply(self, override: Override, source: str) -> None:
        path = override.path
        if override.kind == "~":
            self.deleted.append((format_path(path), source))
        parent: Any = self.cfg
        trail: list[tuple[Any, Any]] = []  # every parent and the key taken from it
        for step in path[:-1]:
            t = type(parent)
            if t is Node or t is Config:
                key, child = step, parent.__arguments__.get(step, _MISSING)
            elif t is list and type(step) is int and 0 <= step < len(parent):
                key, child = step, parent[step]
            else:
                key = _key(parent, step, path, len(trail))
                child = _MISSING if key is _MISSING else parent[key]
            if child is _MISSING:
                raise OverrideError(_no_such(parent, step, path[: len(trail)]))
            trail.append((parent, key))
            parent = child
        last = path[-1]
        if last == "_target_" and not isinstance(parent, dict):
            return self.swap_target(parent, override, source)
        if type(parent) is Node or type(parent) is Config:
            key = last if last in parent.__arguments__ else _MISSING
        else:
            key = _key(parent, last, path, len(trail))
        if override.kind == "+" and key is not _MISSING:
            state = "is set" if type(parent) is Node else "exists"
            raise OverrideError(f"{format_path(path)} {state} already: write it without '+' to change it.")
        if type(parent) is Node:
            self.apply_to_node(parent, override, source)
        elif type(parent) is Config:
            self.apply_to_config(parent, override, source)
        else:
            self.apply_to_container(parent, key, trail, override, source)

    def apply_to_node(self, node: Node, override: Override, source: str) -> None:
        kind, path, text = override
        name: Any = path[-1]
        sig = node.__sig__
        old = node.__arguments__.get(name, _MISSING)
        known = name in sig.names
        is_new = not known and kind == "+" and (sig.has_var_keyword or not isinstance(name, str))
        if old is _MISSING and not is_new and (kind == "~" or not known):
            raise OverrideError(_no_such(node, name, path[:-1]))
        if kind == "~":
            self.save(node)
            return delete_argument(node, name, source=source)
        annotation = sig.hints.get(name, Any) if known else Any
        default = None
        if known and old is _MISSING and annotation is Any:  # only hints that cannot mislead come from a default
            default = sig.parameters[name].default
            default = default if type(default) in (float, tuple) else None
        try:
            value = _value(override, annotation, old, default)
        except OverrideError:
            if text not in ("null", "None") or not known or sig.parameters[name].default is not None:
                raise
            value = None  # `x: int = None`
        self.save(node)
        if known and not (node.__extra__ and node.__extra__.frozen):  # set_argument without checks made above
            remember(node, name, source)
            node.__arguments__[name] = value
        else:
            set_argument(node, name, value, source=source)

    def apply_to_config(self, cfg: Config, override: Override, source: str) -> None:
        kind, path, _ = override
        name: Any = path[-1]
        old = cfg.__arguments__.get(name, _MISSING)
        if not isinstance(name, str) or (kind != "+" and old is _MISSING):
            raise OverrideError(_no_such(cfg, name, ()))
        if kind == "~":
            users = self.paths_of(lambda key, value: value is old) if isinstance(old, Node | list | dict) else []
            if len(users) > 1:
                raise OverrideError(f"{name} is used by {', '.join(users[1:])}: delete it there, or give {name}=null.")
            self.save(cfg)
            return delete_argument(cfg, name, source=source)
        value = _value(override, Any, old)
        if kind == "+" and (not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name)):
            raise OverrideError(f"{name!r} is not a name that a config file can have.")
        if isinstance(old, Node | list | dict):
            return self.replace_everywhere(old, value, source)
        self.save(cfg)
        set_argument(cfg, name, value, source=source, add=kind == "+")
        if kind == "=":
            self.copied.append((name, old, source))

    def apply_to_container(
        self, parent: Any, key: Any, trail: list[tuple[Any, Any]], override: Override, source: str
    ) -> None:
        """Change an item of a list, tuple or dict: in a copy that takes its place everywhere in this config.

        So no list or dict that a library or another config holds too is changed.
        """
        kind, path, _ = override
        last = path[-1]
        appends = kind == "+" and hasattr(parent, "append") and last == len(parent)
        if key is _MISSING and not (kind == "+" and (isinstance(parent, dict) or appends)):
            raise OverrideError(_no_such(parent, last, path[:-1]))
        key = last if key is _MISSING else key
        if kind == "~":
            if isinstance(parent, tuple) and hasattr(parent, "_fields"):
                raise OverrideError(
                    f"{format_path(path)} is a field of a {type(parent).__name__} and cannot be deleted."
                )
            new: Any = list(parent) if isinstance(parent, tuple) else copy.copy(parent)
            del new[key]
            new = rebuilt_tuple(parent, new) if isinstance(parent, tuple) else new
        else:
            value = _value(override, _annotation_in([*trail, (parent, key)]), _MISSING if kind == "+" else parent[key])
            new = copy.copy(parent) if appends else changed(parent, {key: value})
            if appends:
                new.append(value)
        while isinstance(parent, tuple):  # it has no identity: changed on this path only
            old, (parent, key) = parent, trail.pop()
            if isinstance(parent, Node | Config):
                self.save(parent)
                if type(parent) is Config:
                    self.copied.append((key, old, source))
                return set_argument(parent, key, new, source=source)
            new = changed(parent, {key: new})
        self.replace_everywhere(parent, new, source)

    def swap_target(self, node: Any, override: Override, source: str) -> None:
        kind, path, text = override
        if type(node) is not Node:
            raise OverrideError(
                f"{format_path(path[:-1]) or 'the whole'} is {_kind(node)}, and only a node has a _target_."
            )
        if kind != "=" or not text:
            raise OverrideError("_target_ takes a name to import, _target_=package.module.Class.")
        target = import_target(text)
        self.save(node)
        set_target(node, target, source=source)
        self.targets.append((node, format_path(path[:-1]), source))

    def replace_everywhere(self, old: Any, new: Any, source: str) -> None:
        """Replace an object by another wherever the config holds it; lists and dicts around it are copied."""

        def put(holder: Any, name: Any, value: Any) -> None:
            self.save(holder)
            set_argument(holder, name, value, source=source)

        swap(self.cfg, old, new, put)

    def paths_of(self, is_wanted: Callable[[Any, Any], bool]) -> list[str]:
        """The paths at which such a value (given its key and itself) stands."""
        return [
            join_path(path, key)
            for path, parent in walk(self.cfg)
            for key, child in children_of(parent) or ()
            if is_wanted(key, child)
        ]

    def check(self) -> None:
        """What only the whole batch shows: arguments that a new target does not accept, changes that reach nothing."""
        for node, path, source in self.targets:
            if unfit := unfit_arguments(node):
                names = ", ".join(f"{path}.{name}" if isinstance(name, str) else f"{path}[{name}]" for name in unfit)
                raise _late_error(
                    f"{node.__sig__.label} does not accept {names} (set at {defined_at(node)}); delete with "
                    f"{' '.join('~' + name for name in names.split(', '))}. "
                    f"It accepts: {', '.join(node.__sig__.parameters) or 'no arguments'}.",
                    source,
                )
        refs = [value for _, value in walk(self.cfg) if type(value) is Ref] if self.deleted or self.copied else []
        for path, source in self.deleted:
            for ref in refs:
                if any(f"{format_path(parse_path(p))}.".startswith((f"{path}.", f"{path}[")) for p in ref.paths):
                    raise _late_error(f"{ref!r}, written at {describe_source(ref.where)}, reads it.", source)
        for name, old, source in self.copied:
            if not any(parse_path(p)[0] == name for ref in refs for p in ref.paths):
                self.check_copied(name, old, source)

    def check_copied(self, name: str, old: Any, source: str) -> None:
        """Refuse to set a top-level plain value from which Python has computed others already."""
        record = self.cfg.__record__
        lines = record.read_at(name) if record is not None else []

        def is_copy(key: Any, value: Any) -> bool:
            if not (lines or (record is None and key == name)):  # without a file nothing is known but names
                return False
            return value is old or (type(value) is type(old) and not hasattr(old, "shape") and bool(value == old))

        places = [place for place in self.paths_of(is_copy) if place not in self.cfg]
        if not places and not lines:
            return
        where = f" at {', '.join(lines[:3])}" if lines else ""
        instead = (
            f"Override {' '.join(f'{place}=...' for place in places[:5])} instead" if places else "Change the file"
        )
        raise _late_error(
            f"Python has read {name} = {old!r:.60} already{where}, and no ref follows it: what was made of it "
            f"would stay. {instead}, or write ref({name!r}) in the file.",
            source,
        )


def _late_error(message: str, source: str) -> OverrideError:
    """Make an error about an override that was applied before."""
    error = OverrideError(message)
    number, text = source.removeprefix("cli:").split(" ", 1)
    error.override = f"override {number} {text!r}"  # type: ignore[attr-defined]
    return error


def _value(override: Override, annotation: Any, old: Any, default: Any = None) -> Any:
    """Read the value of an override; `_MISSING` as `old` if nothing stands there."""
    try:
        return coerce(override.text, annotation, default if old is _MISSING else old)
    except Mismatch as error:
        now = "" if old is _MISSING else f" (now {_kind(old)})"
        raise OverrideError(f"{format_path(override.path)}{now} accepts {error}, got {override.text!r}.") from None


def _key(container: Any, step: Step, path: Sequence[Step], depth: int) -> Any:
    """The real key for a step into a list, tuple or dict; `_MISSING` when there is none."""
    if isinstance(container, dict):
        return step if step in container else str(step) if str(step) in container else _MISSING
    if isinstance(container, list | tuple):
        if isinstance(step, str) and step in getattr(container, "_fields", ()):
            return container._fields.index(step)  # type: ignore[union-attr]
        return step if isinstance(step, int) and -len(container) <= step < len(container) else _MISSING
    raise OverrideError(
        f"{format_path(path[:depth])} is {_kind(container)}: {format_path(path)} would be inside it. Only nodes, "
        "lists, tuples and dicts have parts."
    )


def _annotation_in(trail: list[tuple[Any, Any]]) -> Any:
    """The annotation of an item, from that of the argument that holds its container."""
    annotation: Any = Any
    for parent, key in trail:
        if type(parent) is Node:
            annotation = parent.__sig__.hints.get(key, Any)
        elif type(parent) is not Config:
            annotation = item_annotation(annotation, key)
    return annotation


def _kind(value: Any) -> str:
    if type(value) is Node:
        return f"{value.__sig__.label} (defined at {defined_at(value)})"
    if type(value) is Config:
        return "the config"
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.60}"


def _no_such(parent: Any, step: Step, path: Sequence[Step]) -> str:
    """Say what exists, what is close, and what is accepted."""
    extra = ""
    if type(parent) is Node:
        sig, given = parent.__sig__, [str(name) for name in parent.__arguments__]
        names = list(dict.fromkeys([*sig.parameters, *given]))
        if step in sig.names and step not in parent.__arguments__:
            state = sig.default_text(str(step), 60)
            return f"{format_path([*path, step])} is not set ({state}); it sets: {', '.join(given) or 'nothing'}."
        if sig.has_var_keyword and isinstance(step, str):
            extra = f" Its target takes **kwargs: write +{format_path([*path, step])}=... to add one."
    elif type(parent) is Config:
        names = list(parent.__arguments__)
        extra = f" Write +{step}=... to add it."
    elif isinstance(parent, dict):
        names = [str(key) for key in parent]
        extra = f" Write +{format_path([*path, step])}=... to add it."
    else:
        names = list(getattr(parent, "_fields", ()))
        extra = f" Positions go from 0 to {len(parent) - 1}." if len(parent) else " It is empty."
        if isinstance(parent, list):
            extra += f" Write +{format_path([*path, len(parent)])}=... to append."
    accepted = f" It has: {', '.join(names) or 'nothing'}." if not hasattr(parent, "append") else ""
    where = f"{format_path(path)} is {_kind(parent)}" if path else _kind(parent)
    return f"{where}{' and' if path else ''} has no {step!r}.{near(step, names)}{accepted}{extra}"

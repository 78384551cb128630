"""Overrides: `a.b=v`, `+a.new=v`, `~a.old`, `a._target_=pkg.Cls`, applied to a loaded config: all of them or none."""

from __future__ import annotations

import copy
import enum
import functools
import keyword
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..text import did_you_mean, listed
from .coerce import Mismatch, coerce, is_given_by_name, item_annotation
from .errors import ConfigError, ConfigWarning, OverrideError
from .grammar import parse_override, parse_path
from .graph import Holder, children, describe_source, is_equal, join_path, rebuild, swap, walk
from .node import SET_HISTORY, SET_SIG, Config, Node, defined_at, delete_argument, set_argument, set_target
from .ref import Ref
from .signature import import_target

Step = str | int
_MISSING: Any = object()
_TELLING = (bool, int, float, complex, str, list, tuple, set, frozenset, dict, enum.Enum, os.PathLike)
_BUILT = ("runner", "supervision")  # the top-level nodes that a command builds
_SHARED = (Node, list, dict)  # what is replaced wherever the config holds it


def apply_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """Apply overrides given as text, in place: all of them or, if one is wrong, none.

    Swaps of `_target_` come first, the others in their order. A value is converted to the annotation of its place,
    else to the type of the old value. Nothing is evaluated or called; only `_target_` imports.
    """
    if isinstance(overrides, str):
        raise OverrideError(f"Overrides are a list of texts, got one text: write [{overrides!r}].")
    batch = _Batch(cfg)
    try:
        parsed = []
        for number, argument in enumerate(overrides, 1):
            batch.source = f"cli:#{number} {argument}"
            parsed.append((batch.source, *parse_override(argument)))
        for source, kind, path, value in sorted(parsed, key=lambda each: each[2][-1] != "_target_"):
            batch.source = source
            batch.apply(kind, path, value)
        batch.check()
    except BaseException as error:
        batch.undo()
        number, _, argument = batch.source.removeprefix("cli:").partition(" ")
        if not isinstance(error, ConfigError):
            error.add_note(f"while applying override {number} {argument!r}; nothing was changed")
            raise
        cause = None if type(error) is OverrideError else error
        end = "" if str(error).endswith((".", "?")) else "."
        raise OverrideError(f"override {number} {argument!r}: {error}{end} Nothing was changed.") from cause
    return cfg


class _Batch:
    """One call of `apply_overrides`: applies each override at once and can take all of them back."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.source = ""  # of the override that is being applied or checked
        self.saved: dict[int, tuple[Any, ...]] = {}
        self.targets: list[tuple[Node, str, str]] = []
        self.plain: list[tuple[list[Step], Any, str]] = []  # paths through no node, the top-level value before, source
        self.unused: list[tuple[str, list[Step], str]] = []  # kind, path and source of what nothing has used so far
        self.used: dict[Any, Any] | None = None  # what the runner was made of, before the first change

    def save(self, holder: Any) -> None:
        """Remember the state of a node or config before its first change."""
        if id(holder) not in self.saved:
            sig = holder.__sig__ if type(holder) is Node else None
            self.saved[id(holder)] = (holder, holder.__history__, holder.__arguments__.copy(), sig)

    def undo(self) -> None:
        """Restore the state of everything that was saved."""
        for holder, history, arguments, sig in self.saved.values():
            holder.__arguments__.clear()
            holder.__arguments__.update(arguments)
            SET_HISTORY(holder, history)
            if sig is not None:
                SET_SIG(holder, sig)

    def apply(self, kind: str, path: list[Step], text: str) -> None:
        """Apply one override."""
        parent: Any = self.cfg
        trail: list[tuple[Any, Any]] = []  # every parent and the key taken from it
        for step in path[:-1]:
            key, child = _part(parent, step, path, len(trail))
            if child is _MISSING:
                raise OverrideError(_no_such(parent, step, path[: len(trail)], kind))
            trail.append((parent, key))
            parent = child
        last: Any = path[-1]
        if last == "_target_" and not isinstance(parent, dict):
            self.note(kind, path, [*trail, (parent, last)], _MISSING)
            return self.swap_target(parent, kind, path, text)
        key, old = _part(parent, last, path, len(trail))
        if old is _MISSING and not _may_add(parent, last, kind):
            raise OverrideError(_no_such(parent, last, path[:-1], kind) + self.elsewhere(path))
        if kind == "+" and old is not _MISSING:
            state = "is set" if type(parent) is Node else "exists"
            raise OverrideError(f"{_shown(path)} {state} already: write it without '+' to change it.")
        trail.append((parent, key))
        self.note(kind, path, trail, old)
        if kind == "~":
            return self.delete(trail, path)
        return self.store(trail, _value(text, path, trail, old))

    def note(self, kind: str, path: list[Step], trail: list[tuple[Any, Any]], old: Any) -> None:
        """Remember what must be checked about a change when all are made."""
        top = self.cfg.__arguments__.get(path[0], _MISSING)
        is_plain = type(top) is not Node and top is not _MISSING
        if is_plain and not any(type(parent) is Node for parent, _ in trail):
            is_held = isinstance(top, list | dict) and len(self.paths_of(lambda _, value: value is top)) > 1
            self.plain.append((path, is_held, self.source))
        is_loaded = self.cfg.__record__ is not None  # of a config made by hand nobody knows who reads it
        if is_loaded and type(self.cfg.__arguments__.get("runner")) is Node and path[0] not in _BUILT:
            self.used = self.used or used_by(self.cfg, "runner")
            is_everywhere = len(trail) == 1 and id(old) in self.used  # what is replaced wherever it is held
            if not is_everywhere and not _is_used(trail[-1], self.used):
                self.unused.append((kind, path, self.source))

    def store(self, trail: list[tuple[Any, Any]], value: Any) -> None:
        """Put a value at the end of a trail.

        An item of a list or dict is changed in a copy that takes its place everywhere in this config, so that no list
        or dict that a library or another config holds too is changed. A tuple has no identity: the copy of it is put on
        this path only.
        """
        *above, (parent, key) = trail
        if isinstance(parent, Holder):
            old = parent.__arguments__.get(key, _MISSING)
            if type(parent) is Config and isinstance(old, _SHARED):
                return self.replace_everywhere(old, value)
            self.save(parent)
            return set_argument(parent, key, value, source=self.source, add=True)
        new: Any = list(parent) if isinstance(parent, tuple) else copy.copy(parent)
        if isinstance(new, list) and key == len(new):
            new.append(value)
        else:
            new[key] = value
        return self.put_container(above, parent, new)

    def put_container(self, above: list[tuple[Any, Any]], old: Any, new: Any) -> None:
        """Put a changed copy of a list, tuple or dict where the old one stands."""
        if isinstance(old, tuple):
            self.store(above, rebuild(old, new))
        else:
            self.replace_everywhere(old, new)

    def delete(self, trail: list[tuple[Any, Any]], path: list[Step]) -> None:
        """Remove what stands at the end of a trail."""
        *above, (parent, key) = trail
        self.check_refs(parent, key % len(parent) if isinstance(parent, list) else key)
        if isinstance(parent, Holder):
            old = parent.__arguments__[key]
            shared = type(parent) is Config and isinstance(old, _SHARED)
            users = self.paths_of(lambda _, value: value is old) if shared else []
            if len(users) > 1:
                raise OverrideError(f"{key} is used by {', '.join(users[1:])}: delete it there, or give {key}=null.")
            self.save(parent)
            return delete_argument(parent, key, source=self.source)
        if hasattr(parent, "_fields"):
            kind = type(parent).__name__
            raise OverrideError(f"{_shown(path)} is a field of a {kind} and cannot be deleted.")
        new: Any = list(parent) if isinstance(parent, tuple) else copy.copy(parent)
        del new[key]
        return self.put_container(above, parent, new)

    def check_refs(self, parent: Any, key: Any) -> None:
        """Refuse to delete what a ref reads, and an item of a list before one that a ref names by its position."""
        for ref, steps in _refs_in(self.cfg):
            for holder, at in (_end_of(self.cfg, steps[: i + 1]) for i in range(len(steps))):
                where = f"{ref!r}, written at {describe_source(ref.where)},"
                if holder is parent and at == key:
                    raise OverrideError(f"{where} reads it.")
                if holder is parent and isinstance(parent, list) and at > key:
                    raise OverrideError(
                        f"{where} counts the items of this list: it would lead to another one, or to none."
                    )

    def swap_target(self, node: Any, kind: str, path: list[Step], text: str) -> None:
        where = _shown(path[:-1])
        if type(node) is not Node:
            raise OverrideError(f"{where or 'the whole'} is {_kind(node)}, and only a node has a _target_.")
        if kind != "=" or not text:
            raise OverrideError("_target_ takes a name to import, _target_=package.module.Class.")
        target = import_target(text)
        self.save(node)
        set_target(node, target, source=self.source)
        self.targets.append((node, where, self.source))

    def replace_everywhere(self, old: Any, new: Any) -> None:
        """Replace an object by another wherever the config holds it; lists and dicts around it are copied."""

        def put(holder: Any, name: Any, value: Any) -> None:
            self.save(holder)
            set_argument(holder, name, value, source=self.source)

        swap(self.cfg, old, new, put)

    def paths_of(self, is_wanted: Callable[[Any, Any], bool]) -> list[str]:
        """Return the paths at which such a value (given its key and itself) stands."""
        return [
            join_path(path, key)
            for path, parent in walk(self.cfg)
            for key, child in children(parent) or ()
            if is_wanted(key, child)
        ]

    def check(self) -> None:
        """Check what only the whole batch shows: arguments that a new target refuses, changes that reach nothing."""
        for node, path, source in self.targets:
            self.source, sig = source, node.__sig__
            if names := [join_path(path, name) for name in node.__arguments__ if not sig.accepts(name)]:
                raise OverrideError(
                    f"{sig.label} does not accept {', '.join(names)} (set at {defined_at(node)}); delete with "
                    f"{' '.join('~' + name for name in names)}. "
                    f"It accepts: {', '.join(sig.parameters) or 'no arguments'}.",
                )
        read = _refs_in(self.cfg) if self.plain else []
        for path, is_held, source in self.plain:
            self.source = source
            if not any(steps[: len(path)] == path[: len(steps)] for _, steps in read):
                self.check_read(str(path[0]), is_held)
        used = used_by(self.cfg, "runner") if self.unused and "runner" in self.cfg else None  # None after `~runner`
        for kind, path, source in self.unused:
            self.source = source
            if kind == "~" or (used is not None and not _is_used(_end_of(self.cfg, path), used)):
                message = f"override {source.removeprefix('cli:')!r}: nothing that runner builds uses {_shown(path)}"
                warnings.warn(ConfigWarning(message + self.instead_of(path)), stacklevel=4)

    def check_read(self, name: str, is_held: bool) -> None:
        """Refuse to set a top-level plain value from which Python has made others already.

        Args:
            name: Its name.
            is_held: Whether it is a list or dict that nodes hold: then only what took an item out of it is left behind.
        """
        record = self.cfg.__record__
        if record is None:  # without a file nothing is known but names
            old = self.saved[id(self.cfg)][2].get(name) if id(self.cfg) in self.saved else self
            same = self.paths_of(lambda key, value: key == name and is_equal(value, old))
            found, others = [(path, "") for path in same if path != name and not is_held], list[str]()
        else:
            from .reads import followers, reads_of

            reads = reads_of(record, record.origins.get(name, record.file), name)
            found, others = followers(record, self.cfg, [each for each in reads if not is_held or each[1].is_part])
        if found or others:
            where = ", ".join(list(dict.fromkeys([place for _, place in found if place] + others))[:3])
            instead = f"Override {' '.join(f'{p}=...' for p, _ in found[:5])} instead" if found else "Change the file"
            raise OverrideError(
                f"Python has read {name} already{where and f' at {where}'}, and no ref follows it: what was made of it "
                f"would stay. {instead}, or write ref({name!r}) in the file."
            )

    def elsewhere(self, path: list[Step]) -> str:
        """Return where the runner has arguments by the name of a missing top-level one, for a message."""
        is_known = len(path) == 1 and type(self.cfg.__arguments__.get("runner")) is Node
        return self.instead_of(path).removeprefix(".") if is_known else ""

    def instead_of(self, path: list[Step]) -> str:
        """Return the arguments of the same name that the runner is built from, for a message."""
        places = [(p, node) for p, node in walk(self.cfg.runner, "runner") if type(node) is Node]
        like = _end_of(self.cfg, path)[0]
        label = like.__sig__.label if type(like) is Node else None
        found = [
            (node, join_path(p, path[-1]))
            for p, node in places
            if path[-1] in {*node.__sig__.names, *node.__arguments__}
        ]
        best = [p for node, p in found if node.__sig__.label == label] or [p for _, p in found]
        return f". Override {listed(best, 3)} instead." if best else "."


def _refs_in(cfg: Config) -> list[tuple[Ref, list[Step]]]:
    """Return every ref of a config with the steps of each of its paths."""
    return [(ref, parse_path(path)) for _, ref in walk(cfg) if type(ref) is Ref for path in ref.paths]


def _end_of(root: Any, path: Sequence[Step]) -> tuple[Any, Any]:
    """Return the parent and the key of what stands at a path, as far as there is one."""
    parent = key = None
    for depth, step in enumerate(path):
        parent = root
        if children(parent) is None:
            return None, None
        key, root = _part(parent, step, path, depth)
    return parent, key


def used_by(cfg: Config, name: str) -> dict[Any, Any]:
    """Return what a top-level node is made of: nodes and containers by id; what refs read on the way by `(id, key)`."""
    used: dict[Any, Any] = {}
    stack = [cfg.__arguments__[name]]
    while stack:
        value = stack.pop()
        if type(value) is Ref:
            for steps in map(parse_path, value.paths):
                ends = [_end_of(cfg, steps[: i + 1]) for i in range(len(steps))]
                used |= {(id(parent), key): parent for parent, key in ends}
                stack += [dict(children(parent) or ()).get(key) for parent, key in ends[-1:]]
        elif (inner := children(value)) is not None and id(value) not in used:
            used[id(value)] = value
            stack += [child for _, child in inner]
    return used


def _is_used(end: tuple[Any, Any], used: dict[Any, Any]) -> bool:
    return id(end[0]) in used or (id(end[0]), end[1]) in used


def _shown(path: Sequence[Step]) -> str:
    return functools.reduce(join_path, path, "")


def _may_add(parent: Any, name: Any, kind: str) -> bool:
    """Return whether `=` or `+` may give a value to what has none yet."""
    if type(parent) is Node:
        is_open = kind == "+" and (parent.__sig__.has_var_keyword or not isinstance(name, str))
        return kind != "~" and (name in parent.__sig__.names or is_open)
    if type(parent) is Config and kind == "+" and isinstance(name, str):
        if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
            raise OverrideError(f"{name!r} is not a name that a config file can have.")
        return True
    return kind == "+" and (isinstance(parent, dict) or (isinstance(parent, list) and name == len(parent)))


def _expected(trail: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the annotation of what the end of a trail leads to, and the node's `inspect.Parameter` or None."""
    if not trail or type(trail[-1][0]) is Config:
        return Any, None
    parent, key = trail[-1]
    if type(parent) is Node:
        return parent.__sig__.hints.get(key, Any), parent.__sig__.parameters.get(key)
    return item_annotation(_expected(trail[:-1])[0], key), None


def _value(text: str, path: list[Step], trail: list[tuple[Any, Any]], old: Any) -> Any:
    """Read the value for the end of a trail; `old` is `_MISSING` if nothing stands there."""
    annotation, parameter = _expected(trail)
    default = None if parameter is None else parameter.default
    like = old
    if old is _MISSING:  # what is not annotated is of its default's type
        is_told = parameter is not None and parameter.annotation is parameter.empty and isinstance(default, _TELLING)
        like = default if is_told else None
    try:
        return coerce(text, annotation, like)
    except (Mismatch, OverrideError) as error:
        if text in ("null", "None") and parameter is not None and default is None:
            return None  # `x: int = None`
        if isinstance(error, OverrideError):
            raise
        now = "" if old is _MISSING else f" (now {_kind(old)})"
        accepted = str(error).replace("{path}", _shown(path))
        accepted += ", as pkg.mod:Name" if is_given_by_name(annotation) and not getattr(error, "place", "") else ""
        place, got = getattr(error, "place", ""), getattr(error, "got", None)
        raise OverrideError(f"{_shown(path)}{place}{now} accepts {accepted}, got {got if place else text!r}.") from None


def _part(parent: Any, step: Step, path: Sequence[Step], depth: int) -> tuple[Any, Any]:
    """Return the real key for a step into something that has parts, and the part, `_MISSING` when there is none."""
    if isinstance(parent, Holder):
        return step, parent.__arguments__.get(step, _MISSING)
    if isinstance(parent, dict):
        key = str(step) if step not in parent and str(step) in parent else step
        return key, parent.get(key, _MISSING)
    if isinstance(parent, list | tuple):
        key = parent._fields.index(step) if step in getattr(parent, "_fields", ()) else step  # type: ignore[union-attr]
        return key, parent[key] if isinstance(key, int) and -len(parent) <= key < len(parent) else _MISSING
    raise OverrideError(
        f"{_shown(path[:depth])} is {_kind(parent)}: {_shown(path)} would be inside it. Only nodes, "
        "lists, tuples and dicts have parts."
    )


def _kind(value: Any) -> str:
    if type(value) is Node:
        return f"{value.__sig__.label} (defined at {defined_at(value)})"
    if type(value) is Config:
        return "the config"
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.60}"


def _no_such(parent: Any, step: Step, path: Sequence[Step], kind: str) -> str:
    """Return what exists, what is close, and what is accepted."""
    whole = _shown([*path, step])
    names = [str(name) for name, _ in children(parent) or ()]
    extra = f" Write +{whole}=... to add it."
    if type(parent) is Node:
        sig = parent.__sig__
        if step in sig.names:
            return f"{whole} is not set ({sig.default_text(str(step), 60)}); it sets: {listed(names, 1000)}."
        names = list(dict.fromkeys([*sig.parameters, *names]))
        is_open = sig.has_var_keyword and isinstance(step, str)
        extra = f" Its target takes **kwargs: write +{whole}=... to add one." if is_open else ""
    elif isinstance(parent, list | tuple):
        names = list(getattr(parent, "_fields", ()))
        extra = f" Positions go from 0 to {len(parent) - 1}." if len(parent) else " It is empty."
        if isinstance(parent, list):
            extra += f" Write +{_shown([*path, len(parent)])}=... to append (a value, or pkg.mod:Cls for a node)."
    accepted = f" It has: {listed(names, 1000)}." if names or not isinstance(parent, list | tuple) else ""
    where = f"{_shown(path)} is {_kind(parent)} and" if path else _kind(parent)
    extra = "" if kind == "~" else extra
    return f"{where} has no {step!r}.{did_you_mean(step, names)}{accepted}{extra}"

"""Overrides: `a.b=v`, `+a.new=v`, `~a.old`, `a._target_=pkg.Cls`, applied to a loaded config: all of them or none."""

from __future__ import annotations

import copy
import functools
import keyword
from collections.abc import Callable, Sequence
from typing import Any

from ..text import did_you_mean, listed
from .coerce import Mismatch, annotation_of, coerce, is_given_by_name, item_annotation, tells_type
from .errors import ConfigError, OverrideError, RefError, warn
from .grammar import parse_override, parse_path
from .graph import ABSENT, ATOMIC, Holder, children, describe_source, follow, is_equal, join_path, rebuild, swap, walk
from .node import SET_HISTORY, SET_SIG, SET_WHERE, Config, Node, defined_at, delete_argument, set_argument, set_target
from .reads import Followers, Made, PartReads, followers, made_nodes, reads_of
from .ref import Ref, check_ref
from .signature import import_target
from .traps import arguments_named

Step = str | int
Trail = list[tuple[Any, Any, Any]]  # parent, key and part for each step of a path
_BUILT = ("runner", "supervision")  # the top-level nodes that a command builds
_LEAVES = {type(ABSENT), *ATOMIC}  # of which one may take another's place, and every read leads where it did
_SHARED = (Node, list, dict)  # what is replaced wherever the config holds it


def apply_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """Apply overrides given as text, in place: all of them or, if one is wrong, none.

    Swaps of `_target_` come first, the others in their order. A value is converted to the annotation of its place,
    else to the type of the old value. Nothing is evaluated or called; only `_target_` imports.
    """
    if isinstance(overrides, str):
        raise OverrideError(f"Overrides are a list of texts, got one text: write [{overrides!r}].")
    if type(cfg) is not Config or isinstance(overrides, dict) or not all(isinstance(each, str) for each in overrides):
        raise OverrideError(
            f"Overrides are a list of texts such as 'optimizer.lr=1' for a whole config, got {overrides!r:.100} for "
            f"{'the' if type(cfg) is Config else 'a'} {type(cfg).__name__}."
        )
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
        self.parts: list[tuple[list[Any], str]] = []  # reads of the argument or item that was changed, source
        self.part_reads: PartReads | None = None  # of the config as it stands
        self.unused: list[tuple[list[Step], str]] = []  # path and source of what perhaps nothing uses
        self.moved_by = ""  # the last source that may have taken away what a ref leads to
        self.lost: dict[int, tuple[Ref, str]] = {}  # refs that led to nothing then, and the source
        self.holders: dict[str, list[Any]] = {}  # source -> what held a node, list or dict that was replaced everywhere

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
        trail = follow(self.cfg, path)
        parent, _, old = trail[-1]
        is_target = path[-1] == "_target_" and not isinstance(parent, dict)
        for depth, (holder, _, part) in enumerate(trail[:-1] if is_target else trail if old is ABSENT else ()):
            if children(holder) is None:
                raise OverrideError(
                    f"{_shown(path[:depth])} is {_kind(holder)}: {_shown(path)} would be inside it. Only nodes, "
                    "lists, tuples and dicts have parts."
                )
            if part is ABSENT and not (depth == len(path) - 1 and _may_add(holder, path[depth], kind)):
                is_runners = len(path) == 1 and type(self.cfg.__arguments__.get("runner")) is Node
                hint = self.instead_of(path).removeprefix(".") if is_runners else ""
                raise OverrideError(_no_such(holder, path[depth], path[:depth], kind) + hint)
        if kind == "+" and old is not ABSENT:
            state = "is set" if type(parent) is Node else "exists"
            raise OverrideError(f"{_shown(path)} {state} already: write it without '+' to change it.")
        self.note(path, trail)
        if is_target:
            self.swap_target(parent, kind, path, text)
        elif kind == "~":
            self.delete(trail, path)
        else:
            value = _value(text, path, trail)
            if type(value) is Node:
                SET_WHERE(value, self.source)
            self.store(trail, value)
        for ref, _ in _refs_in(self.cfg) if self.moved_by == self.source else ():
            try:
                check_ref(self.cfg, ref, is_final=False)
            except RefError:
                self.lost.setdefault(id(ref), (ref, self.source))

    def note(self, path: list[Step], trail: Trail) -> None:
        """Remember what must be checked about a change when all are made."""
        record, top = self.cfg.__record__, trail[0][2]
        if record is not None and (type(top) is Node or any(type(parent) is Node for parent, _, _ in trail)):
            self.part_reads = self.part_reads or PartReads(record)
            if reads := self.part_reads.of(*trail[-1][:2]):
                self.parts.append((reads, self.source))
                self.part_reads = None  # perhaps they lead to something else from now on
        elif type(top) is not Node and top is not ABSENT:
            is_held = isinstance(top, list | dict) and len(self.paths_of(lambda _, value: value is top)) > 1
            self.plain.append((path, is_held, self.source))
        if record is not None and path[0] not in _BUILT:  # of a config made by hand nobody knows who reads it
            self.unused.append((path, self.source))

    def move(self) -> None:
        """Remember that from now on reads and refs perhaps lead to something else, or to nothing."""
        self.part_reads, self.moved_by = None, self.source

    def store(self, trail: Trail, value: Any) -> None:
        """Put a value at the end of a trail.

        An item of a list or dict is changed in a copy that takes its place everywhere in this config, so that no list
        or dict that a library or another config holds too is changed. A tuple has no identity: the copy of it is put on
        this path only.
        """
        *above, (parent, key, old) = trail
        if isinstance(parent, Holder):
            if type(parent) is Config and isinstance(old, _SHARED):
                return self.replace_everywhere(old, value)
            self.save(parent)
            if not {type(old), type(value)} <= _LEAVES:
                self.move()
            return set_argument(parent, key, value, source=self.source, add=True)
        new: Any = list(parent) if isinstance(parent, tuple) else copy.copy(parent)
        if isinstance(new, list) and key == len(new):
            new.append(value)
        else:
            new[key] = value
        return self.put_container(above, parent, new)

    def put_container(self, above: Trail, old: Any, new: Any) -> None:
        """Put a changed copy of a list, tuple or dict where the old one stands."""
        if isinstance(old, tuple):
            self.store(above, rebuild(old, new))
        else:
            self.replace_everywhere(old, new)

    def delete(self, trail: Trail, path: list[Step]) -> None:
        """Remove what stands at the end of a trail."""
        *above, (parent, key, old) = trail
        self.move()
        if isinstance(parent, list):
            self.check_counted(parent, key % len(parent))
        if isinstance(parent, Holder):
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

    def check_counted(self, parent: list[Any], key: int) -> None:
        """Refuse to delete an item of a list that a ref names by its position, or one before it."""
        for ref, steps in _refs_in(self.cfg):
            if any(holder is parent and at >= key for holder, at, _ in follow(self.cfg, steps)):
                where = f"{ref!r}, written at {describe_source(ref.where)},"
                raise OverrideError(f"{where} counts the items of this list: it would lead to another one, or to none.")

    def swap_target(self, node: Any, kind: str, path: list[Step], text: str) -> None:
        where = _shown(path[:-1])
        if type(node) is not Node:
            raise OverrideError(f"{where or 'the whole'} is {_kind(node)}, and only a node has a _target_.")
        if kind != "=" or not text:
            raise OverrideError("_target_ takes a name to import, _target_=package.module.Class.")
        target = import_target(text)
        self.save(node)
        self.moved_by = self.source
        set_target(node, target, source=self.source)
        self.targets.append((node, where, self.source))

    def replace_everywhere(self, old: Any, new: Any) -> None:
        """Replace an object by another wherever the config holds it; lists and dicts around it are copied."""
        self.move()

        def put(holder: Any, name: Any, value: Any) -> None:
            self.save(holder)
            self.holders.setdefault(self.source, []).append(holder)
            set_argument(holder, name, value, source=self.source, add=True)

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
        held = {id(ref) for ref, _ in _refs_in(self.cfg)} if self.lost else ()
        for ref, source in [each for key, each in self.lost.items() if key in held]:
            self.source = source
            check_ref(self.cfg, ref, is_final=False)  # perhaps another override has set it since
        read = _refs_in(self.cfg) if self.plain else []
        for path, is_held, source in self.plain:
            self.source = source
            is_followed = any(steps[: len(path)] == path[: len(steps)] for _, steps in read)
            self.check_read(str(path[0]), is_held, is_followed)
        for reads, source in self.parts:
            self.source = source
            self.warn_of(followers(self.made if reads else {}, reads, only_parts=True))
        runner = self.cfg.__arguments__.get("runner")
        used = used_by(self.cfg, runner) if self.unused and type(runner) is Node else {}
        for path, source in self.unused if used else ():
            parent, key, _ = follow(self.cfg, path)[-1]
            if not any(id(each) in used for each in [parent, *self.holders.get(source, ())]) and (
                (id(parent), key) not in used
            ):
                shown = f"{source.removeprefix('cli:')!r}: nothing that runner builds uses {_shown(path)}"
                warn(f"override {shown}{self.instead_of(path)}")

    @functools.cached_property
    def made(self) -> Made:
        """The nodes that the calls in the files have made; asked for when all changes are made."""
        return made_nodes(self.cfg.__record__, self.cfg)

    def warn_of(self, found: Followers) -> None:
        """Warn of what Python has made of a value that an override changes."""
        if any(found):
            number = self.source.removeprefix("cli:")
            warn(f"override {number!r}: Python has read the old value already: {found} still follow it.")

    def check_read(self, name: str, is_held: bool, is_followed: bool) -> None:
        """Refuse to set a top-level plain value from which Python has made others already; warn if refs follow it too.

        Args:
            name: Its name.
            is_held: Whether it is a list or dict that nodes hold: then only what took an item out of it is left behind.
        """
        record = self.cfg.__record__
        if record is None:  # without a file nothing is known but names
            old = self.saved[id(self.cfg)][2].get(name) if id(self.cfg) in self.saved else self
            same = self.paths_of(lambda key, value: key == name and is_equal(value, old))
            found = Followers([(path, "") for path in same if path != name and not is_held], [])
        else:
            reads = reads_of(record, record.origins.get(name, record.file), name)
            found = followers(self.made if reads else {}, reads, only_parts=is_held)
        if is_followed:
            self.warn_of(Followers([each for each in found.paths if each[1]], []))
        elif any(found):
            places = dict.fromkeys([*(place for _, place in found.paths if place), *found.others])
            where = f" at {', '.join(list(places)[:3])}" if places else ""
            paths = " ".join(dict.fromkeys(f"{path}=..." for path, _ in found.paths[:5]))
            instead = f"Override {paths} instead" if paths else "Change the file"
            raise OverrideError(
                f"Python has read {name} already{where}, and no ref follows it: what was made of it "
                f"would stay. {instead}, or write ref({name!r}) in the file."
            )

    def instead_of(self, path: list[Step]) -> str:
        """Return the arguments of the same name that the runner is built from, for a message."""
        like = follow(self.cfg, path)[-1][0]
        label = like.__sig__.label if type(like) is Node else None
        found = arguments_named(self.cfg.runner, path[-1])
        best = [p for node, p in found if node.__sig__.label == label] or [p for _, p in found]
        return f". Override {listed(best, 3)} instead." if best else "."


def _refs_in(cfg: Config) -> list[tuple[Ref, list[Step]]]:
    """Return every ref of a config with the steps of each of its paths."""
    return [(ref, parse_path(path)) for _, ref in walk(cfg) if type(ref) is Ref for path in ref.paths]


def used_by(cfg: Config, node: Node) -> dict[Any, Any]:
    """Return what a node is made of: nodes and containers by id; what refs read on the way by `(id, key)`."""
    used: dict[Any, Any] = {}
    stack: list[Any] = [node]
    while stack:
        value = stack.pop()
        if type(value) is Ref:
            for trail in (follow(cfg, parse_path(path)) for path in value.paths):
                used |= {(id(parent), key): parent for parent, key, _ in trail}
                stack.append(trail[-1][2])
        elif (inner := children(value)) is not None and id(value) not in used:
            used[id(value)] = value
            stack += [child for _, child in inner]
    return used


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


def _expected(trail: Trail) -> tuple[Any, Any]:
    """Return the annotation of what the end of a trail leads to, and the node's `inspect.Parameter` or None."""
    if not trail or type(trail[-1][0]) is Config:
        return Any, None
    parent, key, _ = trail[-1]
    if type(parent) is Node:
        return parent.__sig__.hints.get(key, Any), parent.__sig__.parameters.get(key)
    return item_annotation(_expected(trail[:-1])[0], key), None


def _value(text: str, path: list[Step], trail: Trail) -> Any:
    """Read the value for the end of a trail."""
    annotation, parameter = _expected(trail)
    parent, _, old = trail[-1]
    default = None if parameter is None else parameter.default
    like = old
    if old is ABSENT:  # what is not annotated is of its default's type; an item of what the others are
        is_told = parameter is not None and parameter.annotation is parameter.empty is not default
        others = [child for _, child in children(parent) or ()] if isinstance(parent, dict | list) else []
        is_node = others and all(type(other) is Node for other in others)
        like = others[0] if is_node else default if is_told and tells_type(default) else None
    if annotation is Any:
        annotation = annotation_of(like)
    try:
        return coerce(text, annotation, like)
    except (Mismatch, OverrideError) as error:
        if text in ("null", "None") and parameter is not None and default is None:
            return None  # `x: int = None`
        if isinstance(error, OverrideError):
            raise
        now = "" if old is ABSENT else f" (now {_kind(old)})"
        accepted = str(error).replace("{path}", _shown(path))
        accepted = "a node, as the others are (write pkg.mod:Cls)" if old is ABSENT and type(like) is Node else accepted
        accepted += ", as pkg.mod:Name" if is_given_by_name(annotation) and not error.place else ""
        got = error.got if error.place else text
        raise OverrideError(f"{_shown(path)}{error.place}{now} accepts {accepted}, got {got!r}.") from None


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
            first = "" if kind == "~" else f" Write {whole}=... first, all of it."
            return f"{whole} is not set ({sig.default_text(str(step), 60)}); it sets: {listed(names, 1000)}.{first}"
        names = list(dict.fromkeys([*sig.parameters, *names]))
        is_open = sig.has_var_keyword and isinstance(step, str)
        extra = f" Its target takes **kwargs: write +{whole}=... to add one." if is_open else ""
    elif isinstance(step, str) and (inner := next((name for name in names if name.startswith(f"{step}.")), "")):
        extra = f" A key with dots is written {_shown([*path, inner])}."
    elif isinstance(parent, list | tuple):
        names = list(getattr(parent, "_fields", ()))
        extra = f" Positions go from 0 to {len(parent) - 1}." if len(parent) else " It is empty."
        if isinstance(parent, list):
            extra += f" Write +{_shown([*path, len(parent)])}=... to append (a value, or pkg.mod:Cls for a node)."
    if not path and (step == "cfg" or "/" in str(step)):
        extra = " A path begins with a name of the config itself, and has dots: model.width."
    accepted = f" It has: {listed(names, 1000)}." if names or not isinstance(parent, list | tuple) else ""
    where = f"{_shown(path)} is {_kind(parent)} and" if path else _kind(parent)
    extra = "" if kind == "~" else extra
    return f"{where} has no {step!r}.{did_you_mean(step, names)}{accepted}{extra}"

"""What a config is: the tree with types and defaults, where values came from, what is wrong, how two of them differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from ..text import did_you_mean
from .coerce import Mismatch, convert, describe, is_given_by_name
from .errors import ConfigError
from .graph import ABSENT, Edit, Holder, SameAs, children, differences, join_path, walk
from .node import Config, Node, brief, defined_at, resolve_target, sources_of, target_label, target_of
from .ref import Ref, check_ref


# ------------------------------------------------------------------------------------------------------ tree
def format_tree(cfg: Any, *, defaults: bool = True, blame: bool = False) -> str:
    """Return a config as an indented tree: every value with its type, and the defaults that apply where none is set.

    Args:
        cfg: A loaded config, a node or a container.
        defaults: Whether to list arguments that are not set.
        blame: Whether to show what set each value (`config.py:12`, `cli:#3 lr=1`) instead of modules and defaults.
    """
    seen: dict[int, str] = {}

    def below(holder: Any, path: str, depth: int) -> Iterator[str]:
        """Yield the lines of what a config, node or container holds."""
        hints = holder.__sig__.hints if type(holder) is Node else {}
        for name, child in children(holder) or ():
            label = name if isinstance(name, str) and name.isidentifier() else f"[{name!r}]"
            source = ""
            if blame:
                source = ", ".join(sources_of(holder, name)) if isinstance(holder, Holder) else ""
                source = source or (defined_at(child) if type(child) is Node else "")
            yield from entry(f"{label}{_typed(hints, name)} = ", child, join_path(path, name), depth, source)
        if type(holder) is Node and defaults and not blame:
            yield from _unset(holder, depth)

    def entry(head: str, value: Any, path: str, depth: int, source: str) -> Iterator[str]:
        """Yield the line of a value and those below it."""
        inner, shown, note = children(value), brief(value, 100), source
        is_open = type(value) is Node or (inner and any(children(child) for _, child in inner))
        if inner and id(value) in seen:
            shown, is_open = f"same as {seen[id(value)] or 'the top'}", False
        elif type(value) is Node:
            shown = target_label(value)
            note = source if blame else getattr(target_of(value), "__module__", None) or ""
        elif is_open:
            shown = f"{type(value).__name__} of {len(inner or ())}"
        if type(value) is Node or (inner and not isinstance(value, tuple)):
            seen.setdefault(id(value), path)
        yield _noted(f"{'  ' * depth}{head}{shown}", note)
        if is_open:
            yield from below(value, path, depth + 1)

    return "\n".join(below(cfg, "", 0) if type(cfg) is Config else entry("", cfg, "", 0, ""))


def edited_values(cfg: Any) -> list[dict[str, Any]]:
    """Return what was set again after it was first written: by overrides, and by configs that import a base.

    Returns:
        A dict for each value that is another one now: its `path`, what it `was` at first and `is` now as one line
        (``"-"`` for none), and the `sources` that set it, as `sources_of` returns them.
    """
    found = []
    for path, holder in walk(cfg):
        for name, sources in ((holder.__history__ or {}) if isinstance(holder, Holder) else {}).items():
            was = next((source.was for source in sources if isinstance(source, Edit)), "-")
            now = brief(holder.__arguments__[name]) if name in holder.__arguments__ else "-"
            now = target_label(holder) if name == "_target_" and isinstance(holder, Node) else now
            if now != was:
                about = {"path": join_path(path, name), "was": was, "is": now}
                found.append({**about, "sources": sources_of(holder, name)})
    return found


def _unset(node: Node, depth: int) -> Iterator[str]:
    """Yield the lines of the parameters that a node does not set."""
    sig = node.__sig__
    for name, parameter in sig.parameters.items():
        line = f"{'  ' * depth}{name}{_typed(sig.hints, name)}"
        if name not in node.__arguments__ and parameter.default is not parameter.empty:
            yield _noted(f"{line} = {brief(parameter.default)}", "default")
        elif name not in node.__arguments__ and name in sig.required:
            yield _noted(line, "given later" if node.__partial__ else "REQUIRED, not set")


def _typed(hints: dict[str, Any], name: Any) -> str:
    hint = hints.get(name, Any)
    return f": {describe(hint)}" if hint is not Any else ""


def _noted(line: str, note: str) -> str:
    return f"{line:<64}  # {note}" if note else line


# ----------------------------------------------------------------------------------------------------- check
def check_config(cfg: Config) -> list[str]:
    """Return what would fail when the config is built, without building anything; an empty list if nothing is found.

    Every target is imported, every required argument must be set, every value must have the type of its annotation.
    """
    problems: list[str] = []
    for path, value in walk(cfg):
        if type(value) is Ref:
            try:
                check_ref(cfg, value)
            except ConfigError as error:
                problems.append(f"{path}: {error}")
        if type(value) is not Node:
            continue
        where = f"{path} ({target_label(value)}, defined at {defined_at(value)})"
        try:
            resolve_target(value)
        except Exception as error:  # importing runs anything
            problems.append(f"{where}: {type(error).__name__}: {error}")
            continue
        sig = value.__sig__
        unset = sig.missing(value.__arguments__, value.__partial__)
        for name in unset:
            expected = f"{join_path(path, name)}=... ({describe(sig.hints.get(name, Any))})"
            problems.append(f"{where}: the required argument {name!r} is not set: {expected}")
        for name, argument in value.__arguments__.items():
            further = sig.further(value.__arguments__, name)
            if further is not None and not further.accepts(name):
                near = did_you_mean(name, {*sig.names, *further.names})
                problems.append(f"{where}: {further.label}, to which it passes {name!r}, has no such argument.{near}")
            if name not in sig.names or name in unset:
                continue
            if not _fits(argument, sig.hints[name], sig.parameters[name].default):
                given = f"a node that builds {target_label(argument)}" if type(argument) is Node else brief(argument)
                makes = argument if isinstance(argument, type) else getattr(argument, "func", None)
                is_text = isinstance(argument, str) and is_given_by_name(sig.hints[name])
                is_meant = makes or is_text or isinstance(argument, dict)
                hint = f"; write LazyCall({getattr(makes, '__name__', 'Cls')})(...) for an object"
                hint += "" if makes else ", or pkg.mod:Cls on the command line"
                problems.append(
                    f"{join_path(path, name)} accepts {describe(sig.hints[name])}, got {given} "
                    f"(set at {sources_of(value, name)[-1]}){hint if is_meant else ''}"
                )
    return problems


def _fits(value: Any, annotation: Any, default: Any) -> bool:
    """Return whether a value may have the type of its annotation; yes in doubt."""
    if default is not Parameter.empty and (value is None or isinstance(value, type)) and type(value) is type(default):
        return True  # `x: int = None`, `norm: nn.Module = nn.LayerNorm`
    for candidate in (value, int(value)) if isinstance(value, bool) else (value,):
        with contextlib.suppress(Mismatch, TypeError, ValueError):
            converted = convert(annotation, candidate, None)
            return not (type(value) is float and type(converted) is int)  # 1e5 is no int in Python
    return False


# ------------------------------------------------------------------------------------------------------- diff
class Difference(NamedTuple):
    """One place where two configs differ."""

    path: str
    """As on the command line; `optimizer._target_` for another class."""
    old: str | None
    """The value in the first config as text; None where it is only in the second."""
    new: str | None
    """The value in the second config as text; None where it is only in the first."""

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.path} = {self.new}"
        if self.new is None:
            return f"- {self.path} = {self.old}"
        return f"~ {self.path}: {self.old} -> {self.new}"


def diff(old: Any, new: Any) -> list[Difference]:
    """Compare two configs, nodes or values by structure; an empty list means that they are equal.

    A node used in several places is compared once, at the first. Where one config shares a node and the other has two,
    that is a difference too.
    """
    return [Difference(path, *_sides(path, parts)) for path, *parts in differences(old, new)]


def _sides(path: str, parts: list[Any]) -> Sequence[str | None]:
    """Return the texts of what two configs have at a path."""
    if path.endswith("_target_") and all(type(part) is Node for part in parts):
        labels = [target_label(node) for node in parts]
        if labels[0] != labels[1]:
            return labels
        return [f"{getattr(target_of(node), '__module__', '')}.{label}" for node, label in zip(parts, labels)]
    return [
        None if part is ABSENT else f"the node of {part.path}" if type(part) is SameAs else brief(part)
        for part in parts
    ]

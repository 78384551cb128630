"""What a config is: the tree with types and defaults, where values came from, what can be overridden, what is wrong."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from .coerce import Mismatch, convert, describe, item_annotation
from .errors import ConfigError
from .node import (
    REQUIRED,
    Config,
    Node,
    children_of,
    defined_at,
    is_partial,
    join_path,
    resolve_target,
    sources_of,
    walk,
)
from .ref import Ref, lookup
from .signature import Signature
from .text import brief, module_of, target_label

_INDENT = "  "
_NOTE_COLUMN = 64


# ------------------------------------------------------------------------------------------------------ tree
def format_tree(cfg: Any, *, defaults: bool = True, blame: bool = False) -> str:
    """Return a config as an indented tree: every value with its type, and the defaults that apply where none is set.

    Args:
        cfg: A loaded config, a node or a container.
        defaults: Whether to list arguments that are not set.
        blame: Whether to show what set each value (`config.py:12`, `cli:#3 lr=1`) instead of modules and defaults.
    """
    return "\n".join(_Tree(defaults and not blame, blame).lines(cfg))


class _Tree:
    def __init__(self, defaults: bool, blame: bool):
        self.defaults, self.blame = defaults, blame
        self.seen: dict[int, str] = {}

    def lines(self, root: Any) -> Iterator[str]:
        if type(root) is Config:
            for name, value in root.__arguments__.items():
                yield from self.entry(name, value, name, 0, Any, root, name)
        else:
            yield from self.entry("", root, "", 0, Any, None, "")

    def entry(
        self, label: str, value: Any, path: str, depth: int, annotation: Any, holder: Any, key: Any
    ) -> Iterator[str]:
        """Yield the line of a value and those below it."""
        head = f"{_INDENT * depth}{label}" + (f": {describe(annotation)}" if annotation is not Any else "")
        head = f"{head} = " if label else head
        source = ""
        if self.blame:
            source = ", ".join(sources_of(holder, key)) if holder is not None else ""
            source = source or (defined_at(value) if type(value) is Node else "")
        children = children_of(value)
        if children and id(value) in self.seen:
            yield _noted(f"{head}same as {self.seen[id(value)] or 'the top'}", source)
            return
        if type(value) is Node:
            self.seen[id(value)] = path
            yield _noted(f"{head}{target_label(value)}", source if self.blame else module_of(value))
            sig = value.__sig__
            for name, child in children or ():
                hint = sig.hints.get(name, Any)
                yield from self.entry(_label(name), child, join_path(path, name), depth + 1, hint, value, name)
            if self.defaults:
                yield from self.unset(value, sig, depth + 1)
        elif children and any(isinstance(v, Node) or children_of(v) for _, v in children):
            self.seen[id(value)] = path
            yield _noted(f"{head}{type(value).__name__} of {len(children)}", source)
            for name, child in children:
                yield from self.entry(_label(name), child, join_path(path, name), depth + 1, Any, None, "")
        else:
            if children and isinstance(value, list | dict):
                self.seen[id(value)] = path
            yield _noted(f"{head}{brief(value, 100)}", source)

    def unset(self, node: Node, sig: Signature, depth: int) -> Iterator[str]:
        for name, parameter in sig.parameters.items():
            if name not in node.__arguments__:
                hint = sig.hints.get(name, Any)
                typed = f": {describe(hint)}" if hint is not Any else ""
                if parameter.default is not parameter.empty:
                    yield _noted(f"{_INDENT * depth}{name}{typed} = {brief(parameter.default)}", "default")
                elif name in sig.required:
                    missing = "given later" if is_partial(node) else "REQUIRED, not set"
                    yield _noted(f"{_INDENT * depth}{name}{typed}", missing)


def _label(name: Any) -> str:
    return name if isinstance(name, str) and name.isidentifier() else f"[{name!r}]"


def _noted(line: str, note: str) -> str:
    return f"{line:<{_NOTE_COLUMN}}  # {note}" if note else line


# ------------------------------------------------------------------------------------------------------ keys
def format_keys(cfg: Config, prefix: str = "") -> str:
    """Return what can be overridden below a path: name, type, value, default, first line of its documentation."""
    root = lookup(cfg, prefix, Ref((prefix,), None, "--keys")) if prefix else cfg
    rows: list[tuple[str, str, str, str, str]] = []
    for path, value in walk(root, prefix):
        if type(value) is Node:
            sig = value.__sig__
            document = _documentation(sig)
            for name in dict.fromkeys([*value.__arguments__, *sig.parameters]):
                parameter = sig.parameters.get(name)  # type: ignore[arg-type]
                hint = sig.hints.get(name, Any)  # type: ignore[arg-type]
                has_default = parameter is not None and parameter.default is not parameter.empty
                given = brief(value.__arguments__[name], 40) if name in value.__arguments__ else "-"
                default = brief(parameter.default, 24) if has_default and parameter else "-"
                typed = "-" if hint is Any else describe(hint)
                rows.append((join_path(path, name), typed, given, default, document.get(str(name), "")))
        elif not isinstance(value, Node) and (type(value) is Config or isinstance(value, dict)):
            for name, child in children_of(value) or ():
                if type(child) is not Node:
                    rows.append((join_path(path, name), type(child).__name__, brief(child, 40), "-", ""))
    return "\n".join(_table([("name", "type", "value", "default", "documentation"), *rows]))


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [min(max(len(row[i]) for row in rows), 48) for i in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip()


_PARAMETER = re.compile(r"^[ \t]*(?:\*\*|:param )?`{0,2}(\w+)`{0,2}[ \t]*(?:\([^\n]*\))?[ \t]*:[ \t]*([^\n]*)", re.M)


def _documentation(sig: Signature) -> dict[str, str]:
    """The first line that the target's docstrings say about each parameter (Google, NumPy and Sphinx styles)."""
    target = sig.target
    found: dict[str, str] = {}
    for owner in [target, getattr(target, "__init__", None), *getattr(target, "__mro__", ())[1:-1]]:
        text = getattr(owner, "__doc__", None)
        if not isinstance(text, str):
            continue
        for match in _PARAMETER.finditer(text):
            name, line = match[1], match[2].strip()
            if name in sig.names and name not in found and line:
                found[name] = line
    return found


# ----------------------------------------------------------------------------------------------------- check
def check_config(cfg: Config) -> list[str]:
    """Return what would fail when the config is built, without building anything; an empty list if nothing is found.

    Every target is imported, every required argument must be set, every value must have the type of its annotation.
    """
    problems: list[str] = []
    for path, value in walk(cfg):
        if type(value) is Ref:
            try:
                for target in value.paths:
                    lookup(cfg, target, value)
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
        if not is_partial(value):
            problems += [
                f"{where}: the required argument {n!r} is not set" for n in sig.required if n not in value.__arguments__
            ]
        for name, argument in value.__arguments__.items():
            if argument is REQUIRED:
                problems.append(f"{where}: the required argument {name!r} is REQUIRED and was not set")
            elif name in sig.names:
                parameter = sig.parameters[name]  # type: ignore[index]
                if argument is not None or parameter.default is not None:  # `x: int = None`
                    for place, expected, given in _misfits(argument, sig.hints.get(name, Any), join_path(path, name)):  # type: ignore[arg-type]
                        problems.append(
                            f"{place} accepts {expected}, got {given} (set at {sources_of(value, name)[-1]})"
                        )
    return problems


def _misfits(value: Any, annotation: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield `(path, accepted, given)` where a value certainly does not have the type of its annotation."""
    if type(value) is Ref or value is REQUIRED or annotation is Any:
        return
    if type(value) is Node:
        made = value.__sig__.target
        if isinstance(made, type) and not is_partial(value) and not _may_be(made, annotation):
            yield path, describe(annotation), f"a node that builds {made.__qualname__}"
        return
    children = children_of(value)
    if children and any(type(v) in (Node, Ref) or children_of(v) for _, v in children):
        for key, child in children:
            yield from _misfits(child, item_annotation(annotation, key), join_path(path, key))
        return
    if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, bool | int | float | complex | str | bytes | list | tuple | set | dict | type(None)):
        return
    for candidate in (value, int(value)) if isinstance(value, bool) else (value,):
        try:
            converted = convert(annotation, candidate, None)
        except (Mismatch, TypeError, ValueError):
            continue
        if not (type(value) is float and type(converted) is int):  # 1e5 is no int in Python
            return
    yield path, describe(annotation), brief(value)


def _may_be(made: type, annotation: Any) -> bool:
    """Whether an instance of a class can be what an annotation asks for; yes in doubt."""
    origin = typing.get_origin(annotation) or annotation
    if origin is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_may_be(made, argument) for argument in typing.get_args(annotation))
    if origin is typing.Annotated or getattr(origin, "__name__", "") == "Lazy":
        return _may_be(made, typing.get_args(annotation)[0])
    if not isinstance(origin, type):
        return origin is not typing.Literal
    try:
        return issubclass(made, origin) or getattr(origin, "_is_protocol", False)
    except TypeError:
        return True

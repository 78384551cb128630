"""The table behind ``--keys``: what can be overridden in a config."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from ..config import Config
from ..config.coerce import describe
from ..config.graph import children, join_path, walk
from ..config.node import Node, brief
from ..config.ref import Ref, lookup
from ..config.signature import Signature
from ..text import table


def format_keys(cfg: Config, prefix: str = "", columns: int | None = None) -> str:
    """Return what can be overridden below a path: name, type, value, default, first line of its documentation.

    Args:
        cfg: The config.
        prefix: The path; `""` for all.
        columns: Width of the terminal that is to show it; None for a table with a line for each name.
    """
    root = lookup(cfg, prefix, Ref((prefix,), None, "--keys")) if prefix else cfg
    rows = [("name", "type", "value", "default", "documentation")]
    for path, value in walk(root, prefix):
        given: dict[Any, Any] = dict(children(value) or ())
        if type(value) is Node:
            sig = value.__sig__
            documentation = _documentation(sig)
            for name in dict.fromkeys([*given, *sig.parameters]):
                hint, parameter = sig.hints.get(name, Any), sig.parameters.get(name)
                typed = "-" if hint is Any else describe(hint)
                if columns is None:  # a cell of a table
                    typed = typed[:48]
                shown = brief(given[name], 40) if name in given else "-"
                default = (
                    "-" if parameter is None or parameter.default is parameter.empty else brief(parameter.default, 24)
                )
                rows.append((join_path(path, name), typed, shown, default, documentation.get(name, "")))
        elif isinstance(value, Config | dict):
            for name, child in given.items():
                if type(child) is not Node:
                    rows.append((join_path(path, name), type(child).__name__, brief(child, 40), "-", ""))
    return table(rows) if columns is None else "\n".join(_as_entry(*row, columns) for row in rows[1:])


def _as_entry(name: str, typed: str, value: str, default: str, documentation: str, columns: int) -> str:
    """Return lines of at most so many columns: the name with its value, then what else is known, indented."""
    about = [part for part, is_known in ((typed, typed != "-"), (f"default {default}", default != "-")) if is_known]
    if documentation and not documentation.endswith("."):
        documentation += " ..."  # it goes on there
    below = f"{', '.join(about)}. {documentation}" if about and documentation else ", ".join(about) or documentation
    indent = " " * 4
    return "\n".join(
        [
            *textwrap.wrap(name if value == "-" else f"{name} = {value}", columns, subsequent_indent=indent * 2),
            *textwrap.wrap(below, columns, initial_indent=indent, subsequent_indent=indent),
        ]
    )


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

"""The table behind ``--keys``: what can be overridden in a config."""

from __future__ import annotations

import re
from typing import Any

from ..config import Config
from ..config.coerce import describe
from ..config.graph import children, join_path, walk
from ..config.node import Node, brief
from ..config.ref import Ref, lookup
from ..config.signature import Signature
from ..text import table


def format_keys(cfg: Config, prefix: str = "") -> str:
    """Return what can be overridden below a path: name, type, value, default, first line of its documentation."""
    root = lookup(cfg, prefix, Ref((prefix,), None, "--keys")) if prefix else cfg
    rows = [("name", "type", "value", "default", "documentation")]
    for path, value in walk(root, prefix):
        given: dict[Any, Any] = dict(children(value) or ())
        if type(value) is Node:
            sig = value.__sig__
            documentation = _documentation(sig)
            for name in dict.fromkeys([*given, *sig.parameters]):
                hint, parameter = sig.hints.get(name, Any), sig.parameters.get(name)
                typed = "-" if hint is Any else f"{describe(hint):.48}"
                shown = brief(given[name], 40) if name in given else "-"
                default = (
                    "-" if parameter is None or parameter.default is parameter.empty else brief(parameter.default, 24)
                )
                rows.append((join_path(path, name), typed, shown, default, documentation.get(name, "")))
        elif isinstance(value, Config | dict):
            for name, child in given.items():
                if type(child) is not Node:
                    rows.append((join_path(path, name), type(child).__name__, brief(child, 40), "-", ""))
    return table(rows)


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

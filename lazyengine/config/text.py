"""Values as short text for people: trees, differences, messages."""

from __future__ import annotations

import enum
from typing import Any

from .node import Config, Node, is_partial, target_of
from .ref import Ref


def target_label(node: Node) -> str:
    """What a node calls, by its short name: `SGD`, `partial of relu`, `"pkg.mod:Cls"`."""
    target = target_of(node)
    name = repr(target) if isinstance(target, str) else node.__sig__.label
    return f"partial of {name}" if is_partial(node) else name


def module_of(node: Node) -> str:
    """The module that the target of a node is from."""
    target = target_of(node)
    return "" if isinstance(target, str) else getattr(target, "__module__", None) or ""


def brief(value: Any, limit: int = 80) -> str:
    """Return one line for any value, at most `limit` characters."""
    text = _text(value)
    text = text if "\n" not in text else " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _text(value: Any) -> str:
    kind = type(value)
    if kind is Node:
        return f"{target_label(value)}({'...' if value.__arguments__ else ''})"
    if kind is Config or kind is Ref:
        return repr(value)
    if kind in (list, tuple, set, frozenset) and len(value) <= 30 and (value or kind in (list, tuple)):
        inner = ", ".join(map(_text, value))
        shown: dict[Any, str] = {list: f"[{inner}]", set: f"{{{inner}}}", frozenset: f"frozenset({{{inner}}})"}
        return shown.get(kind) or f"({inner}{',' if len(value) == 1 else ''})"
    if kind is dict and len(value) <= 30:
        return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, enum.Enum):
        return f"{kind.__name__}.{value.name}"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value.__qualname__
    shape: Any = getattr(value, "shape", None)
    if hasattr(value, "dtype") and shape:
        return f"<{kind.__name__} {getattr(value, 'dtype')} {tuple(shape)}>"  # noqa: B009
    try:
        return repr(value)
    except Exception as error:  # a class of somebody else
        return f"<{kind.__name__}, whose repr raised {type(error).__name__}>"

"""What set a value, and the little state that only edited, partial or frozen nodes have."""

from __future__ import annotations

import os
import sys
from typing import Any

# A source says what set a value: text for people ("cli:#3 optimizer.lr=1"), or a code object and an offset in it,
# which cost nothing to keep and become "file.py:12" when somebody asks.
Source = Any


class Extra:
    """A history of edits, partial binding, the frozen mark: most nodes have none of them.

    Attributes:
        history: Name of an argument (or `"_target_"`) to everything that set it, oldest first; only of edited names.
    """

    __slots__ = ("frozen", "history", "partial")

    def __init__(self, partial: bool = False, frozen: bool = False, history: dict[Any, list[Source]] | None = None):
        self.partial, self.frozen = partial, frozen
        self.history: dict[Any, list[Source]] = {} if history is None else history

    def copy(self) -> Extra:
        """Return a copy that is not frozen: copying is how a frozen config is changed after all."""
        return Extra(self.partial, False, {name: list(sources) for name, sources in self.history.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        history = {name: [describe_source(s) for s in sources] for name, sources in self.history.items()}
        return Extra, (self.partial, self.frozen, history)


def source_here(depth: int = 0) -> Source:
    """Return the caller's place (with depth 1 that of its caller, and so on) as a source."""
    frame = sys._getframe(depth + 1)
    return frame.f_code, frame.f_lasti


def describe_source(source: Source) -> str:
    """Return a source as text: `"config.py:12"` (relative where that is shorter) or the text that it already is."""
    if isinstance(source, str):
        return source
    code, offset = source
    line = next((p[0] for i, p in enumerate(code.co_positions()) if i == offset // 2), None)
    return f"{display_path(code.co_filename)}:{line or code.co_firstlineno}"


def display_path(path: str) -> str:
    """Return the path relative to the working directory if it lies inside it, else unchanged."""
    try:
        inside = os.path.relpath(path)
    except (ValueError, OSError):  # another drive; a working directory that was deleted
        return path
    return path if inside.startswith("..") or not os.path.isabs(path) else inside

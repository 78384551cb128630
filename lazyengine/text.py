"""Text for people: tables, near matches, short values. Used by everything that prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(rows: Iterable[Sequence[object]], *, indent: str = "", gap: str = "  ") -> str:
    """Return rows as lines with aligned columns.

    Args:
        rows: Cells by row; a row may be shorter than the others. The first one may be a header.
        indent: What each line begins with.
        gap: What stands between two columns.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(max(map(len, cells), default=0))
    ]
    lines = [gap.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return "\n".join(indent + line for line in lines)


def near(name: object, known: Iterable[object], cutoff: float = 0.6) -> str | None:
    """Return the one of `known` names that `name` was most likely meant to be, or None."""
    import difflib  # 2 ms, for an error only

    found = difflib.get_close_matches(str(name), [str(each) for each in known], 1, cutoff)
    return found[0] if found else None


def did_you_mean(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """Return `` Did you mean 'x'?`` with a space before it, or an empty text where nothing is near."""
    found = near(name, known, cutoff)
    return "" if found is None else f" Did you mean {found!r}?"


def listed(names: Iterable[object], limit: int = 10) -> str:
    """Return names with commas between them, the first `limit` of them; ``none`` for no name."""
    names = [str(name) for name in names]
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def printable(text: object) -> str:
    """Return a text of somebody else with escapes in the place of line ends and control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def short(value: Any, limit: int = 80) -> str:
    """Return the repr of a value on one line of at most `limit` characters; a repr that raises is named."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # a class of somebody else
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def format_count(number: float) -> str:
    """Return a number with up to three decimals and the letter of its thousands, as mmengine does: ``"61.48K"``."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number > size / 10:
            return f"{number / size:.3f}".rstrip("0").rstrip(".") + unit
    return str(number)


def format_bytes(number: float) -> str:
    """Return a number of bytes with three digits and a binary unit: ``"2.70 MiB"``."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while abs(number) >= 1000 and len(units) > 1:
        number /= 1024
        del units[0]
    return f"{number:.0f} bytes" if units[0] == "bytes" else f"{number:.3g} {units[0]}"

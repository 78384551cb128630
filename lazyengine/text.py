"""Text for people: tables, near matches, short values. Used by everything that prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
          "->": r"$\to$", "…": r"\dots{}", **{sign: rf"\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


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


def csv_table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV, None as an empty cell."""
    import csv  # here and below: 3 ms, for few commands
    import io

    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().rstrip("\n")


def latex_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return rows, the first of which is the head, as a LaTeX table (booktabs)."""
    lines = [" & ".join(map(latex_text, row)) + r" \\" for row in rows]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    inner = [rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", *body, r"\end{tabular}"]
    if caption:
        inner = [r"\begin{table}", r"\centering", *inner, rf"\caption{{{latex_text(caption)}}}", r"\end{table}"]
    return "\n".join(inner)


def latex_text(text: str) -> str:
    """Return a text for LaTeX."""
    return re.sub(r"->|[\\~^±–…&%$#_{}]", lambda match: _LATEX[match[0]], text)


def html_table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    kind: str = "",
    caption: str = "",
    attributes: Callable[[int, int], str] = lambda row, column: "",
) -> str:
    """Return rows as an HTML table.

    Args:
        head: The heads of the columns; empty for none.
        rows: Cells by row; texts stay as they are, None is empty, and other values are written as JSON.
        kind: Class of the table.
        caption: What stands above it.
        attributes: Of the cell in a row and column, with a space before them.
    """
    import json
    from html import escape

    def shown(value: object) -> str:
        return escape("" if value is None else value if isinstance(value, str) else json.dumps(value, default=str))

    lines = [
        "".join(f"<td{attributes(i, j)}>{shown(cell)}</td>" for j, cell in enumerate(row)) for i, row in enumerate(rows)
    ]
    top = f"<thead><tr>{''.join(f'<th>{shown(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    above = f"<caption>{shown(caption)}</caption>" if caption else ""
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<table class="{kind}">{above}{top}<tbody>\n{body}</tbody></table>'


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

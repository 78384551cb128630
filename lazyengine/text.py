"""Text for people: tables, near matches, short values. Used by everything that prints."""

from __future__ import annotations

import itertools
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
          "->": r"$\to$", "…": r"\dots{}", **{sign: rf"\{sign}" for sign in "&%$#_{}"}}  # fmt: skip

_BREAKS = re.compile(r"(\s+)|(?<=/)(?=\w{2})")
"""Where a cell may be broken: at spaces, and in paths and names of curves behind a slash; not in it/s."""

_LEAST = 12
"""Characters to which a column is made narrower within its words."""


def table(rows: Iterable[Sequence[object]], *, indent: str = "", gap: str = "  ", columns: int | None = None) -> str:
    """Return rows as lines with aligned columns.

    Args:
        rows: Cells by row; a row may be shorter than the others. The first one may be a header.
        indent: What each line begins with.
        gap: What stands between two columns.
        columns: Width of the terminal that is to show it, see `columns_of`: columns in which no row has anything below
            the header are left out, and the widest cells broken until a line is within it: between words, where that is
            enough.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    number = max(map(len, cells), default=0)
    cells = [row + [""] * (number - len(row)) for row in cells]
    if columns is not None:
        used = [i for i in range(number) if any(row[i] for row in cells[1:])]
        cells = [[row[i] for i in used] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells)]
    if columns is not None:
        words = [[word for cell in column for word in _BREAKS.split(cell) if word] for column in zip(*cells)]
        least = [max(map(len, column), default=0) for column in words]
        for limit in (least, [min(width, _LEAST) for width in least]):
            while len(indent) + sum(widths) + len(gap) * (len(widths) - 1) > columns and widths != limit:
                widths[max((i for i in range(len(widths)) if widths[i] > limit[i]), key=widths.__getitem__)] -= 1
    lines = []
    for row in cells:
        parts = [[cell] if columns is None else _words(cell, width) for cell, width in zip(row, widths)]
        for line in itertools.zip_longest(*parts, fillvalue=""):
            lines.append(gap.join(part.ljust(width) for part, width in zip(line, widths)).rstrip())
    return "\n".join(indent + line for line in lines)


class _Wrapper(textwrap.TextWrapper):
    wordsep_simple_re = _BREAKS


def _words(text: str, width: int) -> list[str]:
    return _Wrapper(width, break_on_hyphens=False).wrap(text) or [""]


def columns_of(stream: TextIO) -> int | None:
    """Return how wide a terminal is; None for a file or a pipe, whose lines are as long as they are."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def fit(text: str, stream: TextIO) -> str:
    """Break lines that are longer than a terminal is wide between words; what is piped stays as it is."""
    width = columns_of(stream)
    return text if width is None else "\n".join(fill_line(line, width) for line in text.splitlines())


def fill_line(line: str, width: int) -> str:
    """Break a line of two columns that is too long: its second column goes on below itself, or begins a line."""
    if len(line := line.rstrip()) <= width:
        return line
    left, gap, right = re.split(r"(?<=\S)( {2,}|$)", line, maxsplit=1)
    column, deeper = len(left) + len(gap), " " * 6
    options: Any = {"break_long_words": False, "break_on_hyphens": False}
    if right and column <= width // 2:
        return textwrap.fill(right, width, initial_indent=left + gap, subsequent_indent=" " * column, **options)
    begin = " " * (len(left) - len(left.lstrip()))
    parts = [(left.lstrip(), begin), (right, deeper)] if right else [(left.lstrip(), begin)]
    return "\n".join(
        textwrap.fill(text, width, initial_indent=begin, subsequent_indent=deeper, **options) for text, begin in parts
    )


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


def counted(number: int, what: str, several: str = "") -> str:
    """Return a number with what it counts: `1 epoch`, `2,000 epochs`."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"


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

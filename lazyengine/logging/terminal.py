"""Lines of values, arranged for the columns of a terminal."""

from __future__ import annotations

import re
import textwrap
from typing import Any

_HEAD = re.compile(r"(Epoch|Iter)\(\w+\) *(\[[\d ]+\])?\[[\d ]+/[\d?]+\]  ")
_MEAN = re.compile(r"\[mean of (\d+|the epoch)(, \d+ not finite left out)?\]")
IS_LR = re.compile(r"(^|[./_])lr($|[./])|^lr of ")
_LEFT_OUT_FIRST = {"memory": 3, "eta": 3, "time": 4, "data_time": 4}


def terminal_line(line: str, width: int = 90) -> str:
    """Return a line of a `LogProcessor` for people: losses first, times last, in lines of at most `width` columns.

    What says how a value was averaged is left out, and so are times and memory where they do not fit; the log file has
    them. Any other text, and a line with statistics of the user's or with a tensor, stays as it is.
    """
    head = _HEAD.match(line)
    parts = [] if head is None else [part for part in line[head.end() :].split("  ") if not _MEAN.fullmatch(part)]
    if head is None or "\n" in line or any(part.startswith("[") for part in parts):
        return line
    lines = [head[0].rstrip()]
    for part in sorted(parts, key=_rank):
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        elif _rank(part) < 3:
            lines.append(f"{'':18}{part}")
    return "\n".join(lines)


def wrap_message(message: str, columns: int, begin: int) -> str:
    """Return a message whose lines are at most `columns` long, broken between words; a longer word stays whole.

    Args:
        message: What is written.
        columns: Columns of the terminal.
        begin: Column in which the first line begins, behind time and place; lines that go on begin in column 10.
    """
    lines = message.split("\n")
    for number, line in enumerate(lines):
        before = 0 if number else begin
        if before + len(line) > columns:
            after = " " * (10 if number == 0 else len(line) - len(line.lstrip()) + 2)
            options: Any = {"break_long_words": False, "break_on_hyphens": False}
            is_long = before > len(after) and before + len(line.partition(" ")[0]) > columns  # a path: in a line below
            indent = after if is_long else " " * before
            wrapped = textwrap.wrap(line, columns, initial_indent=indent, subsequent_indent=after, **options)
            lines[number] = "\n".join(["", *wrapped]) if is_long else "\n".join(wrapped)[before:]
    return "\n".join(lines)


def _rank(part: str) -> int:
    name = part.partition(":")[0]
    return _LEFT_OUT_FIRST.get(name, 2 if IS_LR.search(name) else int("loss" not in name))

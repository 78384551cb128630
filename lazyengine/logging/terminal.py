"""Lines of values, arranged for a terminal of 100 columns."""

from __future__ import annotations

import re

_HEAD = re.compile(r"(Epoch|Iter)\(\w+\) *(\[[\d ]+\])?\[[\d ]+/[\d?]+\]  ")
_MEAN = re.compile(r"\[mean of (\d+|the epoch)\]")
_IS_LR = re.compile(r"(^|[./_])lr($|[./])|^lr of ")
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


def _rank(part: str) -> int:
    name = part.partition(":")[0]
    return _LEFT_OUT_FIRST.get(name, 2 if _IS_LR.search(name) else int("loss" not in name))

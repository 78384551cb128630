"""Show the runs in a folder: those at work, finished, stopped (train --resume goes on with them), failed and killed,
from their locks, run.json and records.

exit codes: 0 shown; 2 a mistake in the command line
"""

from __future__ import annotations

import re
import sys

from ..runs import find_runs
from ..runs.watching import HEADER
from ..text import columns_of, table
from .command import Arguments, CommandParser, as_json, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", nargs="?", default="work_dirs", metavar="ROOT", help="default: work_dirs")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Show runs."""
    found = find_runs(args.root)
    if args.json:
        return as_json(found)
    if not found:
        return f"no run in {args.root}"
    return _table([HEADER, *(each.row() for each in found)], columns_of(sys.stdout))


def _table(rows: list[tuple[str, ...]], width: int | None) -> str:
    """Return the table; what a narrow terminal has no place for stands below, or is left out."""
    if width is None:
        return table(rows)
    below: list[str] = []
    if _is_wide(rows, width):
        below = [f"{row[0]}: {row[-1]}" for row in rows[1:] if row[-1]]
        rows = [tuple(cell.replace("(train)", "") for cell in row[:-1]) for row in rows]
    if _is_wide(rows, width):
        rows = [(*row[:-1], re.sub(r", .*", ", …", row[-1])) for row in rows]
    return "\n".join([table(rows, columns=width), *below])


def _is_wide(rows: list[tuple[str, ...]], width: int) -> bool:
    return max(map(len, table(rows, columns=sys.maxsize).splitlines())) > width

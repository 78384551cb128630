"""Answer a question in SQL about the runs in a folder and below it, by DuckDB (pip install 'lazyengine[query]') or,
where it is not installed, by SQLite. Three views are there:

runs     a row for each run: run, path, run_id, state, reason, iterations,
         num_starts, started_utc, host, command, code, parent, parent_iter;
         "env.torch" and the like; each value of the configs by its path, as
         "optimizer.lr"; the last, smallest and largest value of each curve
         as "last val/loss", "min val/loss", "max val/loss"
metrics  a row for each recorded number: run, name, mode, step, epoch, value;
         starts of resumed runs are joined
events   a row for each start, change and end: run, start, event, iter,
         time_utc, what, detail

examples:
  %(prog)s work_dirs 'select run, state, "optimizer.lr", "max val/accuracy/top1" from runs order by 4 desc limit 10'
  %(prog)s work_dirs "select run, max(value) from metrics where name = 'val/accuracy/top1' group by run"
  %(prog)s work_dirs "select * from events where event = 'change'" --csv

exit codes: 0 done; 2 there is no such folder, or the statement is wrong.
"""

from __future__ import annotations

import sys
from typing import Any

from ..runs import query
from ..text import columns_of, csv_table, table
from .command import Arguments, CommandParser, as_json, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", metavar="ROOT", help="the folder in which runs are")
    parser.add_argument("sql", metavar="SQL", help="the statement")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the rows as JSON, for other programs")
    form.add_argument("--csv", action="store_true", help="print the rows as CSV")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Answer a statement."""
    found = query(args.root, args.sql)
    if args.json:
        return as_json([dict(zip(found.columns, row)) for row in found.rows])
    if args.csv:
        return csv_table([found.columns, *found.rows])
    rows, width = [[*map(_shown, row)] for row in found.rows], columns_of(sys.stdout)
    text = table([found.columns, *rows], columns=width)
    if width is None or max(map(len, text.splitlines())) <= width:
        return text
    return "\n\n".join(table(zip(found.columns, row), columns=width) for row in rows)  # a line for each value


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

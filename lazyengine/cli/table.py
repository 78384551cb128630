"""Make a table from runs. TABLE is a Python file that defines `table`, whose cells are questions about runs:

    from lazyengine.runs import Cell, Table

    def cell(width, lr):
        return Cell(f"model.width = {width} and optimizer.lr = {lr}", "val/accuracy/top1 best", seeds=range(3))

    table = Table(
        "work_dirs",
        {f"width {w}": {f"lr {lr}": cell(w, lr) for lr in (0.001, 0.003)} for w in (8, 32)},
        varies=["model.width", "optimizer.lr"],
        config="projects/digits/config.py",
    )

A cell is refused, with the reason, where its runs differ in an option that is not declared, in code, or in the data of
the evaluation, are not finished, or are not all there.

exit codes: 0 every cell has its value; 1 a cell is refused, or a run failed; 2 the file is wrong
"""

from __future__ import annotations

import subprocess
import sys

from ..runs import commands_for, fill, load_table
from .command import Arguments, CommandParser, command, say, say_running


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("table", metavar="TABLE", help="the Python file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="print it as LaTeX (booktabs), with the runs of each cell")
    form.add_argument("--csv", action="store_true", help="print a row for each cell as CSV, with its runs")
    form.add_argument("--html", action="store_true", help="print it as an HTML table")
    form.add_argument("--redo", metavar="CELL", help="train what the cell ROW/COLUMN lacks, then print the table")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Make a table, after training what it lacks where that is asked for."""
    table = load_table(args.table)
    found = fill(table)
    if args.redo is not None:
        for words in commands_for(found, args.redo):
            say_running(" ".join(["lazyengine train", *words]))
            done = subprocess.run([sys.executable, "-m", "lazyengine", "train", *words], check=False)
            if done.returncode != 0:
                say(f"lazyengine train ended with {done.returncode}")
                return 1
        found = fill(table)
    code = 1 if found.refused else 0
    if not (args.latex or args.csv or args.html):
        return found, code
    print(found.as_latex() if args.latex else found.as_csv() if args.csv else found.as_html(), flush=True)
    print(*found.reasons(), sep="\n", end="\n" if found.refused else "", file=sys.stderr)
    return code

"""The command line that makes a paper's table from runs: ``lazyengine table``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from ..runs import commands_for, fill, load_table
from .mistakes import refuse, say_running, tell

_DESCRIPTION = """\
Make a table from runs. TABLE is a Python file that defines `table`, whose cells are questions about runs:

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
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog="exit codes: 0 every cell has its value; 1 a cell is refused, or a run failed; 2 the file is wrong",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", metavar="TABLE", help="the Python file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="print it as LaTeX (booktabs), with the runs of each cell")
    form.add_argument("--csv", action="store_true", help="print a row for each cell as CSV, with its runs")
    form.add_argument("--html", action="store_true", help="print it as an HTML table")
    form.add_argument("--redo", metavar="CELL", help="train what the cell ROW/COLUMN lacks, then print the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        table = load_table(args.table)
        found = fill(table)
        if args.redo is not None:
            for command in commands_for(found, args.redo):
                say_running(" ".join(["lazyengine train", *command]))
                done = subprocess.run([sys.executable, "-m", "lazyengine", "train", *command], check=False)
                if done.returncode != 0:
                    print(f"lazyengine train ended with {done.returncode}", file=sys.stderr)
                    return 1
            found = fill(table)
    except Exception as error:
        return refuse(error)
    if args.latex or args.csv or args.html:
        tell(found.as_latex() if args.latex else found.as_csv() if args.csv else found.as_html())
        print(*found.reasons(), sep="\n", end="\n" if found.refused else "", file=sys.stderr)
    else:
        tell(found.as_text())
    return 1 if found.refused else 0

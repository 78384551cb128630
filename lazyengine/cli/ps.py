"""The command line that shows the runs below a folder: ``lazyengine ps``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ..runs import find_runs
from ..runs.watching import HEADER
from ..text import table
from .mistakes import as_json, refuse, tell

_DESCRIPTION = """\
Show the runs in a folder: those at work, finished, stopped (train --resume goes on with them), failed and killed, from
their locks, run.json and records.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog="exit codes: 0 shown; 2 a mistake in the command line"
    )
    parser.add_argument("root", nargs="?", default="work_dirs", metavar="ROOT", help="default: work_dirs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for other programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a mistake in the command line."""
    args = build_parser().parse_args(argv)
    try:
        found = find_runs(args.root)
    except Exception as error:
        return refuse(error)
    if args.json:
        tell(as_json([asdict(each) for each in found]))
    else:
        tell(table([HEADER, *(each.row() for each in found)]) if found else f"no run in {args.root}")
    return 0

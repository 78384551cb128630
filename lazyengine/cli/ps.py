"""Show the runs in a folder: those at work, finished, stopped (train --resume goes on with them), failed and killed,
from their locks, run.json and records.

exit codes: 0 shown; 2 a mistake in the command line
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from ..runs import find_runs
from ..runs.watching import HEADER
from ..text import columns_of, table
from .command import CommandParser, as_json, command, make_parser


def build_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = make_parser(__doc__, with_json=True)
    parser.add_argument("root", nargs="?", default="work_dirs", metavar="ROOT", help="default: work_dirs")
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> object:
    """Show runs."""
    found = find_runs(args.root)
    if args.json:
        return as_json([asdict(each) for each in found])
    if not found:
        return f"no run in {args.root}"
    return table([HEADER, *(each.row() for each in found)], columns=columns_of(sys.stdout))

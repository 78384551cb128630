"""The command line that finds where two runs part: ``lazyengine bisect``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ..runs import bisect
from .mistakes import as_json, refuse, say_running, tell

_DESCRIPTION = """\
Find the first iteration in which two runs differ, and the first thing in it: batch, parameters, buffers, outputs of
modules, loss, gradients, update, random streams. First by what they recorded, then by their checkpoints, then by making
the iterations in between again, of both, from what their folders keep. Of runs with other numbers of ranks or of
accumulated batches, optimizer steps are compared, within a tolerance.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog="exit codes: 0 equal; 1 they part; 2 a mistake in the command line, or missing"
    )
    parser.add_argument("first", metavar="A", help="the folder of a run")
    parser.add_argument("second", metavar="B", help="the folder of another one")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="relative difference that counts, for runs that add up in another order; measured where ranks or "
        "accumulation differ, else every bit counts",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="make all iterations again, for a difference that fades before anything of it is recorded",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for other programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``)."""
    args = build_parser().parse_args(argv)
    try:
        found = bisect(args.first, args.second, tolerance=args.tolerance, whole=args.whole, report=say_running)
    except Exception as error:
        return refuse(error)
    tell(as_json(asdict(found)) if args.json else found.as_text())
    return 0 if found.is_equal else 1

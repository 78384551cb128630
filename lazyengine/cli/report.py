"""The command line that writes a run, or many runs, as one HTML file: ``lazyengine report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..runs import report
from .mistakes import refuse, tell

_DESCRIPTION = """\
Write a run, or all runs below a folder, as one HTML file of less than 1 MB that asks nothing of any network.

Of a run: summary, curves, config with the place that set each value, hooks, pictures (of a confusion matrix too),
environment, lineage, faults, and the command that makes it again. Of a folder: the table of lazyengine compare, curves,
parallel coordinates, and how much of the result each option explains.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog="exit codes: 0 written; 2 the folder holds no run, or a key is not there",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run, or one with runs below it")
    parser.add_argument("--output", metavar="HTML", help="the file (default: report.html in that folder)")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="curves, as for lazyengine compare (losses, metrics)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        path = report(args.run, args.output, keys=args.keys)
    except Exception as error:
        return refuse(error)
    tell(f"written: {path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0

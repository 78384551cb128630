"""The command line that makes a run again: ``lazyengine rerun``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ..runs import rerun
from .mistakes import as_json, refuse, say_running, tell

_DESCRIPTION = """\
Make a run again, in a new folder, from what its folder keeps: the code that it imported, its saved configs, and the
same starts and resumes. Neither the folder nor the present code of the project is touched.
"""
_EPILOG = """\
examples:
  %(prog)s work_dirs/digits
  %(prog)s work_dirs/digits --verify
  %(prog)s work_dirs/digits --start 2 --to work_dirs/again

exit codes: 0 made again, with --verify also equal; 1 not equal, or something is missing, which is named; 2 a mistake in
the command line.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder of the run")
    parser.add_argument("--verify", action="store_true", help="compare every record and the final state")
    parser.add_argument("--start", type=int, metavar="K", help="end with this start (default: the last that trained)")
    parser.add_argument("--to", metavar="DIR", help="the new run folder (default: FOLDER_rerun)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for other programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        done = rerun(
            args.folder,
            to=args.to,
            start=args.start,
            verify=args.verify,
            report=say_running,
        )
    except Exception as error:
        return refuse(error)
    tell(as_json({**asdict(done), "folder": str(done.folder)}) if args.json else done.as_text())
    return 1 if done.missing or done.is_equal is False else 0

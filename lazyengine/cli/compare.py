"""The command line that puts runs side by side: ``tools/compare_runs.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..runs import choose_keys, compare_runs, read_runs
from .mistakes import as_json, refuse, tell
from .plot import add_run_arguments

_DESCRIPTION = """\
Put runs side by side: what differs in their configs, and the best and last values of their metrics.

RUN is the folder of a run, or of one start. Configs are compared as they were saved (config.json); nothing is imported.
What a resume changed is shown with the iteration from which it is in force, as in 0.05 -> 0.5 @ 120.
"""
_EPILOG = """\
examples:
  %(prog)s work_dirs/lr1e-3 work_dirs/lr3e-3
  %(prog)s work_dirs/* --keys top1 val/loss
  %(prog)s work_dirs/* --json

exit codes: 0 done; 2 a folder is no run, or a key is not there.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        runs = read_runs(args.runs)
        found = compare_runs(runs, choose_keys(runs, args.keys))
    except Exception as error:
        return refuse(error)
    tell(as_json(found.as_json()) if args.json else found.as_text())
    return 0

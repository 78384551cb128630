"""The command line that asks a run to save and stop: ``lazyengine stop``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..runs import stop
from .mistakes import refuse, tell


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description="Ask a run on this host to save and stop after its iteration, as SIGTERM does.",
        epilog="train --resume goes on with it. exit codes: 0 asked; 2 nothing trains there, or on another host.",
    )
    parser.add_argument("folder", metavar="RUN", help="the folder of the run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``)."""
    args = build_parser().parse_args(argv)
    try:
        pid = stop(args.folder)
    except Exception as error:
        return refuse(error)
    tell(f"process {pid} was asked to save and stop; lazyengine ps shows when it has")
    return 0

"""The command line that asks a run to save, validate or stop: ``lazyengine stop``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..runs import stop
from ..runs.watching import ASKED
from .mistakes import refuse, tell


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description="Ask a run to save and stop at its next step, as SIGTERM does; or to save or validate and go on.",
        epilog="train --resume goes on with a stopped one. exit codes: 0 asked; 2 nothing trains there.",
    )
    parser.add_argument("folder", metavar="RUN", help="the folder of the run")
    parser.add_argument("request", nargs="?", choices=ASKED, default="stop", help="default: stop, with a checkpoint")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``)."""
    args = build_parser().parse_args(argv)
    try:
        pid = stop(args.folder, args.request)
    except Exception as error:
        return refuse(error)
    what = "save and stop; lazyengine ps shows when it has" if args.request == "stop" else args.request
    tell(f"process {pid} was asked to {what}")
    return 0

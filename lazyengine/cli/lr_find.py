"""The command line that tries learning rates: ``lazyengine lr-find``."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict

from .mistakes import as_json, refuse, say_running, tell
from .plan import maker_of

_DESCRIPTION = """\
Raise the learning rate from step to step, on steps that are thrown away, and draw the loss. CONFIG begins anew;
RUN[@ITER] begins with the weights and the optimizer of a run when ITER iterations were done. Nothing of it is changed.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    epilog = "exit codes: 0 done; 2 a mistake in the config or the command line"
    parser = argparse.ArgumentParser(description=_DESCRIPTION, epilog=epilog)
    parser.add_argument("config", metavar="CONFIG|RUN[@ITER]", help="a config, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    parser.add_argument("--low", type=float, default=1e-6, metavar="LR", help="the first rate (1e-6)")
    parser.add_argument("--high", type=float, default=1.0, metavar="LR", help="the last rate (1)")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps to take (100)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for other programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a mistake in the config or the command line.

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_intermixed_args(argv)
    try:
        from ..analysis.finding import find_lr
        from ..runs import prepare_fork, read_run, split_name

        folder, iteration = split_name(args.config)
        resume = None
        if os.path.isdir(folder):
            resume = prepare_fork(read_run(folder), iteration, report=say_running)
        with tempfile.TemporaryDirectory(prefix="lazyengine-") as work_dir:
            make = maker_of(folder, args.overrides, work_dir)
            found = find_lr(make, low=args.low, high=args.high, steps=args.steps, resume=resume)
    except Exception as error:
        return refuse(error)
    tell(as_json(asdict(found)) if args.json else found.as_text())
    return 0

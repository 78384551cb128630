"""Evaluate the experiment that a config file describes: with the best weights of its run, else the newest, or others.

examples:
  %(prog)s configs/base.py                                    the best weights of its run
  %(prog)s configs/base.py --checkpoint latest                the newest ones
  %(prog)s configs/base.py --checkpoint work_dirs/base/epoch_8.pth
  %(prog)s configs/base.py --work-dir work_dirs/narrow        of another run folder
  %(prog)s configs/base.py --limit val=10 --json              ten batches, the metrics as JSON

exit codes: 0 done; 1 the evaluation failed; 2 a mistake in the config or the command line.
"""

from __future__ import annotations

import argparse

from . import train
from .command import CommandParser, command


def build_parser() -> CommandParser:
    """Return the parser of the command: that of `train`, whose page leaves out what is about training."""
    parser = train.build_parser(__doc__)
    for option in ("--resume", "--eval-only", "--fast-dev-run", "--overfit"):
        parser._option_string_actions[option].help = argparse.SUPPRESS
    return parser


main = command(build_parser, lambda argv: ["--eval-only", *train.tell_overrides_apart(argv)])(train.train_or_evaluate)

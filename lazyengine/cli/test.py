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
from .command import Arguments, CommandParser, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of `train`; the page leaves out what is about training."""
    train.add_arguments(parser)
    for option in ("--resume", "--eval-only", "--fast-dev-run", "--overfit"):
        parser._option_string_actions[option].help = argparse.SUPPRESS


@command(__doc__, add_arguments, prepare=lambda argv: ["--eval-only", *train.tell_overrides_apart(argv)])
def main(args: Arguments) -> int:
    """Evaluate."""
    return train.main.answer(args)

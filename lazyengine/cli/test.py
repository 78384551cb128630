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

from functools import partial

from .command import command
from .train import build_parser, tell_overrides_apart, train_or_evaluate

main = command(partial(build_parser, __doc__), lambda argv: ["--eval-only", *tell_overrides_apart(argv)])(
    train_or_evaluate
)

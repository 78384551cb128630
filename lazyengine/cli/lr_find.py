"""Raise the learning rate from step to step, on steps that are thrown away, and draw the loss. CONFIG begins anew;
RUN[@ITER] begins with the weights and the optimizer of a run when ITER iterations were done. Nothing of it is changed.

exit codes: 0 done; 2 a mistake in the config or the command line
"""

from __future__ import annotations

import os
import tempfile

from .command import Arguments, CommandParser, add_overrides, command, say_running
from .plan import maker_of


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", metavar="CONFIG|RUN[@ITER]", help="a config, or a run folder")
    add_overrides(parser)
    parser.add_argument("--low", type=float, default=1e-6, metavar="LR", help="the first rate (1e-6)")
    parser.add_argument("--high", type=float, default=1.0, metavar="LR", help="the last rate (1)")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps to take (100)")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Try learning rates."""
    from ..analysis.finding import find_lr
    from ..runs import prepare_fork, read_run, split_name

    folder, iteration = split_name(args.config)
    resume = prepare_fork(read_run(folder), iteration, report=say_running) if os.path.isdir(folder) else None
    with tempfile.TemporaryDirectory(prefix="lazyengine-") as work_dir:
        make = maker_of(folder, args.overrides, work_dir)
        return find_lr(make, low=args.low, high=args.high, steps=args.steps, resume=resume)

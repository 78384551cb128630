"""Begin a new run as another one stood when ITER iterations were done, with its config, the changes named here and the
code of today. Where no checkpoint stands there, the run is computed up to it, once for all forks.

examples:
  %(prog)s work_dirs/digits@700 --work-dir work_dirs/cooldown optimizer.lr=1e-4
  %(prog)s work_dirs/digits --work-dir work_dirs/longer train_loop.max_epochs=30     from its last checkpoint
  %(prog)s work_dirs/digits@700 --prepare                                            only compute that state

exit codes: 0 done; others as those of lazyengine train.
"""

from __future__ import annotations

from ..errors import UsageValueError
from .command import Arguments, CommandParser, add_overrides, command, say_running


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", metavar="RUN[@ITER]", help="the folder of a run, and how many iterations are done")
    parser.add_argument("--work-dir", metavar="DIR", help="the new run folder")
    parser.add_argument("--prepare", action="store_true", help="only compute the state; print its checkpoint")
    add_overrides(parser)


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Train the fork, or compute the state that it begins with."""
    from ..runs import fork, prepare_fork, read_run, split_name

    folder, iteration = split_name(args.run)
    if args.prepare:
        return prepare_fork(read_run(folder), iteration, report=say_running)
    if args.work_dir is None:
        raise UsageValueError("a fork is a new run: name its folder by --work-dir.")
    runner = fork(folder, iteration, args.work_dir, args.overrides, report=say_running)
    runner.interrupt_saves = True
    runner.train()
    return 0

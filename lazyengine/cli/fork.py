"""The command line that begins a run as another one stood: ``lazyengine fork``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import UsageValueError
from .mistakes import refuse, say_running, tell

_DESCRIPTION = """\
Begin a new run as another one stood when ITER iterations were done, with its config, the changes named here and the
code of today. Where no checkpoint stands there, the run is computed up to it, once for all forks.
"""
_EPILOG = """\
examples:
  %(prog)s work_dirs/digits@700 --work-dir work_dirs/cooldown optimizer.lr=1e-4
  %(prog)s work_dirs/digits --work-dir work_dirs/longer train_loop.max_epochs=30     from its last checkpoint
  %(prog)s work_dirs/digits@700 --prepare                                            only compute that state

exit codes: 0 done; others as those of lazyengine train.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN[@ITER]", help="the folder of a run, and how many iterations are done")
    parser.add_argument("--work-dir", metavar="DIR", help="the new run folder")
    parser.add_argument("--prepare", action="store_true", help="only compute the state; print its checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    from ..runs import fork, prepare_fork, read_run, split_name

    args = build_parser().parse_intermixed_args(argv)

    try:
        folder, iteration = split_name(args.run)
        if args.prepare:
            tell(prepare_fork(read_run(folder), iteration, report=say_running))
            return 0
        if args.work_dir is None:
            raise UsageValueError("a fork is a new run: name its folder by --work-dir.")
        runner = fork(folder, iteration, args.work_dir, args.overrides, report=say_running)
        runner.interrupt_saves = True
        runner.train()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return refuse(error)

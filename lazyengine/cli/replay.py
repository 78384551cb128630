"""Make an iteration of a run again: the nearest checkpoint at or before it, run forward with the code and the config
that the run's folder keeps. Shows its samples, loss, gradient norm and learning rates, and whether what was recorded is
equal to the bit. Nothing in the folder of the run is changed.

Iterations are counted from 0, as errors and hooks count them: iteration 7 is the one behind which 8 are done, and which
is recorded at step 8. What was recorded as a mean over a window is compared as that mean.

examples:
  %(prog)s work_dirs/digits --iter 700
  %(prog)s work_dirs/digits --iter 700:710 --batch
  %(prog)s work_dirs/digits --iter 700 --save step.pt      torch.load(...)["ranks"][0]: batch, outputs, gradients
  %(prog)s work_dirs/digits --iter 700 --pdb --at net.3
  %(prog)s work_dirs/digits --iter 700 --pdb --at nonfinite

exit codes: 0 equal, or not recorded; 1 not equal, or something is missing, which is named; 2 a mistake in the command
line.
"""

from __future__ import annotations

from ..errors import UsageValueError
from ..runs import replay, replay_range
from .command import Arguments, CommandParser, command, say_running


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="RUN", help="the folder of the run")
    parser.add_argument("--iter", required=True, metavar="N|A:B", help="the iteration, or those from A to before B")
    parser.add_argument("--batch", action="store_true", help="only print the samples; nothing is run")
    parser.add_argument("--save", metavar="FILE", help="write the batch, the modules' outputs and the gradients")
    parser.add_argument("--anomaly", action="store_true", help="switch torch's anomaly detection on for the step")
    parser.add_argument("--pdb", action="store_true", help="stop in the debugger before the step")
    parser.add_argument(
        "--at",
        metavar="MODULE",
        help="with --pdb: stop in this module's forward; nonfinite: in the one that makes the first NaN or inf",
    )
    parser.add_argument("--rank", type=int, default=0, metavar="R", help="with --pdb: the rank to debug (0)")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Make iterations again."""
    iterations = _iterations(args.iter)
    if args.at is not None and not args.pdb:
        raise UsageValueError("--at names where the debugger stops; add --pdb.")
    if (args.save or args.pdb) and len(iterations) > 1:
        raise UsageValueError(f"--iter {args.iter}: --save and --pdb are for one iteration.")
    shared = {"anomaly": args.anomaly, "report": say_running}
    if len(iterations) == 1 and not args.batch:
        options = {"trace": not args.pdb, "debug": args.pdb, "at": args.at, "rank": args.rank, "save": args.save}
        found = [replay(args.folder, iterations[0], **options, **shared)]
    else:
        found = replay_range(args.folder, iterations, only_samples=args.batch, **shared)
    return "\n\n".join(each.as_text() for each in found), 1 if any(each.is_equal is False for each in found) else 0


def _iterations(text: str) -> range:
    begin, colon, end = text.partition(":")
    if not (begin.isdigit() and (end.isdigit() if colon else True)):
        raise UsageValueError(f"--iter {text}: expected an iteration such as 700, or several such as 700:710.")
    found = range(int(begin), int(end) if colon else int(begin) + 1)
    if not found:
        raise UsageValueError(f"--iter {text}: no iteration is in it.")
    return found

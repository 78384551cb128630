"""Find the first iteration in which two runs differ, and the first thing in it: batch, parameters, buffers, outputs of
modules, loss, gradients, update, random streams. First by what they recorded, then by their checkpoints, then by making
the iterations in between again, of both, from what their folders keep. Of runs with other numbers of ranks or of
accumulated batches, optimizer steps are compared, within a tolerance.

exit codes: 0 equal; 1 they part; 2 a mistake in the command line, or missing
"""

from __future__ import annotations

from ..runs import bisect
from .command import Arguments, CommandParser, command, say_running


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("first", metavar="A", help="the folder of a run")
    parser.add_argument("second", metavar="B", help="the folder of another one")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="relative difference that counts, for runs that add up in another order; measured where ranks or "
        "accumulation differ, else every bit counts",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="make all iterations again, for a difference that fades before anything of it is recorded",
    )


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Find where two runs part."""
    found = bisect(args.first, args.second, tolerance=args.tolerance, whole=args.whole, report=say_running)
    return found, 0 if found.is_equal else 1

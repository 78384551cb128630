"""Ask a run to save and stop at its next step, as SIGTERM does; or to save or validate and go on.

train --resume goes on with a stopped one. exit codes: 0 asked; 2 nothing trains there.
"""

from __future__ import annotations

from ..runs import stop
from ..runs.watching import ASKED
from .command import Arguments, CommandParser, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="RUN", help="the folder of the run")
    parser.add_argument("request", nargs="?", choices=ASKED, default="stop", help="default: stop, with a checkpoint")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Ask a run."""
    pid = stop(args.folder, args.request)
    what = "save and stop; lazyengine ps shows when it has" if args.request == "stop" else args.request
    return f"process {pid} was asked to {what}"

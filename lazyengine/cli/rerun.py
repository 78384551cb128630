"""Make a run again, in a new folder, from what its folder keeps: the code that it imported, its saved configs, and the
same starts and resumes. Neither the folder nor the present code of the project is touched.

examples:
  %(prog)s work_dirs/digits
  %(prog)s work_dirs/digits --verify
  %(prog)s work_dirs/digits --start 2 --to work_dirs/again

exit codes: 0 made again, with --verify also equal; 1 not equal, or something is missing, which is named; 2 a mistake in
the command line.
"""

from __future__ import annotations

from ..runs import rerun
from .command import Arguments, CommandParser, command, say_running


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="FOLDER", help="the folder of the run")
    parser.add_argument("--verify", action="store_true", help="compare every record and the final state")
    parser.add_argument("--start", type=int, metavar="K", help="end with this start (default: the last that trained)")
    parser.add_argument("--to", metavar="DIR", help="the new run folder (default: FOLDER_rerun)")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Make a run again."""
    done = rerun(args.folder, to=args.to, start=args.start, verify=args.verify, report=say_running)
    return done, 1 if done.missing or done.is_equal is False else 0

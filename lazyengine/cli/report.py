"""Write a run, or all runs below a folder, as one HTML file of less than 1 MB that asks nothing of any network.

Of a run: summary, curves, config with the place that set each value, hooks, pictures (of a confusion matrix too),
environment, lineage, faults, and the command that makes it again. Of a folder: the table of lazyengine compare, curves,
parallel coordinates, and how much of the result each option explains.

exit codes: 0 written; 2 the folder holds no run, or a key is not there
"""

from __future__ import annotations

from ..runs import report
from .command import Arguments, CommandParser, add_keys, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run, or one with runs below it")
    parser.add_argument("--output", metavar="HTML", help="the file (default: report.html in that folder)")
    add_keys(parser)


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Write the page."""
    path = report(args.run, args.output, keys=args.keys)
    return f"written: {path} ({path.stat().st_size / 1000:.0f} kB)"

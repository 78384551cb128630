"""Put runs side by side: a row for each, or for those that differ in the seed alone (mean ± standard deviation); of
their configs only what differs; the best and the last values of their metrics.

RUN is the folder of a run, or a folder with any number of runs below it. Configs are compared as they were saved
(config.json); nothing is imported. What a resume changed is shown with the iteration from which it is in force, as in
0.05 -> 0.5 @ 120. Of two rows it says whether the second is better than the first, by a test over the seeds.

examples:
  %(prog)s work_dirs                                     all runs below it, the best first
  %(prog)s work_dirs/lr1e-3 work_dirs/lr3e-3
  %(prog)s work_dirs --where 'optimizer.lr > 1e-3 and state = finished' --sort lr
  %(prog)s work_dirs --keys top1 val/loss --csv > runs.csv

exit codes: 0 done; 2 a folder holds no run, or a key, a column or a condition is not there.
"""

from __future__ import annotations

from ..runs import choose_keys, compare_runs, parse_conditions, read_outlines
from .command import Arguments, CommandParser, add_keys, command, say


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, or one with runs below it")
    add_keys(parser)
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="only runs for which it holds: 'lr > 1e-3'"
    )
    parser.add_argument("--sort", metavar="COLUMN", help="a metric (the best first) or a value of the config")
    parser.add_argument("--each", action="store_true", help="a row for each run, whatever its seed")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the values as JSON, for other programs")
    form.add_argument("--csv", action="store_true", help="print the table as CSV, numbers in full")
    form.add_argument("--latex", action="store_true", help="print the table as LaTeX (booktabs)")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Put runs side by side."""
    runs = read_outlines(args.runs)
    for run in runs:
        if run.mistake:
            say(f"{run.path.name}: {run.mistake}")
    conditions = parse_conditions(args.where, runs)
    fitting = [run for run in runs if all(condition.holds(run) for condition in conditions)]
    for message in dict.fromkeys(condition.without_value(runs) for condition in conditions):
        if message:
            say(message)
    if not fitting:
        why = [said for condition in conditions if condition.sign != "!=" and (said := condition.why_none(runs))]
        return "\n".join(["no run fits the conditions", *why])
    runs = fitting
    found = compare_runs(runs, choose_keys(runs, args.keys), each=args.each, sort=args.sort)
    return found.as_csv() if args.csv else found.as_latex() if args.latex else found

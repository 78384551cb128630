"""Run an experiment with many values: drawn (log_uniform, uniform, choice), all of them (grid, range, zipped), or both.
Each trial is a run in a folder of its own. Called again in the same folder it goes on: finished trials stay, those that
were cut off resume from their checkpoints, failed ones are started once more.

CONFIG is a config, or a file with a search: config = 'base.py', space = {'optimizer.lr': log_uniform(1e-4, 1e-1), ...},
objective = 'val/accuracy/top1', trials = 20.

examples:
  %(prog)s configs/base.py 'optimizer.lr=log_uniform(1e-4,1e-1)' 'runner.seed=range(3)' --trials 20 --objective top1
  %(prog)s configs/sweep.py --dry-run
  %(prog)s configs/sweep.py --pruner asha --jobs 4
  %(prog)s configs/sweep.py --on slurm --timeout 240 --gpus 1 --slurm partition=gpu

exit codes: 0 all trials have ended; 1 some failed; 2 a mistake in the search, the config or the command line; 75
another sweep is at work in the folder; 143 or 130 stopped, after all trials at work have saved: the same command goes
on.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

from ..text import columns_of, table
from .command import Arguments, CommandParser, add_overrides, as_json, command, say
from .submit import add_launcher_arguments, launcher_of
from .train import default_experiment_name


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", metavar="CONFIG", help="a config, or a file with a search")
    add_overrides(parser, "values", "what is varied, and overrides")
    parser.add_argument("--objective", metavar="METRIC", help="the metric that counts, such as val/accuracy/top1")
    parser.add_argument("--direction", choices=["maximize", "minimize"], help="default: as the metric's name tells")
    parser.add_argument("--trials", type=int, metavar="N", help="number of runs (default: all combinations of grids)")
    parser.add_argument("--sampler", help="tpe (default) or random")
    parser.add_argument(
        "--pruner", metavar="NAME", help="median, asha or hyperband; also as 'asha(reduction_factor=4)'"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of what is drawn (default: 0)")
    parser.add_argument("--work-dir", metavar="DIR", help="the sweep's folder (default: work_dirs/<name>_sweep)")
    parser.add_argument("--storage", metavar="URL", help="of Optuna (default: a journal file in the folder)")
    parser.add_argument("--jobs", type=int, metavar="N", help="trials at once (default: as many as fit)")
    parser.add_argument("--dry-run", action="store_true", help="check the search and print its first trials")
    add_launcher_arguments(parser)


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Search."""
    from ..sweep import planned, read_search, sweep

    names = ("objective", "direction", "trials", "sampler", "pruner", "seed")
    search = read_search(args.config, args.overrides, **{name: getattr(args, name) for name in names})
    name = default_experiment_name(args.config)
    folder = args.work_dir or os.path.join("work_dirs", name if name.endswith("sweep") else f"{name}_sweep")
    if args.dry_run:
        search.check()
        trials = planned(search, folder=folder, storage=args.storage)
        rows = [("trial", "changes"), *((f"{n:04d}", " ".join(each)) for n, each in enumerate(trials))]
        more = search.num_trials - len(trials)
        return table(rows, columns=columns_of(sys.stdout)) + (f"\n... and {more} more" if more else "")
    launcher = launcher_of(args, folder, capacity=args.jobs, report=say)
    found = sweep(search, folder, launcher, storage=args.storage, num_ranks=args.ranks, report=say)
    trials = [{"folder": each.folder, **asdict(each)} for each in found.ranked()]
    return as_json({**asdict(found), "trials": trials}) if args.json else found, found.exit_code

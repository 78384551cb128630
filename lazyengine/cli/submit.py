"""Train an experiment under a supervisor that tells apart what can end a run (memory, a hang, a lost node, a full disk,
a bad sample, a value that is not finite, an error) and starts it again from its newest checkpoint, as the `supervision`
of the config says. What comes back at the same iteration stops it. Each decision stands in run.json.

examples:
  %(prog)s configs/base.py optimizer.lr=3e-4
  %(prog)s configs/base.py --ranks 2 --resume
  %(prog)s configs/base.py --on slurm --nodes 2 --ranks 8 --gpus 8 --timeout 1440 --slurm partition=gpu
  %(prog)s configs/base.py --on ray --address auto

exit codes: 0 trained (--on slurm: queued); 1 the supervisor gave up; 2 a mistake in the config or the command line;
75 another training is at work in the run folder; 143 or 130 stopped after saving: start again with --resume.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import UsageValueError
from .command import Arguments, CommandParser, add_overrides, command, load_config, say
from .train import default_experiment_name


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where runs run."""
    parser.add_argument("--on", default="local", metavar="WHERE", help="local (default), slurm or ray")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes of a run on each machine")
    parser.add_argument("--gpus", type=int, metavar="N", help="with slurm, ray: GPUs on each machine")
    parser.add_argument("--timeout", type=int, metavar="MIN", help="with slurm: the time limit; a run goes on after it")
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="an option of sbatch")
    parser.add_argument("--address", help="with ray: of the cluster (default: one on this machine)")


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", metavar="CONFIG", help="the experiment: a Python config file")
    add_overrides(parser)
    parser.add_argument("--work-dir", metavar="DIR", help="the run folder (default: work_dirs/<experiment_name>)")
    parser.add_argument("--resume", action="store_true", help="go on with what is in the run folder")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="with slurm: machines")
    add_launcher_arguments(parser)


def launcher_of(args: Arguments, folder: str, **options: Any) -> Any:
    """Return the launcher that a command line asks for.

    Raises:
        UsageValueError: An option has no meaning for it, is too small a number, or is not written as KEY=VALUE.
    """
    from ..sweep import make_launcher

    for name, least in (("ranks", 1), ("nodes", 1), ("jobs", 1), ("gpus", 0), ("timeout", 1)):
        number = getattr(args, name, None)
        if number is not None and number < least:
            raise UsageValueError(f"--{name} {number}: expected at least {least}.")
    if wrong := [each for each in args.slurm if "=" not in each]:
        raise UsageValueError(f"--slurm {wrong[0]}: expected KEY=VALUE, such as partition=gpu.")
    slurm = dict(each.split("=", 1) for each in args.slurm)
    given = {"gpus": args.gpus, "timeout_min": args.timeout, "slurm": slurm or None, "address": args.address}
    return make_launcher(args.on, folder, num_ranks=args.ranks, **given, **options)


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Train under a supervisor."""
    from ..config import arguments_of
    from ..runner.lock import FolderBusyError
    from ..runs.watching import owner_of
    from ..sweep import Job, Stopping, supervision_of, wait

    cfg = load_config(args.config, args.overrides)
    own = arguments_of(cfg.runner)
    name = own.get("experiment_name") or default_experiment_name(args.config)
    work_dir = args.work_dir or own.get("work_dir") or os.path.join("work_dirs", str(name))
    job = Job(
        config=args.config,
        work_dir=str(work_dir),
        overrides=args.overrides,
        experiment_name=str(name),
        resume=args.resume,
        num_ranks=args.ranks,
        num_nodes=args.nodes,
        supervision=supervision_of(cfg),
    )
    if (owner := owner_of(job.work_dir)) is not None:
        raise FolderBusyError(f"{work_dir} is in use: process {owner.get('pid')} on {owner.get('host')} trains in it.")
    options = {"num_nodes": args.nodes if args.nodes > 1 else None, "report": say}
    (launched,) = launcher_of(args, os.path.dirname(job.work_dir) or ".", **options).launch([job])
    if args.on == "slurm":
        return f"queued as job {launched.id}; lazyengine ps shows it when it runs"
    say(f"training in {work_dir}; what it prints goes to {job.output}")
    with Stopping() as stopping:
        outcome = wait(launched, lambda: stopping.count)
    code = 128 + stopping.number if stopping.number and outcome.how == "stopped" else outcome.exit_code
    return f"{outcome.how}{': ' if outcome.reason else ''}{outcome.reason}", code

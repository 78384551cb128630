"""The command line that trains and evaluates: ``tools/train_net.py`` and ``lazyengine train``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..config import ConfigError, LazyConfig, format_tree
from ..config.node import arguments_of, set_argument
from ..config.show import check_config
from .mistakes import refuse, until_the_reader_leaves

if TYPE_CHECKING:
    from ..runner import Runner

_EPILOG = """\
overrides:
  optimizer.lr=3e-4                       a value; the path starts at a name of the config file
  train_loop.max_epochs=5 model.width=64  several
  default_hooks.logger.interval=50        an entry of a dict
  'runner.param_schedulers[0].end=90'     an element of a list (also .0.)
  optimizer.betas=(0.9,0.95)              tuples, lists, dicts are written as in Python; quote for the shell
  +runner.load_from=weights.pth           add an argument that the config does not give
  "+runner.load_from={'path': 'old.pth', 'revise_keys': [('^net[.]', '')], 'strict': True}"
  ~model.dropout                          delete one: the class's default applies
  optimizer._target_=torch.optim.SGD ~optimizer.weight_decay    another class

examples:
  %(prog)s --config projects/digits/config.py
  %(prog)s --config projects/digits/config.py --resume
  %(prog)s --config projects/digits/config.py --eval-only --checkpoint best
  %(prog)s --config projects/digits/config.py --dry-run optimizer.lr=3e-4
  torchrun --nproc_per_node=2 tools/train_net.py --config projects/digits/config.py

exit codes: 0 done; 1 the run failed; 2 a mistake in the config or the command line; 143 stopped by a signal, after
saving: start again with --resume.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment: a Python config file")
    parser.add_argument("--work-dir", metavar="DIR", help="the run folder (default: work_dirs/<experiment_name>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="auto|PATH",
        help="continue: from the newest valid checkpoint of the run folder (auto, the default), or from PATH",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate instead of training")
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="weights to begin with or to evaluate: a path, a URL, 'best' or 'latest' of the run folder",
    )
    parser.add_argument("--dry-run", action="store_true", help="check and print the experiment; build no dataset")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of every random stream of the run")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], help="how ranks were started (default: found out)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config, see below")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate the experiment that a config file describes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_intermixed_args(_tell_overrides_apart(sys.argv[1:] if argv is None else argv))
    try:
        with until_the_reader_leaves():
            cfg = load_config(args)
            return _report_to_launcher(run)(build_runner(cfg, args), cfg, args)
        return 0
    except Exception as error:
        return refuse(error)


def _tell_overrides_apart(argv: Sequence[str]) -> list[str]:
    """Let ``--resume a.b=1`` be ``--resume=auto a.b=1``: argparse would take the override for the path."""
    told = list(argv)
    for i, following in enumerate(told[1:]):
        is_override = re.match(r"~|\+?[A-Za-z_][\w.\[\]\"'-]*=", following) and not os.path.exists(following)
        if told[i] == "--resume" and is_override:
            told[i] = "--resume=auto"
    return told


def load_config(args: argparse.Namespace) -> Any:
    """Load the config, apply the overrides, and check that it describes an experiment.

    Raises:
        ConfigError: For anything wrong with it.
    """
    cfg = LazyConfig.load(args.config)
    LazyConfig.apply_overrides(cfg, args.overrides)
    if args.eval_only and args.resume is not None:
        raise ConfigError(
            "--eval-only evaluates, --resume continues training: name the weights to evaluate by --checkpoint "
            f"{'latest' if args.resume == 'auto' else args.resume}"
        )
    if not hasattr(cfg, "runner"):
        raise ConfigError(
            f"{args.config} has no `runner`: the command needs a top-level runner = LazyCall(Runner)(...); its names "
            f"are {', '.join(sorted(arguments_of(cfg))) or 'none'}"
        )
    if args.dry_run and (problems := check_config(cfg)):
        raise ConfigError("\n".join(problems))
    return cfg


def build_runner(cfg: Any, args: argparse.Namespace) -> Runner:
    """Build the runner of a config; what the command line says wins.

    What belongs to the experiment (seed, folder, name) goes into the config, so that the saved one repeats the run;
    what belongs to this start (resume, launcher) does not.
    """
    from ..runner import Runner

    changes = {"--work-dir": ("work_dir", args.work_dir), "--seed": ("seed", args.seed)}
    if "experiment_name" not in arguments_of(cfg.runner):
        changes["--config"] = ("experiment_name", default_experiment_name(args.config))
    for option, (name, value) in changes.items():
        if value is not None:
            set_argument(cfg.runner, name, value, source=f"cli:{option}")
    given = {"resume": args.resume, "launcher": args.launcher}
    runner = Runner.from_cfg(cfg, **{key: value for key, value in given.items() if value is not None})
    if args.checkpoint is not None:
        runner.set_checkpoint(args.checkpoint, strict=args.eval_only)
    return runner


def _report_to_launcher(function: Callable[..., int]) -> Callable[..., Any]:
    """Let torchrun, where it started this process, show an error of the function below the rank in its summary."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return function
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(function)


def run(runner: Runner, cfg: Any, args: argparse.Namespace) -> int:
    """Do what was asked for with a built runner."""
    from .. import dist

    if args.dry_run:
        print(format_tree(cfg))
        print()
        print(runner.describe())
        return 0
    if args.eval_only:
        if runner.load_from is None:
            print("no --checkpoint: what is evaluated are the weights that the model is built with", file=sys.stderr)
        metrics = runner.test()
        if dist.is_main_process():
            print(*(f"{name}: {value}" for name, value in metrics.items()), sep="\n")
        return 0
    runner.train()
    return 0


def default_experiment_name(config_path: str) -> str:
    """Name an experiment after its file: ``x/digits/config.py`` is ``digits``, ``x/digits/long.py`` ``digits_long``."""
    folder = os.path.basename(os.path.dirname(os.path.abspath(config_path)))
    stem = os.path.splitext(os.path.basename(config_path))[0]
    return folder if stem == "config" else f"{folder}_{stem}"

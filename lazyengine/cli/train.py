"""Train or evaluate the experiment that a config file describes.

overrides:
  optimizer.lr=3e-4                       a value; the path starts at a name of the config file
  train_loop.max_epochs=5 model.width=64  several
  hooks.logger.interval=50                an entry of a dict
  'runner.param_schedulers[0].end=90'     an element of a list (also .0.)
  optimizer.betas=(0.9,0.95)              tuples, lists, dicts are written as in Python; quote for the shell
  +runner.load_from=weights.pth           add an argument that the config does not give
  "+runner.load_from={'path': 'old.pth', 'revise_keys': [('^net[.]', '')], 'strict': True}"
  ~model.dropout                          delete one: the class's default applies
  optimizer._target_=torch.optim.SGD ~optimizer.weight_decay    another class

examples:
  %(prog)s configs/base.py
  %(prog)s configs/base.py optimizer.lr=3e-4 --work-dir work_dirs/low
  %(prog)s configs/base.py --resume
  %(prog)s configs/base.py --work-dir 'work_dirs/{config}/{time}'
  %(prog)s configs/base.py --fast-dev-run
  %(prog)s configs/base.py --limit train=50 val=10
  %(prog)s configs/base.py --dry-run optimizer.lr=3e-4
  %(prog)s configs/base.py --with ema.py bf16.py
  torchrun --no-python --nproc_per_node=2 %(prog)s configs/base.py

exit codes: 0 done; 1 the run failed; 2 a mistake in the config or the command line; 75 another training is at work in
the run folder: try again later; 143 stopped by a signal, or 130 by Ctrl-C, after saving: start again with --resume. A
second Ctrl-C stops at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import interpreter
from ..config import ConfigError, arguments_of, check_config, format_tree, set_argument
from ..config.saving import check_saving
from ..errors import UsageFileNotFoundError
from ..text import columns_of, fit
from .command import Arguments, CommandParser, add_config, as_json, command, load_config
from .trying import fast_dev_run, limit_batches, parse_limits

if TYPE_CHECKING:
    from ..runner import Runner


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument(
        "--with", dest="mixins", nargs="+", default=[], metavar="FILE", help="configs that change it, applied in order"
    )
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        help="the run folder (default: that of a config in one, else work_dirs/<experiment_name>); in it, {config} "
        "stands for the config's name, {time} for the time of the start",
    )
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
        help="weights to begin with or to evaluate: a path, a URL, 'best' or 'latest' of the run folder, or 'none' for "
        "those that the model is built with (default of an evaluation: best, else latest)",
    )
    parser.add_argument(
        "--fast-dev-run",
        nargs="?",
        type=int,
        const=2,
        metavar="N",
        help="train, validate, save, resume and test, N batches of each (default 2), in a temporary folder; and try "
        "whether batches and steps are exact",
    )
    parser.add_argument(
        "--limit",
        type=parse_limits,
        default={},
        metavar="train=N val=N test=N",
        help="take at most so many batches of each epoch or evaluation",
    )
    parser.add_argument(
        "--overfit", type=int, metavar="N", help="train on the first N batches over and over, to see the loss vanish"
    )
    parser.add_argument("--json", action="store_true", help="with --eval-only: print the metrics as JSON, and no more")
    parser.add_argument("--dry-run", action="store_true", help="check and print the experiment; build no dataset")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of every random stream of the run")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], help="how ranks were started (default: found out)"
    )


def tell_overrides_apart(argv: Sequence[str]) -> list[str]:
    """Write options whose value may be left out as ``--resume=auto``: argparse would take what follows for the value.

    ``--limit train=5 val=2`` becomes one word.
    """
    told: list[str] = []
    for word in argv:
        option = told[-1] if told else ""
        is_override = re.match(r"~|\+?[A-Za-z_][\w.\[\]\"'-]*=", word) and not os.path.exists(word)
        if option == "--resume" and (is_override or word.endswith(".py")):
            told[-1] = "--resume=auto"
        elif option == "--fast-dev-run" and not re.fullmatch(r"-?\d+", word):
            told[-1] = "--fast-dev-run=2"
        elif option == "--limit" or (option.startswith("--limit=") and re.match(r"(train|val|test)=\d", word)):
            told[-1] += f"{',' if '=' in option else '='}{word}"
            continue
        told.append(word)
    return told


@command(__doc__, add_arguments, prepare=tell_overrides_apart)
def main(args: Arguments) -> int:
    """Train or evaluate."""
    if args.fast_dev_run is not None:
        return fast_dev_run(args, load_experiment, build_runner)
    cfg = load_experiment(args)
    return _report_to_launcher(run)(build_runner(cfg, args), cfg, args)


def load_experiment(args: Arguments) -> Any:
    """Load the config, apply the overrides, and check that it describes an experiment.

    Raises:
        ConfigError: For anything wrong with it.
    """
    mixins = [each for each in args.mixins if each.endswith(".py")]
    overrides = [each for each in args.mixins if each not in mixins] + args.overrides
    cfg = load_config(args.config, overrides, *mixins)
    if args.eval_only and args.resume is not None:
        raise ConfigError(
            "--eval-only evaluates, --resume continues training: name the weights to evaluate by --checkpoint "
            f"{'latest' if args.resume == 'auto' else args.resume}"
        )
    limit_batches(cfg, args.limit, args.overfit)
    if args.dry_run and (problems := check_config(cfg) + check_saving(cfg)):
        raise ConfigError("\n".join(problems))
    return cfg


def build_runner(cfg: Any, args: Arguments) -> Runner:
    """Build the runner of a config; what the command line says wins.

    What belongs to the experiment (seed, folder, name) goes into the config, so that the saved one repeats the run;
    what belongs to this start (resume, launcher) does not.
    """
    with interpreter.paused():
        from ..runner import Runner

    name = default_experiment_name(args.config)
    work_dir = None if args.work_dir is None else args.work_dir.replace("{config}", name)
    changes = {"--work-dir": ("work_dir", work_dir), "--seed": ("seed", args.seed)}
    if "experiment_name" not in arguments_of(cfg.runner):
        changes["--config"] = ("experiment_name", name)
    for option, (name, value) in changes.items():
        if value is not None:
            set_argument(cfg.runner, name, value, source=f"cli:{option}")
    given = {"resume": args.resume, "launcher": args.launcher}
    runner = Runner.from_cfg(cfg, **{key: value for key, value in given.items() if value is not None})
    is_named = args.checkpoint is not None or any("load_from" in change for change in args.overrides)
    if args.eval_only and not is_named and not args.dry_run:
        _choose_weights(runner)
    elif args.checkpoint == "none":
        runner.load_from = None
    elif args.checkpoint is not None:
        runner.set_checkpoint(args.checkpoint, strict=args.eval_only)
    return runner


def _choose_weights(runner: Runner) -> None:
    """Evaluate the run's best checkpoint, else its latest, else what the config's ``load_from`` names.

    Raises:
        FileNotFoundError: When there are no weights at all.
        ValueError: When there are best checkpoints of several metrics.
    """
    for name in ("best", "latest"):
        with contextlib.suppress(FileNotFoundError):
            runner.set_checkpoint(name, strict=True)
            break
    if runner.load_from is None:
        raise UsageFileNotFoundError(
            f"there is no checkpoint in {runner.work_dir}, and an evaluation needs weights: name them with "
            "--checkpoint PATH, or the run with --work-dir; --checkpoint none is for those that the model is built with"
        )
    print(f"no --checkpoint: evaluating {runner.load_from.path}", file=sys.stderr)


def _report_to_launcher(function: Callable[..., int]) -> Callable[..., Any]:
    """Let torchrun, where it started this process, show an error of the function below the rank in its summary."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return function
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(function)


def run(runner: Runner, cfg: Any, args: Arguments) -> int:
    """Do what was asked for with a built runner."""
    from .. import dist

    if args.dry_run:
        right = "every target resolves, every required argument is set, every type fits; nothing was trained"
        print(fit(f"{format_tree(cfg)}\n\n{runner.describe(columns_of(sys.stdout))}\n\n{right}", sys.stdout))
        return 0
    if args.eval_only:
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            metrics = runner.test()
        if dist.is_main_process() and args.json:
            print(as_json(metrics))
        return 0
    runner.interrupt_saves = True
    runner.train()
    return 0


def default_experiment_name(config_path: str) -> str:
    """Name an experiment after its file.

    ``x/digits/config.py`` is ``digits``, ``x/digits/long.py`` ``digits_long``, and ``x/configs/long.py`` ``long``.
    """
    folder = os.path.basename(os.path.dirname(os.path.abspath(config_path)))
    stem = os.path.splitext(os.path.basename(config_path))[0]
    if folder == "configs":
        return stem
    return folder if stem == "config" else f"{folder}_{stem}"

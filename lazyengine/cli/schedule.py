"""The command line that draws a config's schedule: ``tools/show_schedule.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..config import ConfigError, Lazy, LazyCall, LazyConfig, instantiate
from ..config.node import arguments_of
from ..optim import SchedulerRecipes, build_param_schedulers
from .mistakes import refuse
from .show import add_config_argument, settle_config

_DESCRIPTION = """\
Draw the learning rate (and momentum) of every parameter group over the whole run, without training.

The model is built, since the groups are its parameters. The dataset is built only when the length of an epoch is needed
and --epoch-length does not give it.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog="exit codes: 0 drawn; 2 a mistake in the config or the command line.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_argument(parser)
    parser.add_argument("--output", metavar="PNG", help="also write the curves as a picture (needs matplotlib)")
    parser.add_argument(
        "--epoch-length", type=int, metavar="N", help="iterations in one epoch (no dataset is built then)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a mistake in the config or the command line.

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    settle_config(parser, args)
    try:
        cfg = LazyConfig.load(args.config)
        LazyConfig.apply_overrides(cfg, args.overrides)
        print(show(cfg, epoch_length=args.epoch_length, path=args.output))
    except Exception as error:
        return refuse(error)
    if args.output is not None:
        print(f"\nwritten: {args.output}")
    return 0


def show(cfg: Any, *, epoch_length: int | None = None, path: str | None = None) -> str:
    """Draw the schedule of a loaded config.

    Args:
        cfg: What `LazyConfig.load` returned; its ``runner`` has an ``optim_wrapper`` and a ``train_loop``.
        epoch_length: Iterations in one epoch; None to ask the train loop, which builds its dataset.
        path: Where to write a picture; None for none.

    Returns:
        The curves as text.

    Raises:
        ConfigError: The config has no runner, or the runner no optimizer or train loop.
    """
    given = arguments_of(cfg.runner) if hasattr(cfg, "runner") else {}
    missing = [name for name in ("optim_wrapper", "train_loop") if given.get(name) is None]
    if missing:
        raise ConfigError(
            f"the schedule needs a top-level `runner` with optim_wrapper and train_loop; missing: {', '.join(missing)}"
        )
    names = ("optim_wrapper", "train_loop", "param_schedulers")
    node = LazyCall(_draw)(epoch_length=epoch_length, path=path, **{k: given[k] for k in names if k in given})
    return instantiate(node)


def _draw(
    optim_wrapper: Any,
    train_loop: Lazy[Any],
    param_schedulers: SchedulerRecipes = None,
    epoch_length: int | None = None,
    path: str | None = None,
) -> str:
    from ..analysis.schedule import plot_schedule

    max_epochs, max_iters, epoch_length = _lengths(train_loop, epoch_length)
    schedulers = build_param_schedulers(
        param_schedulers, optim_wrapper, max_epochs=max_epochs, max_iters=max_iters, epoch_length=epoch_length
    )
    return plot_schedule(optim_wrapper, schedulers, max_iters=max_iters, epoch_length=epoch_length, path=path)


def _lengths(train_loop: Lazy[Any], epoch_length: int | None) -> tuple[int | None, int, int | None]:
    """Return the run's ``(max_epochs, max_iters, epoch_length)``, from what the config says where that is enough."""
    given = train_loop.arguments
    max_iters, max_epochs = given.get("max_iters"), given.get("max_epochs")
    if epoch_length is not None and isinstance(max_epochs, int):
        return max_epochs, max_epochs * epoch_length, epoch_length
    if epoch_length is not None and isinstance(max_iters, int):
        return None, max_iters, epoch_length
    loop = train_loop()
    return loop.max_epochs, loop.max_iters, loop.epoch_length

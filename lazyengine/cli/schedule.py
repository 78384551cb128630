"""Draw the learning rate (and momentum) of every parameter group over the whole run, without training.

The model is built, since the groups are its parameters. The dataset is built only when the length of an epoch is needed
and --epoch-length does not give it.

exit codes: 0 drawn; 2 a mistake in the config or the command line.
"""

from __future__ import annotations

from typing import Any

from ..analysis import ScheduleCurves, simulate_schedule
from ..config import ConfigError, Lazy, LazyCall, instantiate
from ..config.node import arguments_of
from ..optim import SchedulerRecipes, build_param_schedulers
from .command import Arguments, CommandParser, add_config, command, load_config


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument("--output", metavar="PNG", help="also write the curves as a picture (needs matplotlib)")
    parser.add_argument(
        "--epoch-length", type=int, metavar="N", help="iterations in one epoch (no dataset is built then)"
    )


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Draw the schedule."""
    curves = simulate(load_config(args.config, args.overrides), epoch_length=args.epoch_length)
    print(curves.as_text())
    if args.output is not None:
        curves.write(args.output)
        print(f"\nwritten: {args.output}")
    return 0


def simulate(cfg: Any, *, epoch_length: int | None = None) -> ScheduleCurves:
    """Return the schedule of a loaded config.

    Args:
        cfg: What `load_config` returned; its ``runner`` has an ``optim_wrapper`` and a ``train_loop``.
        epoch_length: Iterations in one epoch; None to ask the train loop, which builds its dataset.

    Raises:
        ConfigError: The runner has no optimizer or no train loop.
    """
    given = arguments_of(cfg.runner)
    missing = [name for name in ("optim_wrapper", "train_loop") if given.get(name) is None]
    if missing:
        raise ConfigError(
            f"the schedule needs a top-level `runner` with optim_wrapper and train_loop; missing: {', '.join(missing)}"
        )
    names = ("optim_wrapper", "train_loop", "param_schedulers")
    node = LazyCall(_simulate)(epoch_length=epoch_length, **{k: given[k] for k in names if k in given})
    return instantiate(node)


def _simulate(
    optim_wrapper: Any,
    train_loop: Lazy[Any],
    param_schedulers: SchedulerRecipes = None,
    epoch_length: int | None = None,
) -> ScheduleCurves:
    max_epochs, max_iters, epoch_length = _lengths(train_loop, epoch_length)
    schedulers = build_param_schedulers(
        param_schedulers, optim_wrapper, max_epochs=max_epochs, max_iters=max_iters, epoch_length=epoch_length
    )
    return simulate_schedule(optim_wrapper, schedulers, max_iters=max_iters, epoch_length=epoch_length)


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

"""Read one batch in several ways that must give the same (directly, after those before it, by two workers) and take one
step twice. What differs is no function of the position: such a run cannot be repeated or resumed to the bit.

exit codes: 0 nothing differed; 1 something did, it is named; 2 a mistake in the config or command line
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

from .command import Arguments, CommandParser, add_overrides, command, load_config


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", help="the experiment: a Python config file")
    parser.add_argument("--exact", action="store_true", required=True, help="compare bit for bit")
    parser.add_argument("--position", type=int, default=1, metavar="N", help="the batch to read (default: 1)")
    add_overrides(parser)


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Try whether an experiment is exact."""
    found = check_exact(lambda: load_config(args.config, args.overrides), args.position)
    print(*(found or ["nothing differed"]), sep="\n", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


def check_exact(load: Callable[[], Any], position: int = 1) -> list[str]:
    """Return what of an experiment is no function of the position; see `analysis.check_batches`.

    Args:
        load: Loads the config; called for each of the runs that are compared.
        position: The batch to read.
    """
    from ..analysis import check_batches, first_difference

    with tempfile.TemporaryDirectory() as folder:

        def make_runner() -> Any:
            from ..runner import Runner

            return Runner.from_cfg(load(), work_dir=folder)

        found = check_batches(lambda: make_runner().train_loop.dataloader, position=position)
        path = first_difference(_step(make_runner()), _step(make_runner()))
    return found if path is None else [*found, f"step{path} differs when the first step is taken again"]


def _step(runner: Any) -> Any:
    """Take one step from the weights of the constructors, and return what it logs and the weights after it."""
    from ..dataset import set_epoch
    from ..model import train_step
    from ..seeding import seed_everything

    loader, model, wrapper = runner.train_loop.dataloader, runner.model, runner.optim_wrapper
    set_epoch(loader, 0)
    batch = next(iter(loader))
    model.train()
    wrapper.initialize_count_status(model, 0, 1)
    seed_everything(0)
    outputs = train_step(model, batch, wrapper)
    return {"outputs": dict(outputs), "weights": dict(model.state_dict())}

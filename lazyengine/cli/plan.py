"""Say what an experiment costs before it runs: parameters, FLOPs, peak memory by kind and module, length, speed, time,
checkpoints; what it changes against another one, and what several ranks hold and send. The datasets are built and one
batch of each is read; nothing is written. FLOPs and memory are counted by tensors without values; the speed is that of
a few real steps on this machine's CPU, or that of a RUN.

examples:
  %(prog)s projects/digits/config.py model.width=64
  %(prog)s projects/digits/config.py model.width=64 --against projects/digits/config.py
  %(prog)s projects/digits/config.py --against work_dirs/digits     its speed, scaled by the FLOPs
  %(prog)s projects/shakespeare/gpu_config.py --ranks 8 --gpu H100

exit codes: 0 done; 2 a mistake in the config or the command line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from ..config import ConfigError
from .command import Arguments, CommandParser, add_config, as_json, command, config_in, load_config


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument("--against", metavar="BASE|RUN", help="a config, or a run folder, to compare with")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="what each of N ranks holds and sends")
    parser.add_argument("--gpu", metavar="NAME", help="an accelerator, such as H100: does it fit, how fast")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="real steps to measure (3); 0 for none")
    parser.add_argument("--depth", type=int, metavar="N", help="also print the modules, down to this depth")
    parser.add_argument("--summary", action="store_true", help=argparse.SUPPRESS)  # `lazyengine summary`


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Say what an experiment costs."""
    if args.ranks < 1 or args.steps < 0 or (args.depth or 0) < 0:
        given = f"--ranks {args.ranks} --steps {args.steps} --depth {args.depth or 0}"
        raise ConfigError(f"{given}: expected at least 1 rank, 0 steps and a depth of 0.")
    with tempfile.TemporaryDirectory(prefix="lazyengine-") as folder:
        return _answer(args, folder)


def maker_of(config: str, overrides: Sequence[str], folder: str) -> Callable[[], Any]:
    """Return what makes the runner of a config, or of the config that a run folder keeps, in another folder.

    Raises:
        ConfigError: The config has no runner.
    """
    cfg = load_config(config_in(config), overrides)

    def make() -> Any:
        from ..runner import Runner

        return Runner.from_cfg(cfg, work_dir=folder)

    return make


def _answer(args: Arguments, folder: str) -> str:
    from ..analysis import planning
    from ..analysis.cost import cost_of

    make = maker_of(args.config, args.overrides, folder)
    if args.summary:
        cost = cost_of(make)
        if args.json:
            return as_json(planning.modules_of(cost))
        depth = 2 if args.depth is None else args.depth
        return f"{planning.as_lines(planning.cost_rows(cost))}\n\n{planning.module_table(cost, depth)}"
    base = seconds = None
    if args.against is not None:
        base = cost_of(maker_of(args.against, (), folder))
        if os.path.isdir(args.against):
            seconds = seconds_of(args.against, base)
    plan = planning.Plan(make, args.steps if seconds is None else 0)
    if seconds is not None and base is not None:
        plan.seconds = seconds(plan.cost.total_flops)
    ranks = planning.on_ranks(plan, args.ranks, args.gpu)
    found = None if base is None else planning.compare(plan, base, str(args.against))
    if args.json:
        return as_json({**plan.as_json(), "ranks": ranks, "against": found})
    parts = [plan.as_text(args.depth)]
    parts += [planning.as_lines(ranks)] if ranks else []
    parts += [planning.comparison_text(plan, found)] if found else []
    return "\n\n".join(parts)


def seconds_of(folder: str, base: Any) -> Callable[[int], Any] | None:
    """Return what tells from a run how long an iteration with so many FLOPs takes; None where it recorded no times."""
    from ..analysis.cost import Seconds
    from ..runs import read_run

    curves = read_run(folder).curves
    times = {mode: curves.get(f"{mode}/time", ([], []))[1] for mode in ("train", "val")}
    if not times["train"]:
        return None
    step = statistics.median(times["train"])
    val = statistics.median(times["val"]) if times["val"] else None

    def scaled(flops: int) -> Any:
        ratio = flops / base.total_flops if base.total_flops else 1.0
        by = "" if ratio == 1.0 else f", times {ratio:.3g} for the FLOPs"
        source = f"{step:.4g} s an iteration in {folder}{by}"
        return Seconds(step * ratio, 0.0, None if val is None else val * ratio, source)

    return scaled

"""Trying an experiment before it is trained: a few batches of everything, or one batch over and over."""

from __future__ import annotations

import argparse
import operator
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ..config import ConfigError, arguments_of, is_node, set_argument
from ..text import listed
from .check import check_exact


def parse_limits(text: str) -> dict[str, int]:
    """Return the numbers of ``train=50,val=10``.

    Raises:
        argparse.ArgumentTypeError: It is something else.
    """
    limits: dict[str, int] = {}
    for part in text.split(","):
        mode, _, number = part.partition("=")
        if mode not in ("train", "val", "test") or not number.isdigit() or int(number) < 1:
            raise argparse.ArgumentTypeError(f"{part!r}: expected train=N, val=N or test=N with N of at least 1")
        limits[mode] = int(number)
    return limits


def limit_batches(cfg: Any, limits: Mapping[str, int], overfit: int | None) -> None:
    """Set the options ``limit`` and ``overfit`` of the loops in a config, so that the run records them.

    Raises:
        ConfigError: The runner has no such loop in its config, or the loop has no such option.
    """
    for mode, number in limits.items():
        set_argument(_loop(cfg, mode, f"--limit {mode}={number}"), "limit", number, source="cli:--limit")
    if overfit is not None:
        set_argument(_loop(cfg, "train", f"--overfit {overfit}"), "overfit", overfit, source="cli:--overfit")


def fast_dev_run(args: argparse.Namespace, load: Callable[..., Any], build: Callable[..., Any]) -> int:
    """Train, validate, save, resume and test, a few batches of each, in a temporary folder; return the exit code.

    What of a batch or a step is no function of the position is printed too, see `check_exact`.

    Args:
        args: The arguments of the command; ``args.fast_dev_run`` is the number of batches.
        load: Loads the config, see `train.load_experiment`.
        build: Builds the runner, see `train.build_runner`.

    Raises:
        ConfigError: The command line asks for something else besides, or the train loop cannot be shortened.
    """
    from .. import dist
    from ..checkpoint import find_latest_checkpoint

    number = args.fast_dev_run
    others = {"--resume": args.resume is not None, "--eval-only": args.eval_only, "--dry-run": args.dry_run}
    if number < 1 or any(others.values()):
        asked = [option for option, is_given in others.items() if is_given]
        raise ConfigError(
            f"--fast-dev-run {number}: expected a number of batches, at least 1"
            if number < 1
            else f"--fast-dev-run trains, resumes and tests by itself, so {listed(asked)} must be left out"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and args.work_dir is None:
        raise ConfigError("--fast-dev-run with several processes needs --work-dir: a folder that they share")
    with tempfile.TemporaryDirectory(prefix="lazyengine-") as folder:
        args.work_dir = args.work_dir or folder
        done = []
        for what in ("trained", "resumed"):
            cfg = load(args)
            _shorten(cfg, number)
            runner = build(cfg, args)
            if what == "trained":
                runner.register_hook(_half_way_hook(number))
            runner.train()
            done.append(what)
            args.checkpoint, args.work_dir = None, runner.work_dir
            args.resume = find_latest_checkpoint(args.work_dir)
            if args.resume is None:
                done.append("nothing was saved, since no hook saves, so nothing was resumed")
                break
        args.checkpoint, args.resume = args.resume, None
        if any(arguments_of(cfg.runner).get(f"{mode}_loop") is not None for mode in ("val", "test")):
            build(cfg, args).test()
            done.append("tested")
    if dist.get_world_size() == 1:
        _try_exactness(lambda: load(args), operator.length_hint(runner.train_dataloader, 2))
    if dist.is_main_process():
        print(f"fast-dev-run: {number} batches of each: {', '.join(done)}")
    return 0


def _half_way_hook(number: int) -> Any:
    """Return a hook that ends training after one epoch, or without epochs after so many iterations."""
    from ..hooks import Hook

    class HalfWayHook(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.max_epochs is None and batch_idx + 1 >= number:
                runner.train_loop.stop_training = True
                runner.train_loop.agree_to_stop()

        def after_train_epoch(self, runner: Any) -> None:
            runner.train_loop.stop_training = True

    return HalfWayHook()


def _try_exactness(load: Callable[[], Any], length: int) -> None:
    """Print what of an experiment whose epochs have `length` batches is not exact, or why that cannot be tried."""
    try:
        found = check_exact(load, position=min(1, length - 1))
    except Exception as error:  # it asks more of a loader than training does
        print(f"fast-dev-run: whether it is exact cannot be tried: {type(error).__name__}: {error}")
    else:
        exact = "fast-dev-run: exact: a batch and a step made twice are equal, bit for bit"
        print(*[f"fast-dev-run: not exact: {difference}" for difference in found] or [exact], sep="\n")


def _shorten(cfg: Any, number: int) -> None:
    """Let an experiment train twice `number` batches, each time with a validation of as many."""
    loop, source = _loop(cfg, "train", "--fast-dev-run"), "cli:--fast-dev-run"
    given = arguments_of(loop)
    if "max_epochs" in given:
        changes = {"max_epochs": 2, "limit": number, "val_interval": 1}
    elif "max_iters" in given:
        changes = {"max_iters": number * 2, "val_interval": number}
    else:
        raise ConfigError(f"--fast-dev-run: the train loop has neither max_epochs nor max_iters, but {listed(given)}")
    for name, value in changes.items():
        set_argument(loop, name, value, source=source)
    for mode in ("val", "test"):
        if is_node(evaluating := arguments_of(cfg.runner).get(f"{mode}_loop")):
            set_argument(evaluating, "limit", number, source=source)


def _loop(cfg: Any, mode: str, what: str) -> Any:
    loop = arguments_of(cfg.runner).get(f"{mode}_loop") if hasattr(cfg, "runner") else None
    if not is_node(loop):
        raise ConfigError(f"{what}: the config's runner has no {mode}_loop")
    return loop

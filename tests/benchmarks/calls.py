"""How many files and calls one ordinary training iteration passes.

``python -m tests.benchmarks.calls [--list]``: the digits with clipping, two schedulers and the default hooks, an
iteration without a log line. Counted are calls of Python functions of the package, and the files that they are in.
"""

from __future__ import annotations

import collections
import os
import sys
import tempfile
from types import FrameType
from typing import Any

import torch

import lazyengine
from lazyengine.config import LazyCall as L
from lazyengine.config import LazyConfig
from lazyengine.optim import CosineAnnealingLR, LinearLR
from lazyengine.runner import Runner, loops

PACKAGE = os.path.dirname(os.path.abspath(lazyengine.__file__)) + os.sep
ITERATION = 12


def count() -> collections.Counter[tuple[str, str]]:
    """Return how often each function of the package is called in one iteration, by file and name."""
    calls: collections.Counter[tuple[str, str]] = collections.Counter()
    run_iter = loops.BaseTrainLoop.run_iter

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls[frame.f_code.co_filename.removeprefix(PACKAGE), frame.f_code.co_qualname] += 1

    def profiled(loop: Any, runner: Any, *args: Any) -> None:
        if runner.iter == ITERATION:
            sys.setprofile(profile)
        try:
            run_iter(loop, runner, *args)
        finally:
            sys.setprofile(None)

    loops.BaseTrainLoop.run_iter = profiled  # type: ignore[method-assign]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cfg: Any = LazyConfig.load("projects/digits/config.py")
        cfg.runner.param_schedulers = [
            L(LinearLR)(start_factor=0.1, end=10, by_epoch=False),
            L(CosineAnnealingLR)(begin=10, by_epoch=False, T_max=20),
        ]
        cfg.train_loop.max_epochs = 1
        LazyConfig.apply_overrides(cfg, [f"+runner.work_dir={folder}", "+runner.device=cpu"])
        Runner.from_cfg(cfg).train()
    loops.BaseTrainLoop.run_iter = run_iter  # type: ignore[method-assign]
    return calls


if __name__ == "__main__":
    counted = count()
    if "--list" in sys.argv:
        for (file, name), number in sorted(counted.items()):
            print(f"{number:3}  {file}  {name}")
    print(f"{len({file for file, _ in counted})} files, {counted.total()} calls")

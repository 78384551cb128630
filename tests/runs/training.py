"""A start of a run, as a process that can be stopped or killed at an iteration."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import forks

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = "from tests.runs.training import main; main()"


def start(
    config: Path,
    run: Path,
    *args: str,
    cwd: Path | None = None,
    ranks: int = 1,
    code: int | None = 0,
    paths: str = "",
    program: str = PROGRAM,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Start a run in a process of its own, and compare its exit code.

    Args:
        config: The config file.
        run: The run folder.
        *args: Options of `main` and overrides.
        cwd: The folder to start in; None for that of the config.
        ranks: Number of processes.
        code: The exit code that is expected; None for any.
        paths: Further folders on the import path.
        program: What calls `main`.
        env: Further environment variables.
    """
    command = ["-c", textwrap.dedent(program)]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "--no-python"]
        command = [*launcher, sys.executable, *command]
    done = forks.run(
        [*command, str(config), str(run), *args],
        cwd=cwd or config.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{paths}", **(env or {})},
    )
    assert code in (None, done.returncode), done.stdout[-3000:] + done.stderr[-3000:]
    return done


def main() -> None:
    """Train as the arguments say."""
    from lazyengine.config import LazyConfig
    from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("run")
    parser.add_argument("--resume", nargs="?", const="auto")
    parser.add_argument("--kill", type=int, help="SIGKILL before this iteration")
    parser.add_argument("--stop", type=int, help="SIGTERM in this iteration")
    parser.add_argument("--threads", action="store_true", help="let torch have two threads")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args()
    if args.threads:
        import torch

        torch.set_num_threads(2)
    for loop in (EpochBasedTrainLoop, IterBasedTrainLoop):

        def run_iter(self, runner, batch_idx, data_batch, original=loop.run_iter):
            if self.position.iter == args.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.position.iter == args.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            original(self, runner, batch_idx, data_batch)

        loop.run_iter = run_iter
    cfg: Any = LazyConfig.load(args.config)
    LazyConfig.apply_overrides(cfg, args.overrides)
    cfg.runner.work_dir = args.run
    Runner.from_cfg(cfg, resume=args.resume or False).train()

"""A fault of one rank alone."""

from __future__ import annotations

import signal

from lazyengine import dist
from lazyengine.hooks import Hook


class FaultHook(Hook):
    """Fails or hangs before an iteration, on one rank."""

    def __init__(self, rank: int = 1, iteration: int = 3, kind: str = "error") -> None:
        self.rank, self.iteration, self.kind = rank, iteration, kind

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if dist.get_rank() == self.rank and runner.iter == self.iteration:
            if self.kind == "hang":
                signal.pause()  # until torchrun ends it
                raise SystemExit(1)
            raise ValueError(f"a broken sample at iteration {runner.iter}")

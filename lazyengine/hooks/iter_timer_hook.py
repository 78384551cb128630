"""Measures how long iterations take and how much of that is waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .hook import Hook, Runner


class IterTimerHook(Hook):
    """Record ``<mode>/data_time`` and ``<mode>/time`` in seconds, and the remaining time as ``eta`` (seconds).

    ``time`` runs from the end of one iteration to the end of the next, so it includes ``data_time``; evaluations in
    between are left out. On a GPU the host's clock is read without waiting for the device: single values jitter, the
    window's mean is right. The ETA is the mean time of this start's training iterations times the iterations left, or
    that of the last batch times the batches left of an evaluation.
    """

    def __init__(self) -> None:
        self._last_end = 0.0
        self._updaters: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {}

    def before_train(self, runner: Runner) -> None:
        """Remove the times of an earlier start: the machine may be another one."""
        self._train_seconds, self._num_train_iters = 0.0, 0

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        update = runner.message_hub.scalar_updater
        self._updaters[mode] = update(f"{mode}/time"), update(f"{mode}/data_time")
        self._last_end = time.perf_counter()

    @contextmanager
    def evaluation_context(self, runner: Runner) -> Iterator[None]:
        """Leave an evaluation out of the times and the ETA of what it interrupts."""
        begin, last_end, eta = time.perf_counter(), self._last_end, runner.message_hub.get_info("eta")
        try:
            yield
        finally:
            self._last_end = last_end + time.perf_counter() - begin
            runner.message_hub.update_info("eta", eta)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        self._updaters[mode][1](time.perf_counter() - self._last_end)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        now = time.perf_counter()
        duration, self._last_end = now - self._last_end, now
        self._updaters[mode][0](duration)
        if mode == "train":
            loop = runner.train_loop
            self._train_seconds += duration
            self._num_train_iters += 1
            eta = self._train_seconds / self._num_train_iters * (loop.max_iters - loop.position.iter)
        else:
            eta = duration * max((runner.num_batches(mode) or 0) - batch_idx - 1, 0)  # 0 where nobody knows
        runner.message_hub.update_info("eta", eta)

"""Measures how long iterations take and how much of that is waiting for data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class IterTimerHook(Hook):
    """Record ``<mode>/data_time`` and ``<mode>/time`` in seconds, and the remaining time as ``eta`` (seconds).

    ``time`` runs from the end of one iteration to the end of the next, so it includes ``data_time``. On a GPU the
    host's clock is read without waiting for the device: single values jitter, the window's mean is right. The ETA is
    the mean time of this start's training iterations times the iterations left.
    """

    priority = Priority.NORMAL

    def __init__(self) -> None:
        self._last_end = 0.0
        self._train_seconds = 0.0
        self._num_train_iters = 0

    def before_train(self, runner: Runner) -> None:
        """Forget the times of an earlier start: the machine may be another one."""
        self._train_seconds = 0.0
        self._num_train_iters = 0
        self._update_time = runner.message_hub.scalar_updater("train/time")
        self._update_data_time = runner.message_hub.scalar_updater("train/data_time")

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        self._last_end = time.perf_counter()

    def after_val(self, runner: Runner) -> None:
        """Leave the validation out of the next iteration's time."""
        self._last_end = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record how long the batch was waited for."""
        self._update_data_time(time.perf_counter() - self._last_end)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Record how long the iteration took, and what that means for the rest."""
        now = time.perf_counter()
        duration, self._last_end = now - self._last_end, now
        self._update_time(duration)
        self._train_seconds += duration
        self._num_train_iters += 1
        loop = runner.train_loop
        num_left = loop.max_iters - loop.num_iters_completed
        runner.message_hub.update_info("eta", self._train_seconds / self._num_train_iters * num_left)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        runner.message_hub.update_scalar(mode + "/data_time", time.perf_counter() - self._last_end)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        now = time.perf_counter()
        duration, self._last_end = now - self._last_end, now
        runner.message_hub.update_scalar(mode + "/time", duration)
        runner.message_hub.update_info("eta", duration * (runner.num_batches(mode) - batch_idx - 1))

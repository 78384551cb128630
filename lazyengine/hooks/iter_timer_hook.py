"""Measures how long iterations take and how much of that is waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .hook import Hook, Runner
from .phases import EVERY, SELDOM, PhaseTimer, spent_by_hooks


class IterTimerHook(Hook):
    """Record ``<mode>/data_time`` and ``<mode>/time`` in seconds, and the remaining time as ``eta`` (seconds).

    ``time`` runs from the end of one iteration to the end of the next, so it includes ``data_time``; evaluations in
    between are left out. On a GPU the host's clock is read without waiting for the device: single values jitter, the
    window's mean is right. The ETA is the mean time of this start's training iterations times the iterations left, or
    that of the last batch times the batches left of an evaluation.

    One training iteration of 17, later of 137, is timed by phase (data, forward, backward, optimizer step, hooks) and
    stands for the others; what hooks spend on logging and saving is known. The final table has the phases, and the
    samples, tokens and, where the peak of the device is known, the MFU of all iterations.

    Attributes:
        phase_interval: Of so many iterations one is timed by phase, in the beginning.
    """

    def __init__(self) -> None:
        self._last_end = 0.0
        self._updaters: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {}
        self.phase_interval = EVERY
        self._begin_counting()

    def _begin_counting(self) -> None:
        self._train_seconds, self._num_train_iters, self._phases = 0.0, 0, PhaseTimer()
        self._spent: dict[str, float] = {}
        self._interval = self.phase_interval
        self._between_s = 0.0  # what hooks have spent in no iteration's time
        self._spent_at_end: float | None = 0.0  # what they had spent when the last epoch ended; None inside one

    def before_train(self, runner: Runner) -> None:
        """Remove the times of an earlier start: the machine may be another one."""
        self._begin_counting()

    def _count_between(self, runner: Runner) -> None:
        if self._spent_at_end is not None:
            self._between_s += spent_by_hooks(runner) - self._spent_at_end
            self._spent_at_end = None

    def after_train_epoch(self, runner: Runner) -> None:
        """Note what hooks have spent in iterations, also where the epoch was cut short."""
        if self._spent_at_end is None:
            self._spent_at_end = spent_by_hooks(runner)

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        if mode == "train":
            self._count_between(runner)
        hub = runner.message_hub
        self._updaters[mode] = hub.scalar_updater(f"{mode}/time"), hub.scalar_updater(f"{mode}/data_time")
        hub.update_info("eta", hub.get_info("eta"))
        self._info = hub.runtime_info  # in which the key is now
        self._last_end = time.perf_counter()

    @contextmanager
    def evaluation_context(self, runner: Runner) -> Iterator[None]:
        """Leave an evaluation out of the times and the ETA of what it interrupts."""
        begin, last_end, eta = time.perf_counter(), self._last_end, runner.message_hub.get_info("eta")
        spent = spent_by_hooks(runner)
        try:
            yield
        finally:
            if self._spent_at_end is None:
                self._between_s += spent_by_hooks(runner) - spent
            seconds = time.perf_counter() - begin
            self._last_end = last_end + seconds
            self._phases.leave_out(seconds)
            runner.message_hub.update_info("eta", eta)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        now = time.perf_counter()
        self._updaters[mode][1](now - self._last_end)
        if mode == "train" and (place := self._num_train_iters % self._interval) < 2:
            self._phases.note_data(now)
            if place == 0:
                self._phases.begin(runner, data_batch, not self._num_train_iters, now)
                if self._interval == EVERY and self._num_train_iters >= SELDOM:
                    self._interval = SELDOM

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
            left = loop.max_iters - loop.position.iter
            eta = self._train_seconds / self._num_train_iters * left
            if not left or (loop.position.batch == loop.epoch_length and loop.max_epochs is not None):
                self._spent_at_end = spent_by_hooks(runner)  # no time of an iteration has what hooks spend from here on
        else:
            eta = duration * max((runner.num_batches(mode) or 0) - batch_idx - 1, 0)  # 0 where nobody knows
        self._info["eta"] = eta

    def after_train(self, runner: Runner) -> None:
        """Record the seconds of training by phase."""
        self._count_between(runner)
        self._spent = self.seconds_by_phase(runner)
        values = {f"phase/{name}_s": seconds for name, seconds in self._spent.items()}
        if self._phases.num_measured:
            runner.visualizer.add_scalars(values, step=runner.num_iters_completed, mode="train")

    def throughput(self, seconds: float) -> dict[str, float]:
        """Return samples and tokens a second, and the MFU, of iterations that take so long; of all ranks."""
        phases = self._phases
        counts = {"samples_per_s": phases.samples, "tokens_per_s": phases.tokens, "mfu": phases.mfu_seconds}
        return {name: count / seconds for name, count in counts.items() if count and seconds > 0}

    def summary(self) -> list[tuple[str, str]]:
        """Return rows of the final table: the speed, and where the time went."""
        if not self._num_train_iters:
            return []
        rate = self.throughput(self._train_seconds / self._num_train_iters)
        texts = {"samples_per_s": "{:,.0f} samples/s", "tokens_per_s": "{:,.0f} tokens/s", "mfu": "MFU {:.1%}"}
        rows = [("speed", ", ".join(texts[name].format(value) for name, value in rate.items()))] if rate else []
        total = sum(self._spent.values())
        if self._phases.num_measured and total > 0:
            parts = [f"{name} {seconds / total:.0%}" for name, seconds in self._spent.items()]
            rows += [("time by phase", ", ".join(parts[:4])), ("", ", ".join(parts[4:]))]  # lines of 100 columns
        return rows

    def close(self) -> None:
        """Stop measuring, also when the run failed."""
        self._phases.restore()

    def seconds_by_phase(self, runner: Runner) -> dict[str, float]:
        """Return the seconds of this start's training by phase."""
        exact: dict[str, float] = {}
        for hook in runner.hooks:
            for name, seconds in hook.spent_s.items():
                exact[name] = exact.get(name, 0.0) + seconds
        return self._phases.parts(self._train_seconds, exact, self._between_s)

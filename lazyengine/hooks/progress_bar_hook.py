"""A progress bar on the terminal."""

from __future__ import annotations

import datetime
import os
from contextlib import ExitStack
from typing import Any

from ..visualization import ProgressBar
from .hook import Hook, Priority, Runner
from .iter_timer_hook import IterTimerHook
from .logger_hook import LoggerHook


class ProgressBarHook(Hook):
    """Show loss, speed, ETA and memory beside a bar, where the output is a terminal and rich is installed.

    Loss and speed are those of the last log line, so that the bar never waits for the device. The memory is that of
    the device which the line has, or of the process. A validation and a test have a bar of their own, with the time
    that is left of it.

    Args:
        refreshes_per_s: How often the bar is drawn, at most.
    """

    priority = Priority.LOW

    def __init__(self, refreshes_per_s: float = 4.0) -> None:
        self._bar = ProgressBar(refreshes_per_s)

    def before_run(self, runner: Runner) -> None:
        """Begin to show bars; where there are none, training does not call this hook in each iteration."""
        if not self._bar.start():
            runner.hooks.skip(self, "after_train_iter")

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        """Begin the bar of an epoch or an evaluation, or of the whole run where there are no epochs."""
        if mode == "train" and runner.max_epochs is None:
            self._bar.begin(mode, runner.max_iters, mode, runner.iter)
        elif mode == "train":
            title = f"epoch {runner.epoch + 1}/{runner.max_epochs}"
            self._bar.begin(mode, runner.num_batches(mode), title, runner.train_loop.position.batch)
        else:
            self._bar.begin(mode, runner.num_batches(mode), "validation" if mode == "val" else mode)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        self._bar.advance(mode, lambda: _values(runner, mode))

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        self._bar.end(mode)

    def evaluation_context(self, runner: Runner) -> ExitStack:
        """Remove the bar of an evaluation, also when it fails."""
        afterwards = ExitStack()
        for mode in ("val", "test"):
            afterwards.callback(self._bar.end, mode)
        return afterwards

    def close(self) -> None:
        """Leave the terminal as it was, also when the run failed."""
        self._bar.stop()

    def must_follow(self, other: Hook) -> bool:
        """Return whether `other` has the values that are shown here."""
        return isinstance(other, LoggerHook | IterTimerHook)


def _values(runner: Runner, mode: str) -> dict[str, Any]:
    """Return what stands beside the bar."""
    hooks = runner.hooks if mode == "train" else ()
    last = next((hook.last_values for hook in hooks if isinstance(hook, LoggerHook)), {})
    logged = {name.removeprefix("train/"): value for name, value in last.items()}
    shown: dict[str, Any] = {"loss": logged["loss"]} if "loss" in logged else {}
    if logged.get("time"):
        shown["it/s"] = 1 / logged["time"]
    eta = runner.message_hub.get_info("eta")
    if eta is not None:
        shown["eta"] = datetime.timedelta(seconds=int(eta))
    memory = logged.get("memory") or _resident_mib()
    if mode == "train" and memory:
        shown["memory"] = f"{memory:,.0f} MiB"
    return shown


def _resident_mib() -> float:
    """Return the memory of this process in MiB; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0

"""A progress bar on the terminal."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from ..logging import ProgressBar
from .hook import Hook, Priority
from .iter_timer_hook import IterTimerHook
from .logger_hook import LoggerHook

if TYPE_CHECKING:
    from ..runner import Runner


class ProgressBarHook(Hook):
    """Show loss, learning rate and ETA beside a bar, where the output is a terminal and rich is installed.

    Loss and learning rate are those of the last log line, so that the bar never waits for the device. A validation
    and a test have a bar of their own, with the time that is left of it.

    Args:
        refreshes_per_s: How often the bar is drawn, at most.
    """

    priority = Priority.LOW

    def __init__(self, refreshes_per_s: float = 4.0) -> None:
        self._bar = ProgressBar(refreshes_per_s)

    def before_run(self, runner: Runner) -> None:
        """Take the terminal."""
        self._bar.start()

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin the bar of an epoch, or of the whole run where there are no epochs."""
        if runner.max_epochs is None:
            self._bar.begin("train", runner.max_iters, "train", runner.iter)
        else:
            title = f"epoch {runner.epoch + 1}/{runner.max_epochs}"
            self._bar.begin("train", runner.num_batches("train"), title, runner.train_loop.batch)

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin the bar of a validation."""
        self._bar.begin("val", runner.num_batches("val"), "validation")

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin the bar of a test."""
        self._bar.begin("test", runner.num_batches("test"), "test")

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if self._bar.enabled:
            self._bar.advance(mode, lambda: _values(runner, mode))

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        self._bar.end(mode)

    def close(self) -> None:
        """Give the terminal back, also when the run failed."""
        self._bar.stop()

    def must_follow(self, other: Hook) -> bool:
        """Whether `other` has the values that are shown here."""
        return isinstance(other, LoggerHook | IterTimerHook)


def _values(runner: Runner, mode: str) -> dict[str, Any]:
    """What stands beside the bar."""
    shown: dict[str, Any] = {}
    if mode == "train":
        logged = next((hook.last_values for hook in runner.hooks.values() if isinstance(hook, LoggerHook)), {})
        for name in ("loss", "lr"):
            value = logged.get(name, logged.get(f"train/{name}"))
            if value is not None:
                shown[name] = value
    eta = runner.message_hub.get_info("eta")
    if eta is not None:
        shown["eta"] = datetime.timedelta(seconds=int(eta))
    return shown

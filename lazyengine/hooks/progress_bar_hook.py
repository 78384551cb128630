"""A progress bar on the terminal."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from ..logging import ProgressBar
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class ProgressBarHook(Hook):
    """Show loss, learning rate and ETA beside a bar, where the output is a terminal and rich is installed.

    Values are those of the last log line, so that the bar never waits for the device.

    Args:
        refreshes_per_s: How often the bar is drawn.
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

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Advance."""
        if self._bar.enabled:
            self._bar.advance("train")
            values = getattr(runner.hooks.get("logger"), "last_values", {})
            eta = runner.message_hub.get_info("eta")
            if values and eta is not None and (runner.iter + 1) % 10 == 0:
                shown = {name: values[name] for name in ("loss", "lr") if name in values}
                self._bar.show("train", {**shown, "eta": datetime.timedelta(seconds=int(eta))})

    def after_train_epoch(self, runner: Runner) -> None:
        """End the bar of the epoch."""
        self._bar.end("train")

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin the bar of a validation."""
        self._bar.begin("val", runner.num_batches("val"), "val")

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance."""
        self._bar.advance("val")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """End the bar of a validation."""
        self._bar.end("val")

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin the bar of a test."""
        self._bar.begin("test", runner.num_batches("test"), "test")

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance."""
        self._bar.advance("test")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """End the bar of a test."""
        self._bar.end("test")

    def close(self) -> None:
        """Give the terminal back, also when the run failed."""
        self._bar.stop()

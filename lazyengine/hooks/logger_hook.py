"""Writes the log: terminal, file, curves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .hook import Hook, Priority
from .iter_timer_hook import IterTimerHook
from .runtime_info_hook import RuntimeInfoHook

if TYPE_CHECKING:
    from ..runner import Runner


class LoggerHook(Hook):
    """Write a line to the terminal and the log file, and the values to every backend of the visualizer.

    Curves of every mode are drawn over training iterations, so that they share an axis in every backend.

    Losses are on their device until a line is due; reading them here is the only time that training waits for the
    device. With several ranks they are the means over all ranks. At the end of the run a table sums it up.

    Args:
        interval: Training iterations between two lines (validation: batches). In an epoch-based loop, counted within
            the epoch.
        ignore_last: Whether to leave out the line of an epoch's last iterations when they are fewer than `interval`.
    """

    priority = Priority.BELOW_NORMAL

    def __init__(self, interval: int = 10, ignore_last: bool = True) -> None:
        if interval < 1:
            raise ValueError(f"interval={interval}: expected at least 1 iteration between two log lines")
        self.interval = interval
        self.ignore_last = ignore_last
        self.last_values: dict[str, Any] = {}
        self._started = 0.0
        self._last_metrics: dict[str, tuple[str, dict[str, Any]]] = {}

    def before_run(self, runner: Runner) -> None:
        """Start the clock of the summary."""
        self._started = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Write a training line when one is due."""
        by_epoch = runner.max_epochs is not None
        is_due = (batch_idx + 1 if by_epoch else runner.iter + 1) % self.interval == 0
        if not is_due and not (not self.ignore_last and by_epoch and batch_idx + 1 == runner.num_batches("train")):
            return
        runner.message_hub.average_over_ranks()
        tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        self.last_values = tag
        runner.logger.info(line)
        runner.visualizer.add_scalars(tag, step=runner.iter + 1, mode="train")

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write a progress line of the validation when one is due."""
        self._after_eval_iter(runner, batch_idx, "val")

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write a progress line of the test when one is due."""
        self._after_eval_iter(runner, batch_idx, "test")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the metrics of the validation."""
        self._after_eval_epoch(runner, "val", metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the metrics of the test."""
        self._after_eval_epoch(runner, "test", metrics)

    def after_run(self, runner: Runner) -> None:
        """Write the final table."""
        rows = [("run folder", runner.work_dir), ("time", _duration(time.perf_counter() - self._started))]
        if runner.iter:
            by_iter = runner.is_built("train_loop") and runner.max_epochs is None
            epochs = "" if by_iter else f"{runner.epoch} epochs, "
            rows.append(("trained", f"{epochs}{runner.iter} iterations"))
        for mode, (when, metrics) in self._last_metrics.items():
            rows.extend((f"{mode}/{name}{when}", _format(value)) for name, value in metrics.items())
        for hook in runner.hooks.values():
            rows.extend(getattr(hook, "summary", list)())
        width = max(len(name) for name, _ in rows)
        runner.logger.info("done\n%s", "\n".join(f"  {name.ljust(width)}  {value}" for name, value in rows))

    def must_follow(self, other: Hook) -> bool:
        """Whether `other` records what is written here."""
        return isinstance(other, RuntimeInfoHook | IterTimerHook)

    def describe_interval(self) -> str:
        """Say how often, for the timeline."""
        return f"every {self.interval} iterations"

    def _after_eval_iter(self, runner: Runner, batch_idx: int, mode: str) -> None:
        if self.every_n_inner_iters(batch_idx, self.interval):
            _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
            runner.logger.info(line)

    def _after_eval_epoch(self, runner: Runner, mode: str, metrics: dict[str, Any] | None) -> None:
        tag, line = runner.log_processor.get_log_after_epoch(runner, runner.num_batches(mode), mode)
        runner.logger.info(line)
        runner.visualizer.add_scalars(tag, step=runner.iter, mode=mode, epoch=runner.epoch)
        when = ""
        if runner.is_training:
            when = f" (iteration {runner.iter})" if runner.max_epochs is None else f" (epoch {runner.epoch})"
        self._last_metrics[mode] = (when, dict(metrics or {}))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _format(value: Any) -> str:
    try:
        return f"{float(value):.4f}"
    except (TypeError, ValueError):
        return str(value)

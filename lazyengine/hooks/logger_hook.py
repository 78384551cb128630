"""Writes the log: terminal, file, curves."""

from __future__ import annotations

import datetime
import time
from typing import Any

from ..errors import UsageValueError
from ..logging import as_number, print_log
from ..text import counted, table
from .hook import Hook, Priority, Runner
from .iter_timer_hook import IterTimerHook
from .runtime_info_hook import RuntimeInfoHook


class _Moment:
    """The runner, where it stands when this is made: a line may be written an iteration later."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.epoch, self.iter, self.num_iters_completed = runner.epoch, runner.iter, runner.num_iters_completed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


class LoggerHook(Hook):
    """Write a line to the terminal and the log file, and the values to every backend of the visualizer.

    Curves of every mode are drawn over the training iterations completed, so that they share an axis in every backend.

    Losses are on their device until a line is due; reading them here is the only time that training waits for the
    device. With several ranks they are the means over all ranks: sent beside the next iteration, after which the line
    of this one is written, with its own step. At the end of the run a table sums it up.

    Args:
        interval: Training iterations between two lines (validation: batches). In an epoch-based loop, counted within
            the epoch; an epoch of fewer iterations has a line at its end. Without epochs, a training that is over
            before the first line is due has one at its end.
        ignore_last: Whether to leave out the line of an epoch's last iterations when they are fewer than `interval`,
            in epochs that have had a line.

    Attributes:
        last_values: The values of the last training line.

    Raises:
        ValueError: When `interval` is less than 1.
    """

    priority = Priority.BELOW_NORMAL
    by_epoch = False  # what the interval counts

    def __init__(self, interval: int = 10, ignore_last: bool = True) -> None:
        if interval < 1:
            raise UsageValueError(f"interval={interval}: expected at least 1 iteration between two log lines")
        self.interval = interval
        self.ignore_last = ignore_last
        self.last_values: dict[str, Any] = {}
        self._last_metrics: dict[str, list[tuple[str, Any]]] = {}
        self._hub: Any = None
        self._num_batches: dict[str, int] = {}  # of evaluations by mode, whose loaders may have no length

    def before_run(self, runner: Runner) -> None:
        """Start the clock and the metrics of the summary."""
        self._started = time.perf_counter()
        self._last_metrics = {}

    def before_train(self, runner: Runner) -> None:
        """Begin without values of an earlier training, and warn when nothing records what is to be logged."""
        self.last_values = {}
        self._hub = runner.message_hub
        self._first_iter = runner.iter
        self.spent_s = {"logging": 0.0}
        self._epoch_length = None if runner.max_epochs is None else runner.train_loop.epoch_length
        end = runner.train_loop.max_iters if runner.max_epochs is None else self.interval
        self._end = end if end < self.interval else None  # where a training ends before a line is due
        recorded = {RuntimeInfoHook: "losses, learning rates and metrics", IterTimerHook: "times and the ETA"}
        for kind, what in recorded.items():
            if not any(isinstance(hook, kind) for hook in runner.hooks):
                runner.logger.warning("no %s among the hooks: %s are not in the log", kind.__name__, what)
                runner.message_hub.pop_info("eta")  # that of an earlier start

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write a training line when one is due, or was due an iteration ago and waited for the other ranks."""
        runner.message_hub.settle()
        done = batch_idx + 1
        is_last = done == self._epoch_length and (done < self.interval or not self.ignore_last)
        is_end = self._end is not None and runner.iter + 1 == self._end
        if is_last or is_end or done % self.interval == 0:
            self._log_training(runner, batch_idx)

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the line that waits for the other ranks."""
        runner.message_hub.settle()

    def before_val(self, runner: Runner) -> None:
        """Write the line that waits for the other ranks before those of the validation."""
        runner.message_hub.settle()

    def after_train(self, runner: Runner) -> None:
        """Write a line where there are no epochs and training ended before one was due."""
        is_short = runner.max_epochs is None and self._first_iter < runner.iter < self.interval
        if is_short and runner.iter != self._end:
            self._log_training(runner, runner.iter - 1)
        runner.message_hub.settle()

    def close(self) -> None:
        """Write the line that waits for the other ranks, also when the run failed; they may have failed too."""
        if self._hub is None:
            return
        try:
            self._hub.settle(timeout_s=5.0)
        except Exception as error:
            print_log(f"the last line is lost, which waited for the other ranks: {error}", logger="current")
        self._hub = None

    def _log_training(self, runner: Runner, batch_idx: int) -> None:
        begin, spent = time.perf_counter(), self.spent_s["logging"]
        moment: Any = _Moment(runner)
        runner.message_hub.start_average_over_ranks(lambda: self._write_line(moment, batch_idx))
        self.spent_s["logging"] = spent + time.perf_counter() - begin

    def _write_line(self, runner: Runner, batch_idx: int) -> None:
        begin = time.perf_counter()
        self.last_values, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        for name in ("time", "train/time"):
            if name in self.last_values:
                self.last_values |= self._throughput(runner, self.last_values[name])
        runner.logger.info(line)
        runner.visualizer.add_scalars(self.last_values, step=runner.num_iters_completed, mode="train")
        self.spent_s["logging"] += time.perf_counter() - begin

    def _throughput(self, runner: Runner, seconds: float) -> dict[str, float]:
        timers = (hook for hook in runner.hooks if isinstance(hook, IterTimerHook))
        return {name: value for timer in timers for name, value in timer.throughput(seconds).items()}

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        """Write a progress line of an evaluation when one is due."""
        self._num_batches[mode] = batch_idx + 1
        if self.every_n_inner_iters(batch_idx, self.interval):
            runner.logger.info(runner.log_processor.get_log_after_iter(runner, batch_idx, mode)[1])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the metrics of the validation."""
        self._log_evaluation(runner, "val", metrics or {})

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the metrics of the test."""
        self._log_evaluation(runner, "test", metrics or {})

    def _log_evaluation(self, runner: Runner, mode: str, metrics: dict[str, Any]) -> None:
        values, line = runner.log_processor.get_log_after_epoch(runner, self._num_batches.get(mode, 0), mode)
        runner.logger.info(line)
        runner.visualizer.add_scalars(values, step=runner.num_iters_completed, mode=mode, epoch=runner.epoch)
        when = f"epoch {runner.epoch}" if runner.max_epochs is not None else f"iteration {runner.num_iters_completed}"
        when = f" ({when})" if runner.is_built("train_loop") else ""
        numbers = {name: as_number(value) for name, value in metrics.items()}
        texts = {name: metrics[name] if number is None else f"{number:.4f}" for name, number in numbers.items()}
        self._last_metrics[mode] = [(f"{mode}/{name}{when}", text) for name, text in texts.items()]

    def after_run(self, runner: Runner) -> None:
        """Write the final table."""
        took = datetime.timedelta(seconds=round(time.perf_counter() - self._started))
        rows: list[tuple[str, Any]] = [("run folder", runner.work_dir), ("time", took)]
        if runner.iter:
            epochs = f"{counted(runner.epoch, 'epoch')}, " if runner.max_epochs is not None else ""
            rows.append(("trained", f"{epochs}{counted(runner.iter, 'iteration')}"))
        for metrics in self._last_metrics.values():
            rows.extend(metrics)
        for hook in runner.hooks:
            rows.extend(getattr(hook, "summary", list)())
        runner.logger.info("done\n%s", table(rows, indent="  "))

    def must_follow(self, other: Hook) -> bool:
        """Return whether `other` records what is written here."""
        return isinstance(other, RuntimeInfoHook | IterTimerHook)

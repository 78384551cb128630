"""Puts what a run is doing into the message hub: counters, learning rates, losses, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class RuntimeInfoHook(Hook):
    """Keep the message hub up to date, first of all hooks, so that the others read current values.

    Scalars: ``train/lr`` of the first parameter group, and ``train/lr.<k>`` of group `k` where it differs
    (``train/<name>.lr`` for several optimizers); ``train/<loss>`` for each value that ``train_step`` returned;
    ``val/<metric>`` and ``test/<metric>``. Losses are stored as they are: tensors stay on their device until somebody
    reads them. Runtime information: ``epoch``, ``iter``, ``max_epochs``, ``max_iters``,
    ``loop_stage``, ``dataset_meta``, ``experiment_name``, ``seed``.
    """

    priority = Priority.VERY_HIGH

    def __init__(self) -> None:
        self._stages: list[str | None] = []
        self._updaters: dict[str, Callable[..., None]] = {}

    def before_run(self, runner: Runner) -> None:
        """Record what identifies the run."""
        runner.message_hub.update_info_dict({"experiment_name": runner.experiment_name, "seed": runner.seed})

    def before_train(self, runner: Runner) -> None:
        """Record where the run stands and where it ends."""
        self._updaters.clear()
        self._enter(runner, "train")
        info = {"epoch": runner.epoch, "iter": runner.iter, "max_epochs": runner.max_epochs}
        info["max_iters"] = runner.max_iters
        meta = getattr(getattr(runner.train_dataloader, "dataset", None), "metainfo", None)
        if meta:
            info["dataset_meta"] = meta
        runner.message_hub.update_info_dict(info)

    def after_train(self, runner: Runner) -> None:
        """Leave the training stage."""
        self._leave(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Record the epoch."""
        runner.message_hub.update_info("epoch", runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record the iteration and the learning rate that it uses."""
        loop, info = runner.train_loop, runner.message_hub.runtime_info  # keys that before_train has entered
        info["iter"] = loop.iter
        info["epoch"] = loop.epoch  # a loop by iterations has one before_train_epoch only
        for name, values in runner.optim_wrapper.get_lr().items():
            self._record(runner, name, values[0])
            if len(values) > 1:
                for group, value in enumerate(values):
                    if value != values[0]:
                        self._record(runner, f"{name}.{group}", value)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Record the losses."""
        for name, value in (outputs or {}).items():
            self._record(runner, name, value)

    def _record(self, runner: Runner, name: str, value: Any) -> None:
        """Update a scalar of training; what does so is looked up once."""
        update = self._updaters.get(name)
        if update is None:
            update = self._updaters[name] = runner.message_hub.scalar_updater("train/" + name)
        update(value)

    def before_val(self, runner: Runner) -> None:
        """Enter the validation stage; training's comes back afterwards."""
        self._enter(runner, "val")

    def after_val(self, runner: Runner) -> None:
        """Leave the validation stage."""
        self._leave(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Record the metrics."""
        _record(runner, "val", metrics)

    def before_test(self, runner: Runner) -> None:
        """Enter the test stage."""
        self._enter(runner, "test")

    def after_test(self, runner: Runner) -> None:
        """Leave the test stage."""
        self._leave(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Record the metrics."""
        _record(runner, "test", metrics)

    def _enter(self, runner: Runner, stage: str) -> None:
        self._stages.append(runner.message_hub.get_info("loop_stage"))
        runner.message_hub.update_info("loop_stage", stage, resumed=False)

    def _leave(self, runner: Runner) -> None:
        outer = self._stages.pop() if self._stages else None
        runner.message_hub.update_info("loop_stage", outer, resumed=False)


def _record(runner: Runner, mode: str, metrics: dict[str, Any] | None) -> None:
    """Scalars become scalars; everything else is kept as runtime information."""
    for name, value in (metrics or {}).items():
        if isinstance(value, int | float) or getattr(value, "numel", lambda: 0)() == 1:
            runner.message_hub.update_scalar(f"{mode}/{name}", value)
        else:
            runner.message_hub.update_info(f"{mode}/{name}", value)

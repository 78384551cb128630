"""Puts what a run is doing into the message hub: counters, learning rates, losses, metrics."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch

from ..logging import as_number
from ..model import Weighted
from ..nesting import map_leaves
from ..text import short
from .hook import Hook, Priority, Runner


class RuntimeInfoHook(Hook):
    """Keep the message hub up to date, first of all hooks, so that the others read current values.

    Scalars: ``train/lr`` of the first parameter group, and ``train/lr.<k>`` of group `k` from when on it differs
    (``train/<name>.lr`` for several optimizers); ``train/<loss>`` for each value that ``train_step`` returned;
    ``val/<metric>`` and ``test/<metric>``. Losses are stored as they are: tensors stay on their device until somebody
    reads them. Runtime information: ``epoch``, ``iter``, ``max_epochs``, ``max_iters``,
    ``loop_stage``, ``dataset_meta``, ``experiment_name``, ``seed``; metrics that are no numbers.
    """

    priority = Priority.VERY_HIGH
    _copies = False  # outputs of a model, whose memory the next step uses again

    def before_run(self, runner: Runner) -> None:
        """Record what identifies the run."""
        runner.message_hub.update_info_dict({"experiment_name": runner.experiment_name, "seed": runner.seed})

    def before_train(self, runner: Runner) -> None:
        """Record where the run stands and where it ends."""
        hub = runner.message_hub
        self._copies = getattr(runner.model_setup.compile, "reuses_memory", False)
        self._info, self._scalars = hub.runtime_info, hub.log_scalars
        self._updater = functools.cache(lambda name: hub.scalar_updater(f"train/{name}"))
        _set_stage(runner, "train")
        hub.update_info_dict({name: getattr(runner, name) for name in ("epoch", "iter", "max_epochs", "max_iters")})
        meta = getattr(getattr(runner.train_dataloader, "dataset", None), "metainfo", None)
        if meta:
            hub.update_info("dataset_meta", meta)
            runner.visualizer.dataset_meta = meta

    def after_train(self, runner: Runner) -> None:
        """Leave the training stage."""
        _set_stage(runner, None)

    def before_train_epoch(self, runner: Runner) -> None:
        """Record the epoch."""
        runner.message_hub.update_info("epoch", runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record the iteration."""
        position = runner.train_loop.position
        self._info["iter"], self._info["epoch"] = position.iter, position.epoch  # before_train has entered the keys

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Record the losses, and the learning rates that the iteration has used; hooks may have set them before it.

        Raises:
            TypeError: What `train_step` returned is no dict of numbers and tensors with one element.
        """
        for name, values in runner.optim_wrapper.get_lr().items():
            for group, value in enumerate(values):
                key = f"{name}.{group}" if group else name
                if value is None:
                    continue  # the optimizer sets it itself, as Adafactor does
                if isinstance(value, torch.Tensor):
                    value = value.clone()  # schedules write to it; not compared, which would wait for a device
                elif group and value == values[0] and f"train/{key}" not in self._scalars:
                    continue  # once it has differed, it is recorded for ever
                self._updater(key)(value)
        name = ""
        try:
            for name, value in {} if outputs is None else outputs.items():
                if self._copies:
                    value = map_leaves(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, value)
                self._updater(name)(*(value if isinstance(value, Weighted) else (value,)))
        except (AttributeError, TypeError) as error:
            which = f", of which {name!r} cannot be logged" if name else ", and no dict of what to log"
            error.add_note(f"train_step returned {short(outputs)}{which}")
            raise

    def evaluation_context(self, runner: Runner) -> ExitStack:
        """Return to the stage from which the evaluation was called, also when it fails."""
        afterwards = ExitStack()
        afterwards.callback(_set_stage, runner, runner.message_hub.get_info("loop_stage"))
        return afterwards

    def before_val(self, runner: Runner) -> None:
        """Enter the validation stage."""
        _set_stage(runner, "val")

    def before_test(self, runner: Runner) -> None:
        """Enter the test stage."""
        _set_stage(runner, "test")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Record the metrics."""
        _record_metrics(runner, "val", metrics or {})

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Record the metrics."""
        _record_metrics(runner, "test", metrics or {})


def _set_stage(runner: Runner, stage: str | None) -> None:
    runner.message_hub.update_info("loop_stage", stage, resumed=False)


def _record_metrics(runner: Runner, mode: str, metrics: dict[str, Any]) -> None:
    """Record numbers as scalars; everything else is kept as runtime information."""
    for name, value in metrics.items():
        number = as_number(value)
        if number is None:
            runner.message_hub.update_info(f"{mode}/{name}", value)
        else:
            runner.message_hub.pop_info(f"{mode}/{name}")  # what an earlier evaluation may have found
            runner.message_hub.update_scalar(f"{mode}/{name}", number)

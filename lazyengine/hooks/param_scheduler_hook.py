"""Steps the parameter schedulers."""

from __future__ import annotations

from typing import Any

from .hook import Hook, Priority, Runner


class ParamSchedulerHook(Hook):
    """Step the schedulers that count iterations after each optimizer step, the others after each epoch.

    Counting optimizer steps keeps gradient accumulation from running a schedule ahead of the optimizer; a scheduler
    built with ``count_iters=True`` counts every iteration, as mmengine does. A scheduler that needs a metric
    (``ReduceOnPlateauLR``) counts the same way, and looks at the metrics after each validation. Those of several
    optimizers, given by their names, follow each its own.
    """

    priority = Priority.LOW
    steps_schedulers = True

    _sorted: Any = object()  # what the runner had when it was sorted

    def _sort(self, runner: Runner) -> None:
        """Sort the schedulers by what they count, once; again where the runner was given others."""
        if runner.param_schedulers is self._sorted:
            return
        self._sorted = runner.param_schedulers
        given: Any = self._sorted or []
        by_name: dict[str, Any] = given if isinstance(given, dict) else {"": given}
        chains = {name: list(c) if isinstance(c, list | tuple) else [c] for name, c in by_name.items()}
        wrappers = runner.optim_wrapper.named()
        self._by_iter = [(wrappers[name], [s for s in chain if not s.by_epoch]) for name, chain in chains.items()]
        schedulers = [scheduler for chain in chains.values() for scheduler in chain]
        self._by_epoch = tuple(s for s in schedulers if s.by_epoch)
        self._by_metric = tuple(s for s in schedulers if getattr(s, "need_val_args", False))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Step by iteration, when the optimizer has stepped."""
        if runner.param_schedulers is not self._sorted:
            self._sort(runner)
        self._step_by_iter(is_iter=True)

    def after_train(self, runner: Runner) -> None:
        """Follow the step with the gradients that were left, where training was stopped within an accumulation."""
        self._sort(runner)
        self._step_by_iter(is_iter=False)

    def _step_by_iter(self, is_iter: bool) -> None:
        for optim_wrapper, schedulers in self._by_iter:
            stepped = optim_wrapper.stepped
            for scheduler in schedulers:
                is_due = is_iter if scheduler.count_iters else stepped
                if is_due:
                    scheduler.step()

    def after_train_epoch(self, runner: Runner) -> None:
        """Step by epoch."""
        self._sort(runner)
        for scheduler in self._by_epoch:
            scheduler.step()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Step the schedulers that follow a metric; only in a validation inside training."""
        if runner.is_training:
            self._sort(runner)
            for scheduler in self._by_metric:
                scheduler.step(metrics)

"""Steps the parameter schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class ParamSchedulerHook(Hook):
    """Step the schedulers that count iterations after each optimizer step, the others after each epoch.

    Counting optimizer steps keeps gradient accumulation from running a schedule ahead of the optimizer; a scheduler
    built with ``count_iters=True`` counts every iteration, as mmengine does. A scheduler that needs a metric
    (``ReduceOnPlateauLR``) counts the same way, and looks at the metrics after each validation. Those of several
    optimizers, given by their names, follow each its own.
    """

    priority = Priority.LOW

    def before_train(self, runner: Runner) -> None:
        """Sort the schedulers by what they count, once."""
        schedulers = list(_flatten(runner.param_schedulers))
        given: Any = runner.param_schedulers
        optim_wrapper: Any = runner.optim_wrapper
        are_several = isinstance(given, dict) and isinstance(optim_wrapper, Mapping)
        chains: list[tuple[Any, Any]]
        if are_several:
            chains = [(optim_wrapper[name], list(_flatten(part))) for name, part in given.items()]
        else:
            chains = [(optim_wrapper, schedulers)]
        chains = [(wrapper, tuple(s for s in chain if not s.by_epoch)) for wrapper, chain in chains]
        self._by_iter = tuple((wrapper, chain) for wrapper, chain in chains if chain)
        # Of several optimizers, not every one need be called in every iteration.
        self._counts = [w.inner_count for w, _ in self._by_iter] if are_several else None
        self._by_epoch = tuple(s for s in schedulers if s.by_epoch)
        self._by_metric = tuple(s for s in schedulers if getattr(s, "need_val_args", False))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Step by iteration, when the optimizer has stepped."""
        for index, (optim_wrapper, schedulers) in enumerate(self._by_iter):
            stepped = optim_wrapper.at_step_boundary
            if self._counts is not None:
                former, self._counts[index] = self._counts[index], optim_wrapper.inner_count
                stepped = stepped and former != self._counts[index]
            for scheduler in schedulers:
                if stepped or scheduler.count_iters:
                    scheduler.step()

    def after_train_epoch(self, runner: Runner) -> None:
        """Step by epoch."""
        for scheduler in self._by_epoch:
            scheduler.step()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Step the schedulers that follow a metric; only in a validation inside training."""
        if runner.is_training:
            for scheduler in self._by_metric:
                scheduler.step(metrics)


def _flatten(schedulers: Any) -> Iterator[Any]:
    if isinstance(schedulers, dict):
        for part in schedulers.values():
            yield from _flatten(part)
    elif isinstance(schedulers, list | tuple):
        yield from schedulers
    elif schedulers is not None:
        yield schedulers

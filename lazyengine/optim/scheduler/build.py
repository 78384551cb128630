"""Build a run's schedulers from recipes, filling in what only the run knows."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...config import Lazy, instantiate
from ...errors import UsageTypeError, UsageValueError
from ...logging import print_log
from ...text import did_you_mean
from .base import INF, OptimizerLike, _ParamScheduler

SchedulerList: TypeAlias = list[_ParamScheduler]
_OneOrMore: TypeAlias = _ParamScheduler | Lazy[_ParamScheduler] | Sequence[_ParamScheduler | Lazy[_ParamScheduler]]
SchedulerRecipes: TypeAlias = _OneOrMore | Mapping[str, _OneOrMore] | None
"""The annotation of a parameter that takes what `build_param_schedulers` takes."""


def build_param_schedulers(
    recipes: Any,
    optim_wrapper: OptimizerLike,
    *,
    max_epochs: int | None,
    max_iters: int | None,
    epoch_length: int | None,
) -> SchedulerList | dict[str, SchedulerList]:
    """Build schedulers for one optimizer, or for each of several.

    What a recipe leaves open is filled in: ``optimizer``; ``end``, with the length of the run in the unit that the
    scheduler counts; ``epoch_length`` in that unit. Optimizer steps are iterations divided by the wrapper's
    ``accumulative_counts``.

    Args:
        recipes: `Lazy` recipes or built schedulers: one, a list, or a dict of lists by the names of the optimizers in
            an `OptimWrapperDict`. A list given with an `OptimWrapperDict` serves every optimizer. None means none.
        optim_wrapper: An `OptimWrapper`, a torch optimizer, or an `OptimWrapperDict`.
        max_epochs: Epochs of the run; None when the loop counts iterations.
        max_iters: Training iterations of the run.
        epoch_length: Iterations in one epoch; None when unknown.

    Returns:
        A list, or a dict of lists for several optimizers.

    Raises:
        UsageTypeError: Something is neither a recipe nor a scheduler, or builds something else.
        UsageValueError: A needed length is unknown, a built scheduler has another optimizer, or the names do not match.
    """
    run = _Run(max_epochs, max_iters, epoch_length)
    if not callable(getattr(optim_wrapper, "items", None)):
        if isinstance(recipes, Mapping):
            raise UsageValueError("param_schedulers is a dict, but there is one optimizer · give a list of schedulers")
        return run.build_chain(recipes, optim_wrapper)
    wrappers = dict(optim_wrapper.items())
    if not isinstance(recipes, Mapping):
        return {name: run.build_chain(recipes, wrapper, shared=True) for name, wrapper in wrappers.items()}
    for name in recipes:
        if name not in wrappers:
            hint = did_you_mean(name, wrappers)
            raise UsageValueError(f"param_schedulers has {name!r}, but the optimizers are {list(wrappers)}.{hint}")
    return {name: run.build_chain(recipes.get(name), wrapper) for name, wrapper in wrappers.items()}


@dataclass
class _Run:
    """The lengths of a run, and how a recipe gets them."""

    max_epochs: int | None
    max_iters: int | None
    epoch_length: int | None

    def build_chain(self, recipes: Any, optimizer: OptimizerLike, shared: bool = False) -> SchedulerList:
        """Build the schedulers of one optimizer; `shared` makes new ones although recipes build once."""
        if recipes is None:
            return []
        given = list(recipes) if isinstance(recipes, Sequence) and not isinstance(recipes, str) else [recipes]
        return [self._build(recipe, optimizer, shared) for recipe in given]

    def _build(self, recipe: Any, optimizer: OptimizerLike, shared: bool) -> _ParamScheduler:
        scheduler = recipe
        if not isinstance(recipe, _ParamScheduler):
            if hasattr(recipe, "step") and not isinstance(recipe, type):
                raise UsageTypeError(_refusal("param_schedulers", type(recipe)))
            if not hasattr(recipe, "arguments"):
                raise UsageTypeError(
                    f"param_schedulers: expected a recipe or a scheduler, got {recipe!r} · nodes are built with a "
                    "whole config, instantiate(L(Runner)(...)); by hand, give schedulers, as LinearLR(optimizer, ...)"
                )
            path = getattr(recipe, "path", "param_schedulers")
            try:
                filled = self._fill(recipe.target, recipe.arguments, optimizer)
                scheduler = _fresh(recipe, filled) if shared else recipe(**filled)
            except Exception as error:
                if "is not an Optimizer" in str(error):  # torch, of an OptimWrapper
                    raise UsageTypeError(_refusal(path, recipe.target)) from None
                error.add_note(f"while building the scheduler at {path}")
                raise
            if not isinstance(scheduler, _ParamScheduler):
                raise UsageTypeError(_refusal(path, recipe.target))
        if scheduler.optimizer not in (optimizer, getattr(optimizer, "optimizer", optimizer)):
            name = type(scheduler).__name__
            raise UsageValueError(f"{name} schedules an optimizer that is not this run's · leave its optimizer out")
        if scheduler is recipe and scheduler.by_epoch and self.max_epochs is None and not scheduler.need_val_args:
            raise self._refuse_epochs(type(scheduler))
        self._warn_if_cut_off(scheduler, optimizer)
        return scheduler

    def _warn_if_cut_off(self, scheduler: _ParamScheduler, optimizer: OptimizerLike) -> None:
        """Log which numbers of a curve lie beyond the end of the run."""
        steps_per_iter = 1.0 if getattr(scheduler, "count_iters", False) else 1.0 / accumulative_counts(optimizer)
        is_open = scheduler.need_val_args or not hasattr(scheduler, "begin")  # as a scheduler of torch
        end = None if is_open else self._end(scheduler, scheduler.by_epoch, False, steps_per_iter)
        if end is None or scheduler.begin >= end:
            return
        numbers = {name: getattr(scheduler, name) for name in ("end", *scheduler._epoch_arguments) if name != "periods"}
        late = {k: v for k, v in numbers.items() if v and end < (max(v) if isinstance(v, list) else v) < INF}
        if late:
            what = ", ".join(f"{name}={value}" for name, value in late.items())
            unit = "epochs" if scheduler.by_epoch else "steps"
            text = f"{type(scheduler).__name__} has not come to its end when the run ends after {end} {unit}: {what}"
            print_log(text, "current", logging.WARNING)

    def _fill(self, target: Any, given: Mapping[Any, Any], optimizer: OptimizerLike) -> dict[str, Any]:
        if fills_in := getattr(target, "fills_in", ()):
            if given.get("by") == "epoch" and self.max_epochs is None:
                raise UsageValueError(f"{target.__name__}: by='epoch', but the run counts iterations · use by='step'")
            return {name: optimizer for name in fills_in if name not in given}
        parameters = inspect.signature(target).parameters
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

        def value_of(name: str, otherwise: Any) -> Any:
            return given.get(name, parameters[name].default if name in parameters else otherwise)

        by_epoch, converts = value_of("by_epoch", True), value_of("convert_to_iter_based", False)
        steps_per_iter = 1.0 if value_of("count_iters", False) else 1.0 / accumulative_counts(optimizer)
        end, begin = self._end(target, by_epoch, converts, steps_per_iter), value_of("begin", 0)
        if end is not None and "end" not in given and begin >= end:  # a short run, to try something
            name = getattr(target, "__name__", target)
            print_log(f"{name} begins at {begin}, the run ends at {end}: it never acts", "current", logging.WARNING)
            end = begin + 2  # (a warm-up of one step would be warned about)
        length = self.epoch_length * steps_per_iter if converts and self.epoch_length is not None else None
        filled = {"optimizer": optimizer, "end": end, "epoch_length": length}
        accepted = [name for name in filled if name not in given and (open_ended or name in parameters)]
        return {name: filled[name] for name in accepted if filled[name] is not None}

    def _end(self, target: Any, by_epoch: bool, converts: bool, steps_per_iter: float) -> float | None:
        if not by_epoch:
            return None if self.max_iters is None else math.ceil(self.max_iters * steps_per_iter)
        if self.max_epochs is not None or getattr(target, "need_val_args", False):
            return self.max_epochs
        if converts and self.max_iters is not None and self.epoch_length:
            return self.max_iters / self.epoch_length
        raise self._refuse_epochs(target)

    def _refuse_epochs(self, target: Any) -> UsageValueError:
        what = f"{getattr(target, '__name__', target)} counts epochs (by_epoch=True), but the run counts iterations"
        advice = "use by_epoch=False, or convert_to_iter_based=True and an epoch_length"
        return UsageValueError(f"{what} (max_iters={self.max_iters}) · {advice}")


def _refusal(path: str, make: Any) -> str:
    name = getattr(make, "__name__", "...")
    return (
        f"{path}: {getattr(make, '__module__', '')}.{name} makes no scheduler of lazyengine.optim, and does not say "
        f"what it counts · write L(TorchScheduler)(make={name}, by='epoch', ...) or "
        f"L(TorchScheduler)(make={name}, by='step', ...), or use the class of that name in lazyengine.optim"
    )


def accumulative_counts(optimizer: OptimizerLike) -> int:
    """Return iterations per optimizer step (mmengine's wrapper, like ours, keeps them in a private attribute)."""
    return getattr(optimizer, "accumulative_counts", 1)


def _fresh(recipe: Any, filled: dict[str, Any]) -> Any:
    """Build a recipe once more: a recipe itself builds once, and here every optimizer gets a scheduler of its own."""
    if "optimizer" in recipe.arguments:
        raise UsageValueError("a recipe names one optimizer, but its list serves several · give a dict of lists")
    return recipe.target(**instantiate(dict(recipe.arguments)), **filled)

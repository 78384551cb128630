"""Build a run's schedulers from recipes, filling in what only the run knows."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from lazyengine.config import Lazy, instantiate
from lazyengine.logging import print_log

from .base import OptimizerLike, _ParamScheduler

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
        TypeError: Something is neither a recipe nor a scheduler, or builds something else.
        ValueError: A needed length is unknown, a built scheduler has another optimizer, or the names do not match.
    """
    run = _Run(max_epochs, max_iters, epoch_length)
    if not _is_many(optim_wrapper):
        if isinstance(recipes, Mapping):
            raise ValueError(
                f"param_schedulers is a dict ({list(recipes)}), but there is one optimizer · give a list of schedulers"
            )
        return [run.build(recipe, optim_wrapper) for recipe in _as_list(recipes)]
    wrappers = dict(optim_wrapper.items())
    if not isinstance(recipes, Mapping):
        return {
            name: [run.build(recipe, wrapper, shared=True) for recipe in _as_list(recipes)]
            for name, wrapper in wrappers.items()
        }
    for name in recipes:
        if name not in wrappers:
            near = get_close_matches(str(name), list(wrappers), n=1)
            hint = f" · did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"param_schedulers has {name!r}, but the optimizers are {list(wrappers)}{hint}")
    return {
        name: [run.build(recipe, wrapper) for recipe in _as_list(recipes.get(name))]
        for name, wrapper in wrappers.items()
    }


class _Run:
    """The lengths of a run, and how a recipe gets them."""

    def __init__(self, max_epochs: int | None, max_iters: int | None, epoch_length: int | None) -> None:
        self.max_epochs, self.max_iters, self.epoch_length = max_epochs, max_iters, epoch_length

    def build(self, recipe: Any, optimizer: OptimizerLike, shared: bool = False) -> _ParamScheduler:
        """Build one scheduler, or check one that was built; ``shared`` makes a new one although recipes build once."""
        if isinstance(recipe, _ParamScheduler):
            return _check_owner(recipe, optimizer)
        if not hasattr(recipe, "arguments"):
            raise TypeError(f"param_schedulers: expected a recipe or a scheduler, got {recipe!r}")
        path = getattr(recipe, "path", "param_schedulers")
        try:
            filled = self._fill(recipe.target, recipe.arguments, optimizer)
            if shared:
                scheduler = _fresh(recipe, filled)
            else:
                scheduler = recipe(**filled)
        except Exception as error:
            error.add_note(f"while building the scheduler at {path}")
            raise
        if not isinstance(scheduler, _ParamScheduler):
            raise TypeError(
                f"{path}: built a {type(scheduler).__module__}.{type(scheduler).__qualname__}, which is no scheduler "
                "of lazyengine.optim · use the class of that name there"
            )
        return _check_owner(scheduler, optimizer)

    def _fill(self, target: Any, given: Mapping[Any, Any], optimizer: OptimizerLike) -> dict[str, Any]:
        parameters = inspect.signature(target).parameters
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

        def value_of(name: str, otherwise: Any) -> Any:
            default = parameters[name].default if name in parameters else otherwise
            return given.get(name, default)

        by_epoch, converts = value_of("by_epoch", True), value_of("convert_to_iter_based", False)
        steps_per_iter = 1.0 if value_of("count_iters", False) else 1.0 / accumulative_counts(optimizer)
        filled: dict[str, Any] = {"optimizer": optimizer}
        end, begin = self._end(target, by_epoch, converts, steps_per_iter), value_of("begin", 0)
        if end is not None and "end" not in given and begin >= end:  # a short run, to try something
            name = getattr(target, "__name__", target)
            print_log(f"{name} begins at {begin}, the run ends at {end}: it never acts", "current", logging.WARNING)
            end = begin + 2  # (a warm-up of one step would be warned about)
        filled["end"] = end
        if converts:
            filled["epoch_length"] = None if self.epoch_length is None else self.epoch_length * steps_per_iter
        return {
            name: value
            for name, value in filled.items()
            if name not in given and value is not None and (open_ended or name in parameters)
        }

    def _end(self, target: Any, by_epoch: bool, converts: bool, steps_per_iter: float) -> float | None:
        if not by_epoch:
            return None if self.max_iters is None else math.ceil(self.max_iters * steps_per_iter)
        if self.max_epochs is not None or getattr(target, "need_val_args", False):
            return self.max_epochs
        if converts and self.max_iters is not None and self.epoch_length:
            return self.max_iters / self.epoch_length
        raise ValueError(
            f"{getattr(target, '__name__', target)} counts epochs (by_epoch=True), but the run counts iterations "
            f"(max_iters={self.max_iters}) · use by_epoch=False, or convert_to_iter_based=True and an epoch_length"
        )


def accumulative_counts(optimizer: OptimizerLike) -> int:
    """Return iterations per optimizer step (mmengine's wrapper, like ours, keeps them in a private attribute)."""
    return getattr(optimizer, "accumulative_counts", 1)


def _is_many(optimizer: OptimizerLike) -> bool:
    return callable(getattr(optimizer, "items", None))


def _as_list(recipes: Any) -> list[Any]:
    if recipes is None:
        return []
    if isinstance(recipes, Sequence) and not isinstance(recipes, str):
        return list(recipes)
    return [recipes]


def _fresh(recipe: Any, filled: dict[str, Any]) -> Any:
    """Build a recipe once more: a recipe itself builds once, and here every optimizer gets a scheduler of its own."""
    if "optimizer" in recipe.arguments:
        raise ValueError(
            "the recipe names one optimizer, but its list serves several · leave optimizer out, or give a dict of lists"
        )
    return recipe.target(**instantiate(dict(recipe.arguments)), **filled)


def _check_owner(scheduler: _ParamScheduler, optimizer: OptimizerLike) -> _ParamScheduler:
    if scheduler.optimizer is optimizer or scheduler.optimizer is getattr(optimizer, "optimizer", None):
        return scheduler
    raise ValueError(
        f"{type(scheduler).__name__} schedules an optimizer that is not this run's "
        f"({type(scheduler.optimizer).__name__}) · leave its optimizer out, or pass the run's own"
    )

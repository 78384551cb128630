"""Schedulers of torch and of libraries that build on torch's, such as transformers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch.optim.lr_scheduler import ReduceLROnPlateau

from ...errors import UsageTypeError
from ...logging import print_log
from ...text import listed
from .base import OptimizerLike, _ParamScheduler

_INCOMPARABLE = "not compared"
_MOVED = ("momentum", "betas")  # options beside the learning rate that schedulers of torch move


class TorchScheduler(_ParamScheduler):
    """A scheduler of torch or transformers, and the unit in which it counts.

    ``TorchScheduler(make=get_cosine_schedule_with_warmup, by="step", num_warmup_steps=100, num_training_steps=5000)``
    in a config is ``L(TorchScheduler)(make=...)``. It is stepped, saved and resumed as the engine's own: where its
    arguments were changed on a resume, it is built anew from the initial values and advanced to the position.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer; `build_param_schedulers` fills it in.
        make: A class of `torch.optim.lr_scheduler`, or a function, called as ``make(optimizer, **arguments)``.
        by: ``"epoch"`` steps it after each epoch, ``"step"`` after each step of the optimizer.
        **arguments: Its arguments. Functions without a name of their own (lambdas) cannot be compared on a resume: the
            saved schedule stays then, and one line says so.

    Attributes:
        scheduler: The scheduler itself.

    Raises:
        UsageValueError: ``by`` is another word, or a group has no learning rate to schedule.
        UsageTypeError: ``make`` returns something else, or a `ReduceLROnPlateau`, whose metric has no name.
    """

    fills_in = ("optimizer",)

    def __init__(
        self, optimizer: OptimizerLike, make: Callable[..., Any], *, by: Literal["epoch", "step"], **arguments: Any
    ) -> None:
        self._require(by in ("epoch", "step"), f"by must be 'epoch' or 'step', got {by!r}")
        self._make, self._arguments = make, arguments
        self._use_betas = False
        self.optimizer, self.param_name, self.by_epoch = optimizer, "lr", by == "epoch"
        self.count_iters = self.verbose = False
        self.make = _comparable(make)
        self.arguments = {name: _comparable(value) for name, value in arguments.items()}
        self._is_first = not any("initial_lr" in group for group in optimizer.param_groups)
        self.base_values = self._record_initial_values(resumed=False)
        self._start_values = self._current()
        self._start()

    def step(self) -> None:
        """Advance by one epoch or optimizer step."""
        self._global_step += 1
        with warnings.catch_warnings():  # of steps before the optimizer's, which a replay makes
            warnings.filterwarnings("ignore", r".*(optimizer.step|lr_scheduler.step|epoch parameter).*", UserWarning)
            self.scheduler.step()
        self._last_value = self._current()

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the arguments as far as they can be compared, and the scheduler's own state."""
        shape = {"class_name": type(self).__name__, **self._shape()}
        return {**shape, "_global_step": self._global_step, "scheduler": dict(self.scheduler.state_dict())}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the scheduler's own state, and so everything."""
        self._global_step = state_dict["_global_step"]
        self.scheduler.load_state_dict(dict(state_dict["scheduler"]))
        self._last_value = self._current()

    def load_position(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Load the state of a schedule that has not changed; return what has, as far as it can be compared."""
        unknown = [name for name, value in self.arguments.items() if _INCOMPARABLE in repr(value)]
        if unknown:
            what = f"TorchScheduler {self.make}: {listed(unknown)} cannot be compared with those of the checkpoint"
            print_log(f"{what}; the saved schedule stays", "current", logging.WARNING)
        self.load_state_dict(state_dict)
        return self.changes_from(state_dict)

    def _start(self) -> None:
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        for group in inner.param_groups if self._is_first else ():  # as torch has it: CyclicLR would begin from it
            group.pop("initial_lr", None)
        before = [dict(group) for group in inner.param_groups]
        scheduler = self._make(inner, **self._arguments)
        for group, options in zip(inner.param_groups, before):  # a momentum that it moves is not set by hand
            group.update({f"initial_{key}": group[key] for key in _MOVED if group.get(key) is not options.get(key)})
        self._record_initial_values(resumed=False)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UsageTypeError(
                "TorchScheduler: a ReduceLROnPlateau follows a metric that it has no name for; use ReduceOnPlateauLR "
                "of lazyengine.optim with monitor=..."
            )
        if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "state_dict"):
            raise UsageTypeError(f"TorchScheduler: make={self._make!r} returned a {type(scheduler).__name__}")
        self.scheduler = scheduler
        self.last_step = self._global_step = 0
        self._last_value = self._current()

    def _shape(self) -> dict[str, Any]:
        names = ("by_epoch", "make", "arguments", "base_values")
        return {name: getattr(self, name) for name in names}


def _comparable(value: Any) -> Any:
    """Return a value in plain types that say whether it is the same: of functions and classes the place and name."""
    if isinstance(value, Mapping):
        return {str(key): _comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    name = getattr(value, "__qualname__", "<")
    return _INCOMPARABLE if "<" in name else f"{value.__module__}.{name}"

"""The hook interface: the points of a run at which hooks are called, and the base class."""

from __future__ import annotations

import abc
import inspect
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UsageValueError

if TYPE_CHECKING:
    from ..runner import Runner
else:
    Runner = Any  # the name of the annotations of every hook; runner stands above hooks


class Priority(IntEnum):
    """When a hook runs among the hooks of one point: the smaller the number, the earlier. Names are mmengine's."""

    HIGHEST = 0
    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90
    LOWEST = 100


def get_priority(priority: int | str | Priority) -> int:
    """Return a priority as a number in ``[0, 100]``.

    Raises:
        ValueError: For a name that is not one of `Priority`, or a number outside of the range.
    """
    number = Priority.__members__.get(priority.upper(), -1) if isinstance(priority, str) else priority
    if not isinstance(number, int) or not 0 <= number <= 100:
        names = ", ".join(Priority.__members__)
        raise UsageValueError(f"hook priority {priority!r}: accepted are {names} or 0 to 100; smaller runs earlier")
    return int(number)


class _HookType(abc.ABCMeta):
    """Lets every hook be made with ``priority=...``, whatever its own constructor takes."""

    if not TYPE_CHECKING:  # an editor sees the constructor

        @property
        def __signature__(cls) -> inspect.Signature:
            parameters = cls._own_parameters()
            if "priority" not in parameters:
                kind, hint = inspect.Parameter.KEYWORD_ONLY, int | str | Priority
                parameters["priority"] = inspect.Parameter("priority", kind, default=cls.priority, annotation=hint)
            return inspect.Signature(sorted(parameters.values(), key=lambda parameter: parameter.kind))

        def _own_parameters(cls) -> dict[str, inspect.Parameter]:
            if cls.__init__ is object.__init__:
                return {}
            return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])

        def __call__(cls, *args: Any, **kwargs: Any) -> Hook:
            is_added = "priority" in kwargs and "priority" not in cls._own_parameters()
            priority = kwargs.pop("priority") if is_added else None
            hook = super().__call__(*args, **kwargs)
            if is_added:
                get_priority(priority)
                hook.priority = priority
            return hook


class Hook(metaclass=_HookType):
    """Base class of everything that happens beside the training step itself.

    A subclass overrides the points it needs. Only overridden points are ever called, so an empty method costs
    nothing. Hooks that must survive a restart return their state from `state_dict`; it is saved in every checkpoint
    under the hook's name.

    Attributes:
        priority: When this hook runs among the others of the same point, see `Priority`; of any hook it can be given
            with the other arguments, ``EMAHook(priority=49)``.
        steps_schedulers: Whether hooks of this class step the parameter schedulers, as `ParamSchedulerHook` does.
        evaluates: Whether hooks of this class validate by themselves, so that what follows a metric has one to follow.
        needs_validation: Whether this hook follows a metric that somebody has named, so that a run without any
            validation is a mistake.
        spent_s: Seconds that it has spent in this training on what it does seldom, by the name of the phase that the
            final table counts them to.
    """

    priority: int | str | Priority = Priority.NORMAL
    steps_schedulers: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    needs_validation: bool = False
    spent_s: dict[str, float] = {}  # noqa: RUF012 - nobody writes into this one

    def add_param_groups(self, runner: Runner) -> None:
        """Add groups of parameters to the optimizer; called once, before schedules are built and anything is loaded."""

    # The points, in the order in which a run passes them
    def before_run(self, runner: Runner) -> None:
        """Run once, when everything is built and loaded."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Run after a checkpoint was read and before its content is used; may change it in place."""

    def before_train(self, runner: Runner) -> None:
        """Run before the first training epoch or iteration of this start."""

    def before_train_epoch(self, runner: Runner) -> None:
        """Run before each training epoch."""
        self._before_epoch(runner, mode="train")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each training iteration; `batch_idx` counts within the epoch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run after each training iteration; `outputs` is what `train_step` returned."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train")

    def after_train_epoch(self, runner: Runner) -> None:
        """Run after each training epoch."""
        self._after_epoch(runner, mode="train")

    def before_val(self, runner: Runner) -> None:
        """Run before each validation."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Run before each pass over a validation loader."""
        self._before_epoch(runner, mode="val")

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each validation batch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run after each validation batch; `outputs` is what `val_step` returned."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Run after each pass over a validation loader, with its metrics."""
        self._after_epoch(runner, mode="val")

    def after_val(self, runner: Runner) -> None:
        """Run after each validation."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Run before a checkpoint is written; may change it in place."""

    def after_train(self, runner: Runner) -> None:
        """Run after the last training epoch or iteration."""

    def before_test(self, runner: Runner) -> None:
        """Run before a test."""

    def before_test_epoch(self, runner: Runner) -> None:
        """Run before each pass over a test loader."""
        self._before_epoch(runner, mode="test")

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each test batch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run after each test batch; `outputs` is what `test_step` returned."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Run after each pass over a test loader, with its metrics."""
        self._after_epoch(runner, mode="test")

    def after_test(self, runner: Runner) -> None:
        """Run after a test."""

    def after_run(self, runner: Runner) -> None:
        """Run once, at the very end. Not called when the run failed."""

    # The generic forms: what the three modes have in common.
    def _before_epoch(self, runner: Runner, mode: str = "train") -> None: ...

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None: ...

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None: ...

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None: ...

    def evaluation_context(self, runner: Runner) -> AbstractContextManager[Any]:
        """Return what surrounds a whole validation or test, hooks included: averaged weights, for example."""
        return nullcontext()

    def close(self) -> None:
        """Release what the hook holds. Called last, also when the run failed; must not raise."""

    # Intervals
    def every_n_epochs(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Whether the epoch that just ended is the `n`-th, `2n`-th, … after `start` epochs; never for ``n <= 0``."""
        done = runner.epoch + 1 - start
        return n > 0 and done > 0 and done % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether the iteration that just ended is the `n`-th, `2n`-th, … of its epoch."""
        return n > 0 and (batch_idx + 1) % n == 0

    def every_n_train_iters(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Whether the iteration that just ended is the `n`-th, `2n`-th, … of the run after `start` iterations."""
        done = runner.iter + 1 - start
        return n > 0 and done > 0 and done % n == 0

    def end_of_epoch(self, dataloader: Any, batch_idx: int) -> bool:
        """Whether `batch_idx` is the last one of `dataloader`."""
        return batch_idx + 1 == len(dataloader)

    def is_last_train_epoch(self, runner: Runner) -> bool:
        """Whether the current epoch is the last one of the run."""
        return runner.max_epochs is not None and runner.epoch + 1 == runner.max_epochs

    def is_last_train_iter(self, runner: Runner) -> bool:
        """Whether the current iteration is the last one of the run."""
        return runner.max_iters is not None and runner.iter + 1 == runner.max_iters

    # How hooks get along
    def must_follow(self, other: Hook) -> bool:
        """Whether this hook needs what `other` does at a point of both. The wrong order is reported at the start."""
        return False

    def describe_interval(self) -> str:
        """Return when this hook acts, for the timeline; here from the attributes ``interval`` and ``by_epoch``."""
        interval = getattr(self, "interval", None)
        if not isinstance(interval, int):
            return ""
        unit = {True: "epoch", False: "iteration", None: "time"}[getattr(self, "by_epoch", None)]
        return "never" if interval <= 0 else f"every {unit}" if interval == 1 else f"every {interval} {unit}s"

    # State
    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart, in plain types; an empty dict saves nothing.

        With several ranks the main process saves its own, and all take it back: gather first what differs.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


# Every hook point, in the order in which a run passes them.
HOOK_POINTS = tuple(name for name in vars(Hook) if name.startswith(("before_", "after_")))

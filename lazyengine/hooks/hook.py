"""The hook interface: the points of a run at which hooks are called, and the base class."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runner import Runner

# Every hook point, in the order in which a run passes them. The ones with a mode have a generic form that covers
# train, val and test alike: `_before_epoch`, `_before_iter`, `_after_iter`, `_after_epoch`.
HOOK_POINTS = (
    "before_run",
    "after_load_checkpoint",
    "before_train",
    "before_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "after_train_epoch",
    "before_val",
    "before_val_epoch",
    "before_val_iter",
    "after_val_iter",
    "after_val_epoch",
    "after_val",
    "before_save_checkpoint",
    "after_train",
    "before_test",
    "before_test_epoch",
    "before_test_iter",
    "after_test_iter",
    "after_test_epoch",
    "after_test",
    "after_run",
)


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
    if isinstance(priority, str):
        try:
            return int(Priority[priority.upper()])
        except KeyError:
            raise ValueError(
                f"unknown hook priority {priority!r}; accepted are {', '.join(Priority.__members__)} or 0 to 100"
            ) from None
    if not 0 <= priority <= 100:
        raise ValueError(f"hook priority {priority} is outside of 0 to 100; smaller runs earlier")
    return int(priority)


class Hook:
    """Base class of everything that happens beside the training step itself.

    A subclass overrides the points it needs. Only overridden points are ever called, so an empty method costs
    nothing. Hooks that must survive a restart return their state from `state_dict`; it is saved in every checkpoint
    under the hook's name.

    Attributes:
        priority: When this hook runs among the others of the same point, see `Priority`.
    """

    priority: int | str | Priority = Priority.NORMAL

    def before_run(self, runner: Runner) -> None:
        """Run once, when everything is built and loaded."""

    def after_run(self, runner: Runner) -> None:
        """Run once, at the very end. Not called when the run failed."""

    def before_train(self, runner: Runner) -> None:
        """Run before the first training epoch or iteration of this start."""

    def after_train(self, runner: Runner) -> None:
        """Run after the last training epoch or iteration."""

    def before_val(self, runner: Runner) -> None:
        """Run before each validation."""

    def after_val(self, runner: Runner) -> None:
        """Run after each validation."""

    def before_test(self, runner: Runner) -> None:
        """Run before a test."""

    def after_test(self, runner: Runner) -> None:
        """Run after a test."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Run before a checkpoint is written; may change it in place."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Run after a checkpoint was read and before its content is used; may change it in place."""

    def before_train_epoch(self, runner: Runner) -> None:
        """Run before each training epoch."""
        self._before_epoch(runner, mode="train")

    def before_val_epoch(self, runner: Runner) -> None:
        """Run before each pass over a validation loader."""
        self._before_epoch(runner, mode="val")

    def before_test_epoch(self, runner: Runner) -> None:
        """Run before each pass over a test loader."""
        self._before_epoch(runner, mode="test")

    def after_train_epoch(self, runner: Runner) -> None:
        """Run after each training epoch."""
        self._after_epoch(runner, mode="train")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Run after each pass over a validation loader, with its metrics."""
        self._after_epoch(runner, mode="val")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Run after each pass over a test loader, with its metrics."""
        self._after_epoch(runner, mode="test")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each training iteration; `batch_idx` counts within the epoch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each validation batch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each test batch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Run after each training iteration; `outputs` is what `train_step` returned."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train")

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run after each validation batch; `outputs` is what `val_step` returned."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val")

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run after each test batch; `outputs` is what `test_step` returned."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test")

    # The generic forms: what the three modes have in common.
    def _before_epoch(self, runner: Runner, mode: str = "train") -> None: ...

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None: ...

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None: ...

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None: ...

    def close(self) -> None:
        """Let go of what the hook holds. Called last, also when the run failed; must not raise."""

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
        """Say when this hook acts, for the timeline; here from the attributes ``interval`` and ``by_epoch``."""
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
        """Take back what `state_dict` returned."""

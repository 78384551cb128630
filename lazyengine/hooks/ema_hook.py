"""Keeps averaged weights beside the model, evaluates with them and saves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..model import BaseAveragedModel, ExponentialMovingAverage
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class EMAHook(Hook):
    """Average the weights after each optimizer step; validate, test and publish with the average.

    During an evaluation the averaged weights are exchanged into the model, so nothing else needs to know. In a
    checkpoint ``state_dict`` holds the averaged weights, so that a plain load gets what was evaluated, and
    ``ema_state_dict`` the weights that training goes on with.

    Args:
        ema_type: Class of the average: `ExponentialMovingAverage`, `StochasticWeightAverage`,
            `MomentumAnnealingEMA` or another `BaseAveragedModel`.
        strict_load: Whether a checkpoint without averaged weights, or with other keys, is an error on resume.
        begin_iter: Number of the iteration, counted from 1, with which averaging begins; until then, and in that
            iteration, the average is a copy.
        begin_epoch: The same in epochs; give only one of the two.
        **kwargs: Arguments of `ema_type`, such as ``momentum``, ``interval``, ``update_buffers``.

    Raises:
        ValueError: When both beginnings are given, or one is negative.
    """

    priority = Priority.NORMAL

    def __init__(
        self,
        ema_type: Callable[..., BaseAveragedModel] = ExponentialMovingAverage,
        strict_load: bool = True,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        if begin_iter < 0 or begin_epoch < 0 or (begin_iter and begin_epoch):
            raise ValueError(
                f"begin_iter={begin_iter}, begin_epoch={begin_epoch}: expected one of them, and not a negative number"
            )
        self.ema_type = ema_type
        self.strict_load = strict_load
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        self.kwargs = kwargs
        self.ema_model: BaseAveragedModel | None = None
        self._resumed: dict[str, Any] | None = None
        self._num_updates = 0
        self._num_steps = 0  # of several optimizers together
        self._is_swapped = False

    def before_train(self, runner: Runner) -> None:
        """Make the average: a copy of the model, or what a checkpoint held."""
        self._num_steps = runner.optim_wrapper.num_optimizer_steps
        if self.ema_model is None:
            self.ema_model = self.ema_type(runner.model, **self.kwargs)
        if self._resumed is not None:
            from ..checkpoint import load_state_dict

            load_state_dict(self.ema_model.module, self._resumed, strict=self.strict_load, logger=runner.logger)
            self.ema_model.steps = self._num_updates
            self._resumed = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Update the average when the optimizer has stepped."""
        if self.ema_model is None or not self._has_stepped(runner):
            return
        if runner.iter + 1 >= self.begin_iter and runner.epoch + 1 >= self.begin_epoch:
            self.ema_model.update_parameters(runner.model)
        else:
            self.ema_model.steps = 0
            self.ema_model.update_parameters(runner.model)
            self.ema_model.steps = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Exchange the averaged weights into the model."""
        self._swap(runner, into_model=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Exchange them back."""
        self._swap(runner, into_model=False)

    def before_test_epoch(self, runner: Runner) -> None:
        """Exchange the averaged weights into the model."""
        self._swap(runner, into_model=True)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Exchange them back."""
        self._swap(runner, into_model=False)

    def describe_interval(self) -> str:
        """Say from when on, for the timeline."""
        begin = f", from epoch {self.begin_epoch}" if self.begin_epoch > 1 else ""
        return f"each optimizer step{begin or (f', from iteration {self.begin_iter}' if self.begin_iter > 1 else '')}"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the averaged weights first, and the source beside them."""
        if self.ema_model is None:
            return
        from ..checkpoint import get_state_dict

        source, averaged = checkpoint["state_dict"], get_state_dict(self.ema_model.module)
        if self._is_swapped:
            source, averaged = averaged, source
        checkpoint["state_dict"], checkpoint["ema_state_dict"] = averaged, source
        checkpoint["ema_steps"] = self.ema_model.steps

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, give the model its own weights back and keep the averaged ones.

        Raises:
            KeyError: With `strict_load`, when the checkpoint has no averaged weights.
        """
        if "ema_state_dict" not in checkpoint:
            if self.strict_load:
                raise KeyError(
                    "the checkpoint was saved without EMAHook: it has no ema_state_dict. Set strict_load=False to "
                    "begin averaging here"
                )
            runner.logger.warning("the checkpoint has no averaged weights: averaging begins here")
            return
        self._resumed = checkpoint["state_dict"]
        self._num_updates = int(checkpoint["ema_steps"])
        checkpoint["state_dict"] = checkpoint.pop("ema_state_dict")

    def _has_stepped(self, runner: Runner) -> bool:
        """Whether the optimizer has, in this iteration; of several, which need never step together, one of them."""
        if not isinstance(runner.optim_wrapper, Mapping):
            return runner.optim_wrapper.at_step_boundary
        before, self._num_steps = self._num_steps, runner.optim_wrapper.num_optimizer_steps
        return self._num_steps != before

    def _swap(self, runner: Runner, *, into_model: bool) -> None:
        if self.ema_model is not None and self._is_swapped != into_model:
            self.ema_model.swap(runner.model)
            self._is_swapped = into_model

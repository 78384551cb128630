"""Keeps averaged weights beside the model, evaluates with them and saves them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from .. import dist
from .._torch import batch_norms
from ..checkpoint import get_state_dict, load_state_dict
from ..dataset import OwnGenerators, find_generators
from ..errors import UsageKeyError, UsageValueError
from ..model import BaseAveragedModel, ExponentialMovingAverage, evaluating, val_step
from ..optim import autocast_for
from .hook import Hook, Runner


class EMAHook(Hook):
    """Average the weights after each optimizer step; validate, test and publish with the average.

    During a whole evaluation, hooks included, the averaged weights are exchanged into the model, so nothing else needs
    to know. In a checkpoint ``state_dict`` holds the averaged weights, so that a plain load gets what was evaluated,
    and ``ema_state_dict`` the weights that training goes on with (of float16 and bfloat16 weights ``ema_wide`` holds
    the average in float32). What is not averaged is the model's own in both. A loop of your own enters
    ``with hook.evaluation_context(runner)`` around an evaluation.

    **Statistics.** Batch norm layers have statistics of the weights that were trained, not of their average. With
    `update_bn` they are computed for the average by a pass over the train loader without gradients (layers that move
    their statistics in training alone, all else as in an evaluation; several ranks take the mean): at the end of
    each epoch, and in a loop that counts iterations after the last one, so that what is validated and saved from
    there on has them. A validation or save in mid-pass has the model's own. Streams of randomness, and training, are as
    they would be without it.

    Args:
        ema_type: Class of the average: `ExponentialMovingAverage`, `StochasticWeightAverage`,
            `MomentumAnnealingEMA` or another `BaseAveragedModel`.
        strict_load: Whether a checkpoint without averaged weights, or with other keys, is an error on resume.
        begin_iter: Number of the iteration, counted from 1, with which averaging begins; until then, and in that
            iteration, the average is a copy.
        begin_epoch: The same in epochs; give only one of the two.
        update_bn: Whether to compute the statistics of batch norm layers anew for the average; a number is the number
            of batches to do it with.
        count_iters: Whether every iteration is an update, as in mmengine, also where gradients are accumulated.
        update_buffers: Whether buffers are averaged too, instead of being the model's own; passed to `ema_type`.
        **kwargs: Its other arguments, such as ``momentum`` and ``interval``.

    Raises:
        ValueError: When both beginnings are given, or one is negative; `update_bn` together with ``update_buffers``.
    """

    def __init__(
        self,
        ema_type: Callable[..., BaseAveragedModel] = ExponentialMovingAverage,
        strict_load: bool = True,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        update_bn: bool | int = False,
        *,
        count_iters: bool = False,
        update_buffers: bool = False,
        **kwargs: Any,
    ) -> None:
        if begin_iter < 0 or begin_epoch < 0 or (begin_iter and begin_epoch):
            raise UsageValueError(
                f"begin_iter={begin_iter}, begin_epoch={begin_epoch}: expected one of them, and not a negative number"
            )
        if update_bn < 0:
            raise UsageValueError(f"update_bn={update_bn}: expected True, False or a number of batches")
        if update_bn and update_buffers:
            raise UsageValueError(
                f"update_bn={update_bn}, update_buffers=True: the first computes the statistics that the second "
                "averages; give one of them"
            )
        self.ema_type = ema_type
        self.strict_load = strict_load
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        self.update_bn = update_bn
        self.count_iters = count_iters
        self.kwargs = {"update_buffers": update_buffers, **kwargs}
        self.ema_model: BaseAveragedModel | None = None
        self._resumed: dict[str, Any] = {}
        self._is_swapped = False

    def before_train(self, runner: Runner) -> None:
        """Make the average: a copy of the model, or what a checkpoint held.

        Raises:
            ValueError: With `update_bn`, when the train loader cannot be passed over once more.
        """
        dataset = getattr(runner.train_dataloader, "dataset", None)
        is_endless = self.update_bn is True and runner.train_loop.epoch_length is None
        if self.update_bn and (is_endless or isinstance(dataset, IterableDataset)):
            raise UsageValueError(
                f"update_bn={self.update_bn} passes over the train loader once more, and {type(dataset).__name__} is a "
                "stream, whose position would move, or has no end; use a map-style dataset, and a number of batches "
                "where a pass does not end, or leave update_bn out"
            )
        if self.ema_model is None:
            self.ema_model = self.ema_type(runner.model, **self.kwargs)
        average, saved, self._resumed = self.ema_model, self._resumed, {}
        if saved:
            load_state_dict(average.module, saved["state_dict"], strict=self.strict_load, logger=runner.logger)
            if average.wide is not None:  # not in files of weights that were wide
                load_state_dict(average.wide, {**saved["state_dict"], **saved.get("ema_wide", {})}, logger="silent")
            average.steps = int(saved["ema_steps"])
            average.has_own_statistics = bool(saved.get("ema_has_own_statistics"))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Update the average when the optimizer has stepped."""
        if self.count_iters or runner.optim_wrapper.stepped:
            self._update(runner, runner.iter + 1, runner.epoch + 1)
        if runner.max_epochs is None and self.is_last_train_iter(runner):
            self._compute_statistics(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Compute the statistics of the average."""
        self._compute_statistics(runner)

    def after_train(self, runner: Runner) -> None:
        """Follow the step with the gradients that were left, where training was stopped within an accumulation."""
        if runner.optim_wrapper.stepped and not self.count_iters:
            self._update(runner, runner.iter, runner.epoch)
            self._compute_statistics(runner)

    @contextlib.contextmanager
    def evaluation_context(self, runner: Runner) -> Iterator[None]:
        """Exchange the averaged weights into the model inside; one within another changes nothing."""
        average = self.ema_model
        if average is None or self._is_swapped:
            yield
            return
        self._settle(average, runner)
        average.swap(runner.model)
        self._is_swapped = True
        try:
            yield
        finally:
            average.swap(runner.model)
            self._is_swapped = False

    def describe_interval(self) -> str:
        """Return from when on it averages, for the timeline."""
        each = "each iteration" if self.count_iters else "each optimizer step"
        begin = f", from epoch {self.begin_epoch}" if self.begin_epoch > 1 else ""
        return each + (begin or (f", from iteration {self.begin_iter}" if self.begin_iter > 1 else ""))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the averaged weights first, and the source beside them."""
        average = self.ema_model
        if average is None:
            return
        self._settle(average, runner)
        source, averaged = checkpoint["state_dict"], get_state_dict(average.module)
        if self._is_swapped:
            source, averaged = averaged, source
        checkpoint |= {"state_dict": averaged, "ema_state_dict": source}
        checkpoint |= {"ema_steps": average.steps, "ema_has_own_statistics": average.has_own_statistics}
        if average.wide is not None:
            checkpoint["ema_wide"] = get_state_dict(average.wide)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, restore the model's own weights and keep the averaged ones.

        Raises:
            KeyError: With `strict_load`, when the checkpoint has no averaged weights.
        """
        if "ema_state_dict" not in checkpoint:
            if self.strict_load:
                raise UsageKeyError(
                    "the checkpoint was saved without EMAHook: it has no ema_state_dict. Set strict_load=False to "
                    "begin averaging here"
                )
            runner.logger.warning("the checkpoint has no averaged weights: averaging begins here")
            return
        self._resumed = {key: checkpoint[key] for key in checkpoint if key == "state_dict" or key.startswith("ema_")}
        checkpoint["state_dict"] = checkpoint.pop("ema_state_dict")

    def _update(self, runner: Runner, iteration: int, epoch: int) -> None:
        if self.ema_model is not None and iteration >= self.begin_iter and epoch >= self.begin_epoch:
            self.ema_model.update_parameters(runner.model)
        elif self.ema_model is not None:
            self.ema_model.steps = 0
            self._settle(self.ema_model, runner)

    def _settle(self, average: BaseAveragedModel, runner: Runner) -> None:
        """Copy what the model has moved since the last update and the average only copies."""
        if average.steps == 0 and not self._is_swapped:  # not begun, and buffers move without a step too
            average.update_parameters(runner.model)
            average.steps = 0
        else:
            average.copy_rest(runner.model)

    @torch.no_grad()
    def _compute_statistics(self, runner: Runner) -> None:
        """Compute the statistics of batch norm layers for the averaged weights. Collective: every rank must call."""
        average, model, loader = self.ema_model, runner.model, runner.train_dataloader
        layers = [m for m in model.modules() if isinstance(m, batch_norms()) and m.training and m.track_running_stats]
        if not self.update_bn or not layers or average is None or average.steps == 0 or average.has_own_statistics:
            return
        average.has_own_statistics = True  # exchanged from here on
        with self.evaluation_context(runner), evaluating(model), contextlib.ExitStack() as afterwards:
            for layer in layers:
                afterwards.callback(setattr, layer, "momentum", layer.momentum)
                layer.train()
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches
            generators = OwnGenerators(find_generators({"loader": loader}))  # go on as if there had been no pass
            afterwards.callback(generators.load_state_dict, generators.state_dict())
            with runner.model_stream.kept(), autocast_for(model, runner.optim_wrapper.precision):
                for batch in itertools.islice(loader, None if self.update_bn is True else self.update_bn):
                    val_step(model, batch)
            buffers = [buffer for layer in layers for buffer in layer.buffers() if buffer.is_floating_point()]
            dist.all_reduce_params(buffers, op="mean")

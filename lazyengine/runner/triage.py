"""What a run leaves behind when it stops by a loss or a gradient that is not finite: who made it, on which batch."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import torch

from .. import dist
from ..fileio import atomic_write
from ..model import Weighted, train_step
from ..model.finite import FiniteWatch, all_finite, broken_buffers
from ..optim import NonFiniteError
from ..plain import plain_or_repr
from ..text import listed

if TYPE_CHECKING:
    from .runner import Runner


def note_nonfinite(error: NonFiniteError, runner: Runner, batch: Any = None) -> None:
    """Add to an error which module is guilty, where the batch is kept, and how to get there again.

    The batch is written to ``nonfinite_iter_<N>.pt`` in the folder of the start (``_rank<R>`` with several), as a dict
    ``{"iteration", "epoch", "batch", "rank", "reasons", "data"}``. Every rank on which something was not finite does
    it. Weights, the state of the optimizer, gradients and random streams stay as they are.

    Args:
        error: The error.
        runner: The runner, which stands in the iteration.
        batch: Its batch; None behind the last iteration, when gradients of former ones are left.
    """
    position, rank = runner.train_loop.position, dist.get_rank()
    guilty = next((number for number, reason in enumerate(error.reasons) if reason), 0)
    present = position.iter - (batch is None)
    iteration = present if error.iteration is None else error.iteration
    is_at_hand = batch is not None and iteration == present  # a check that was deferred is about the batch before
    if is_at_hand and rank < len(error.reasons) and error.reasons[rank]:
        where = {"iteration": iteration, "epoch": position.epoch, "batch": position.batch, "rank": rank}
        error.add_note(_keep(runner, {**where, "reasons": error.reasons, "data": plain_or_repr(batch)}))
    if is_at_hand:
        error.add_note(_look_again(runner, batch))
    if broken := broken_buffers(runner.model):
        error.add_note(f"{listed(broken, 3)} of the model is not finite since: evaluations of it would not be, either")
    ranks = f" --rank {guilty}" if dist.is_distributed() else ""
    folder = shlex.quote(os.fspath(runner.work_dir))
    error.add_note(f"lazyengine replay {folder} --iter {iteration} --pdb --at nonfinite{ranks}")


def _keep(runner: Runner, content: dict[str, Any]) -> str:
    suffix = f"_rank{content['rank']}" if dist.is_distributed() else ""
    path = os.path.join(runner.log_dir, f"nonfinite_iter_{content['iteration']}{suffix}.pt")
    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except OSError as error:
        return f"its batch was not kept: {error}"
    return f"its batch is kept in {path}"


def copied_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the model's buffers by name."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def warn_of_repetition(runner: Runner, before: dict[str, torch.Tensor], stepped: list[str]) -> None:
    """Log what moves twice in an iteration that was run again, since an exception had ended it.

    Args:
        runner: The runner, behind the step of the repetition.
        before: The buffers before it.
        stepped: The optimizers that had stepped when the exception came.
    """
    moved = [name for name, buffer in runner.model.named_buffers() if not torch.equal(buffer, before.get(name, buffer))]
    weights = [f"the weights of {listed(stepped)}"] if stepped else []
    if what := weights + ([f"the buffers {listed(moved, 6)}"] if moved else []):
        runner.logger.warning(
            "iteration %d was run again after an exception. The pass that failed had changed %s already, as far as it "
            "came, and the new one has once more: this run is no longer that without the exception. A resume from a "
            "checkpoint is exact%s",
            *(runner.iter, " and ".join(what), "" if stepped else '; nonfinite="skip" puts buffers back at once'),
        )


class _NoUpdate:
    """Stands for an optimizer wrapper: gradients are computed, and nothing is changed."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def __getitem__(self, name: str) -> _NoUpdate:
        return _NoUpdate(self._wrapper[name])

    def update_params(self, loss: Any, *_args: Any, **_kwargs: Any) -> None:
        """Run the backward pass."""
        for each in loss if isinstance(loss, list) else [loss]:
            self.backward(each.mean() if isinstance(each, Weighted) else each)

    def backward(self, loss: torch.Tensor, **_kwargs: Any) -> None:
        """Run the backward pass."""
        loss.backward(retain_graph=True)

    def step(self, **_kwargs: Any) -> None:
        """Do nothing."""

    def zero_grad(self, **_kwargs: Any) -> None:
        """Do nothing."""


def _look_again(runner: Runner, batch: Any) -> str:
    """Run the step of the batch once more with its randomness, without an update, and return who is guilty."""
    watch = FiniteWatch(runner.model)
    try:
        with watch:
            gradients = gradients_of(runner, batch)
    except Exception as error:
        return f"a second look failed: {type(error).__name__}: {error}"
    if watch.found is None:
        return "the outputs of all modules, and their gradients, are finite when the step is made again"
    bad = [name for name, gradient in gradients.items() if not all_finite(gradient)]
    return f"first not finite: {watch.found.as_text()}" + (f"; then the gradient of {listed(bad, 3)}" if bad else "")


def gradients_of(runner: Runner, batch: Any) -> dict[str, torch.Tensor]:
    """Return the gradients that this rank has for a batch, with the randomness of the iteration; nothing is updated.

    Weights, buffers, gradients and random streams are as before afterwards.
    """
    model = runner.model
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    stand_in: Any = _NoUpdate(runner.optim_wrapper)
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        with runner.model_stream.kept():
            runner.seed_model_stream(runner.train_loop.position.iter)
            train_step(model, batch, stand_in, forward=lambda *args, **kwargs: model(*args, **kwargs))  # no DDP
        return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for buffer, value in buffers:
            buffer.data.copy_(value)

"""What must not be left behind: by a rejected update, by a closure, by an evaluation with other weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..checkpoint import shard_like
from ..nesting import map_leaves


class KeptBuffers:
    """The floating buffers of a model (BatchNorm's statistics, with their count of batches) as they were once.

    Args:
        model: The model, also inside DDP or another wrapper.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and not is_lazy(buffer)
            if buffer.is_floating_point() or name == "num_batches_tracked"
        ]

    def restore(self) -> None:
        """Restore the values, and the tensors where the model has assigned others."""
        for module, name, buffer, value in self._kept:
            buffer.data.copy_(value)  # not seen by autograd: another loss may still wait for its backward pass
            setattr(module, name, buffer)

    def values(self) -> list[Tensor]:
        """Return the values that were kept, in the order of the model."""
        return [value for _, _, _, value in self._kept]

    def replace(self, values: list[Tensor]) -> None:
        """Replace the values that were kept by those that `values` returned in an earlier process."""
        for (_, _, _, kept), value in zip(self._kept, values, strict=True):
            kept.copy_(value)


class OptimizerSnapshot:
    """Weights, state and options of an optimizer, to restore after a step that must not have happened.

    Args:
        optimizer: The optimizer; a copy of its weights and state is held as long as the snapshot.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._weights = [(p, p.detach().clone()) for p in parameters]
        self._state = {key: map_leaves(_copy, value) for key, value in optimizer.state.items()}
        self._options = [
            {key: _copy(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything."""
        for parameter, value in self._weights:
            parameter.copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        for group, options in zip(self._optimizer.param_groups, self._options):
            group.update(options)


class TwoModes:
    """The two sets of weights of an optimizer with ``train()`` and ``eval()``, as the schedule-free ones have them.

    Args:
        optimizer: Any optimizer; of one with a single set nothing is ever changed.
    """

    def __init__(self, optimizer: Any) -> None:
        self.are_two = callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
        self._optimizer = optimizer
        self._training: list[Tensor] | None = None  # inside `evaluating`
        if self.are_two:
            optimizer.train()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[bool]:
        """Put the weights to evaluate into the parameters inside; afterwards those of training are as they were.

        Yields:
            Whether they differ, so that what is kept of them has to be copied.
        """
        if not self.are_two or self._training is not None:
            yield self.are_two
            return
        try:
            with self._switched(self._optimizer.eval, self._optimizer.train) as self._training:
                yield True
        finally:
            self._training = None

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Inside `evaluating`, put those of training back for a while."""
        if self._training is None:
            yield
            return
        with self._switched(self._optimizer.train, self._optimizer.eval):
            self.set_weights(self._training)
            yield

    @contextlib.contextmanager
    def _switched(self, switch: Callable[[], Any], back: Callable[[], Any]) -> Iterator[list[Tensor]]:
        """Switch inside; afterwards the weights are as they were, which are yielded."""
        before = self.weights()
        switch()
        try:
            yield before
        finally:
            back()
            self.set_weights(before)

    def weights(self) -> list[Tensor]:
        """Return a copy of the parameters."""
        return [p.detach().clone() for group in self._optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def set_weights(self, weights: list[Tensor]) -> None:
        """Set the parameters; exactly, as `train` and `eval` of the optimizer do not."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        for parameter, value in zip(parameters, weights, strict=True):
            parameter.copy_(shard_like(value, parameter))


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value

"""Sharpness-aware minimization: the gradient of the worst place nearby, for any optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..checkpoint import unwrap_module
from ..model import Weighted, parse_losses
from ._checks import require
from ._undo import KeptBuffers
from .gradients import total_norm
from .optim_wrapper import Kwargs, Loss, OptimWrapper


class SAMOptimWrapper(OptimWrapper):
    """An `OptimWrapper` that steps by the gradient at `w + rho * g / |g|`, with `g` the gradient at the weights `w`.

    Each update runs the model twice on the batch, the second time with moved weights; the loss in the log is the first
    one's, the statistics of batch norm layers too. With several ranks `g` is that of all. Source: Foret et al. 2021,
    Sharpness-Aware Minimization, https://arxiv.org/abs/2010.01412, algorithm 1.

    Args:
        optimizer: A torch optimizer.
        rho: Length of the move, greater than 0.
        **kwargs: The other arguments of `OptimWrapper`; ``accumulative_counts`` has to stay 1.

    Raises:
        UsageValueError: If ``rho`` is not positive, gradients are to be accumulated, or the optimizer needs a closure.
    """

    def __init__(self, optimizer: Optimizer, rho: float = 0.05, **kwargs: Any) -> None:
        super().__init__(optimizer, **kwargs)
        require(rho > 0, f"rho must be greater than 0; got {rho}")
        require(self.accumulative_counts == 1, "SAMOptimWrapper moves the weights for each batch: no accumulation")
        require(not self._needs_closure, f"{type(optimizer).__name__} evaluates the loss by itself; use OptimWrapper")
        self.rho = rho
        self._call: tuple[nn.Module, tuple[Any, ...], dict[str, Any]] | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:  # type: ignore[override]
        """Return the context for the forward pass, as `OptimWrapper.optim_context`; the call of the model is noted."""

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._call = (module, args, kwargs)

        handle = model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            with super().optim_context(model):
                yield
        finally:
            handle.remove()

    def update_params(self, loss: Loss, step_kwargs: Kwargs = None, zero_kwargs: Kwargs = None) -> None:
        """Update the parameters from the loss at the moved weights; arguments as `OptimWrapper.update_params`.

        Raises:
            NonFiniteError: If that loss or the gradient norm is not finite and the policy says so.
            RuntimeError: If the model was not called within `optim_context`.
        """
        if self._call is None:
            raise RuntimeError(
                "SAMOptimWrapper runs the model again: call it within optim_wrapper.optim_context(model)"
            )
        (model, args, kwargs), self._call = self._call, None
        if not self._is_driven:
            self._mark()
        before = self._move(self._one_loss(loss) if isinstance(loss, list) else loss)
        buffers, inner = KeptBuffers(model), unwrap_module(model)
        try:
            losses = model(*args, **kwargs)
            parse: Any = getattr(inner, "parse_losses", parse_losses)
            second, _ = parse(losses)
            buffers.restore()
            self.backward(self.scale_loss(second))
        finally:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)
        self.step(**(step_kwargs or {}))
        self.zero_grad(**(zero_kwargs or {}))

    def _move(self, loss: Any) -> list[tuple[Any, Any]]:
        """Move the weights along the gradient of ``loss`` and return them as they were."""
        self._note_begin()
        (loss.sum.sum() if isinstance(loss, Weighted) else loss).backward()
        self._is_cut = False
        gradients = self._gradients()
        before = [(p, p.detach().clone()) for p in self._parameters() if p.grad is not None]
        scale = self.rho / (total_norm(gradients) + 1e-12)
        with torch.no_grad():
            for (parameter, _), gradient in zip(before, gradients):
                parameter.add_(gradient * scale)
        super().zero_grad()
        return before

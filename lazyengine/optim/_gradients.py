"""The numbers inside gradients: their norm, their clipping, and whether all of them are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

from .. import _torch, dist
from ..errors import UsageTypeError
from ..logging import MessageHub
from ..model.finite import all_finite
from ..text import did_you_mean
from ._checks import require

_OPTIONS = {"norm": ("max_norm", "norm_type", "error_if_nonfinite", "foreach"), "value": ("clip_value", "foreach")}


class GradientClipping:
    """What ``clip_grad`` asks for, checked once.

    Args:
        options: ``{"max_norm": 1.0, "norm_type": 2}`` clips the norm of all gradients taken together (``type="norm"``,
            the default), ``{"type": "value", "clip_value": 0.5}`` each element. The other keys are those of
            `torch.nn.utils.clip_grad_norm_` and `torch.nn.utils.clip_grad_value_`.

    Raises:
        UsageTypeError: If ``options`` is not a dict.
        UsageValueError: If a key is unknown or missing, or a bound is not a positive number.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        if not isinstance(options, dict):
            raise UsageTypeError(f"clip_grad must be a dict such as dict(max_norm=1.0) or None; got {options!r}")
        self.options = dict(options)
        self.kind = options.get("type", "norm")
        require(self.kind in _OPTIONS, f'clip_grad type must be "norm" or "value"; got {self.kind!r}')
        accepted = _OPTIONS[self.kind]
        what, bound = f'clip_grad of type "{self.kind}"', accepted[0]
        for key in options.keys() - {"type", *accepted}:
            require(False, f"{what} has no key {key!r}; accepted: {accepted}.{did_you_mean(key, accepted)}")
        require(bound in options, f'{what} needs "{bound}"; got only {sorted(options)}')
        self.limit = float(options[bound])
        require(self.limit > 0, f"clip_grad {bound} must be greater than 0; got {options[bound]!r}")
        self.norm_type = float(options.get("norm_type", 2.0))
        self.error_if_nonfinite = bool(options.get("error_if_nonfinite", False))
        self._foreach = options.get("foreach")

    def apply(self, optimizer: torch.optim.Optimizer, norm: Tensor, known_norm: float | None = None) -> None:
        """Clip the gradients of an optimizer's parameters in place, and record their norm as ``train/grad_norm``.

        Args:
            optimizer: The optimizer; parameters without a gradient are left out.
            norm: Their total norm, shape `()`.
            known_norm: The same on the host where it was read already; when the limit is clearly not reached the
                multiplication by 1 is left out (the result is the same to the bit).

        Raises:
            RuntimeError: With ``error_if_nonfinite``, if the norm is not finite.
        """
        if self.error_if_nonfinite and not torch.isfinite(norm):
            raise RuntimeError(f"clip_grad error_if_nonfinite=True: the gradient norm is {norm.item()}")
        MessageHub.get_current_instance().update_scalar("train/grad_norm", norm)
        if self.kind == "norm" and known_norm is not None and known_norm <= 0.999 * self.limit:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.kind == "value":
            torch.nn.utils.clip_grad_value_(parameters, self.limit, foreach=self._foreach)
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.limit, norm, foreach=self._foreach)


def total_norm(gradients: list[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return the norm of all gradients taken as one vector, shape `()`, on the device of the first one.

    Equal to `torch.nn.utils.get_total_norm` to the bit; in the common case (one device, one dtype) it leaves out the
    grouping by device, which costs as much as the norm itself on small models. For sharded gradients (FSDP2) this is
    collective: every rank must call.
    """
    if not gradients:
        return torch.zeros(())
    kinds = {(type(gradient), gradient.device, gradient.dtype, gradient.layout) for gradient in gradients}
    if kinds == {(Tensor, gradients[0].device, gradients[0].dtype, torch.strided)}:
        return torch.linalg.vector_norm(torch.stack(_torch.norms_of(gradients, norm_type)), norm_type)
    norm = torch.nn.utils.get_total_norm(list(map(_dense, gradients)), norm_type)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]


class FiniteScan:
    """Finds out whether gradients in host memory are all finite: the cheapest way there is on a small model."""

    def __init__(self) -> None:
        self._found, self._one = torch.zeros(()), torch.ones(())

    def value(self, gradients: list[Tensor]) -> float:
        """Return 0.0 when every element of the gradients is finite, else NaN."""
        if not _torch.set_where_nonfinite(self._found, gradients, self._one):
            return 0.0 if all_finite(gradients) else math.nan
        if self._found.item() == 0.0:
            return 0.0
        self._found.zero_()
        return math.nan


def average_over_ranks(parameters: Sequence[Tensor]) -> None:
    """Replace gradients by their mean over all ranks: what DDP does, for gradients that it was kept from seeing.

    Gradients that are equal on all ranks stay as they are. Collective: every rank must call.
    """
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=dist.get_comm_device())
    torch_dist.all_reduce(present, torch_dist.ReduceOp.MAX)
    for parameter, is_present in zip(parameters, present.tolist()):
        if is_present:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch_dist.all_reduce(gradient)
            parameter.grad = gradient.div_(dist.get_world_size())


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce()._values() if gradient.is_sparse else gradient

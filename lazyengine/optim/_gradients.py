"""The numbers inside gradients: their norm, their clipping, and whether all of them are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

# The kernels under torch.nn.utils.get_total_norm and torch.amp.GradScaler.
_foreach_norm: Any = getattr(torch, "_foreach_norm")  # noqa: B009
_check_and_unscale: Any = getattr(torch, "_amp_foreach_non_finite_check_and_unscale_")  # noqa: B009

_NORM_OPTIONS = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")
_VALUE_OPTIONS = ("clip_value", "foreach")


class GradientClipping:
    """What ``clip_grad`` asks for, checked once.

    Args:
        options: ``{"max_norm": 1.0, "norm_type": 2}`` clips the norm of all gradients taken together (``type="norm"``,
            the default), ``{"type": "value", "clip_value": 0.5}`` each element. The other keys are those of
            `torch.nn.utils.clip_grad_norm_` and `torch.nn.utils.clip_grad_value_`.

    Raises:
        TypeError: If ``options`` is not a dict.
        ValueError: If a key is unknown or missing, or a bound is not a positive number.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        if not isinstance(options, dict):
            raise TypeError(f"clip_grad must be a dict such as dict(max_norm=1.0) or None; got {options!r}")
        options = dict(options)
        self.kind = options.pop("type", "norm")
        if self.kind not in ("norm", "value"):
            raise ValueError(f'clip_grad type must be "norm" or "value"; got {self.kind!r}')
        accepted, bound = (_NORM_OPTIONS, "max_norm") if self.kind == "norm" else (_VALUE_OPTIONS, "clip_value")
        for key in options:
            if key not in accepted:
                close = get_close_matches(key, accepted, n=1)
                hint = f'; did you mean "{close[0]}"?' if close else ""
                raise ValueError(f'clip_grad of type "{self.kind}" has no key {key!r}; accepted: {accepted}{hint}')
        if bound not in options:
            raise ValueError(f'clip_grad of type "{self.kind}" needs "{bound}"; got only {sorted(options)}')
        self.limit = float(options[bound])
        if not self.limit > 0:
            raise ValueError(f"clip_grad {bound} must be greater than 0; got {options[bound]!r}")
        self.norm_type = float(options.get("norm_type", 2.0))
        self.error_if_nonfinite = bool(options.get("error_if_nonfinite", False))
        self._foreach = options.get("foreach")

    def apply(self, parameters: Sequence[Tensor], norm: Tensor, known_norm: float | None = None) -> None:
        """Clip the gradients of ``parameters`` in place.

        Args:
            parameters: The parameters; those without a gradient are left out.
            norm: Their total norm, shape `()`.
            known_norm: The same on the host where it was read already; when the limit is clearly not reached the
                multiplication by 1 is left out (the result is the same to the bit).
        """
        if self.kind == "value":
            torch.nn.utils.clip_grad_value_(parameters, self.limit, foreach=self._foreach)
        elif known_norm is None or known_norm > 0.999 * self.limit:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.limit, norm, foreach=self._foreach)


def total_norm(gradients: list[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return the norm of all gradients taken as one vector, shape `()`, on the device of the first one.

    Equal to `torch.nn.utils.get_total_norm` to the bit; in the common case (one device, one dtype) it leaves out the
    grouping by device, which costs as much as the norm itself on small models. For sharded gradients (FSDP2) this is
    collective: every rank must call.
    """
    if not gradients:
        return torch.zeros(())
    device, dtype = gradients[0].device, gradients[0].dtype
    if all(type(g) is Tensor and g.device == device and g.dtype == dtype and not g.is_sparse for g in gradients):
        return torch.linalg.vector_norm(torch.stack(_foreach_norm(gradients, norm_type)), norm_type)
    norm = torch.nn.utils.get_total_norm(list(map(_dense, gradients)), norm_type)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]


class FiniteScan:
    """Finds out whether gradients in host memory are all finite: the cheapest way there is on a small model.

    It is the check of torch's `GradScaler`, whose multiplication by one leaves the gradients as they are.
    """

    def __init__(self) -> None:
        self._found, self._one = torch.zeros(()), torch.ones(())

    def value(self, gradients: list[Tensor]) -> float:
        """Return 0.0 when every element of the gradients is finite, else NaN."""
        try:
            _check_and_unscale(gradients, self._found, self._one)
        except RuntimeError:  # a sparse, sharded or complex one
            return 0.0 if all(is_finite(gradient) for gradient in gradients) else math.nan
        if self._found.item() == 0.0:
            return 0.0
        self._found.zero_()
        return math.nan


def is_finite(gradient: Tensor) -> bool:
    """Return whether all elements of a gradient (of the local shard, if it is sharded) are finite."""
    local = gradient.to_local() if hasattr(gradient, "to_local") else gradient  # type: ignore[operator]
    return bool(torch.isfinite(_dense(local)).all())


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce()._values() if gradient.is_sparse else gradient

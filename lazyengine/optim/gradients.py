"""Gradients between backward pass and step: their norm, their clipping, and what happens when not all are finite.

Whether a loss or a gradient is finite is decided by all ranks together, before a weight changes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

from .. import _torch, dist
from ..errors import UsageTypeError
from ..logging import MessageHub, print_log
from ..model.finite import all_finite
from ..text import did_you_mean
from ._checks import require
from ._counts import copy_to_host

_OPTIONS = {"norm": ("max_norm", "norm_type", "error_if_nonfinite", "foreach"), "value": ("clip_value", "foreach")}
POLICIES = ("raise", "skip", "ignore")
MAX_CONSECUTIVE_SKIPS = 10


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


class NonFiniteError(FloatingPointError):
    """A loss or a gradient was inf or NaN. The update was discarded: no weight and no optimizer state has changed.

    Attributes:
        iteration: The iteration of the update by the message hub, counted from 0; None where no runner counts.
        reasons: For each rank what was not finite, None for a rank where all was; one element in a run of one process.
    """

    def __init__(self, message: str, iteration: int | None, reasons: list[str | None]) -> None:
        super().__init__(message)
        self.iteration = iteration
        self.reasons = reasons


class NonFiniteGuard:
    """Looks at losses and gradients of one update and applies the policy.

    On the host a look costs about a microsecond. On an accelerator reading a value makes the host wait once an update;
    `defer` avoids it: the flag stays on the device, where a fused optimizer turns the step into nothing, and is read
    by `resolve` one update later, when it has long arrived.

    Args:
        policy: ``"raise"``, ``"skip"`` or ``"ignore"``.

    Attributes:
        has_noted: Whether anything was looked at since the last update.
        has_found: Whether something that was not finite is known since the last update.
        pending: The check of the update before, where it was deferred and is not read yet.
    """

    def __init__(self, policy: str) -> None:
        require(policy in POLICIES, f"nonfinite must be one of {POLICIES}; got {policy!r}")
        self.policy = policy
        self.is_active = policy != "ignore"
        self.num_consecutive_skips = 0
        self._losses: list[Tensor | float] = []  # since the last update; on an accelerator not read yet
        self._notes: list[str] = []
        self.has_noted = self.has_found = self.are_late = False
        self.pending: tuple[Tensor, Callable[[], None], int | None] | None = None

    def observe(self, loss: Tensor, is_late: bool) -> NonFiniteError | None:
        """Add the loss of a micro-batch, shape `()`, to what the next update depends on; ``is_late`` reads it then.

        Returns:
            The error where it can be known at once: one process, a loss in host memory, policy ``"raise"``.
        """
        self.has_noted = True
        if is_late:
            self._losses.append(loss.detach())
            self.are_late = True
            return None
        self._losses.append(loss.item())
        if math.isfinite(self._losses[-1]):
            return None
        self.has_found = True
        may_wait = self.policy != "raise" or dist.get_world_size() > 1
        return None if may_wait else self._error([self._reason(0.0)])

    def note(self, what: str) -> None:
        """Add to what was not finite since the last update, as text."""
        self._notes.append(what)
        self.has_noted = self.has_found = True

    def agree(self, flag: Tensor) -> None:
        """Set ``flag``, shape `()`, to its maximum over all ranks, on its device. Collective: every rank must call."""
        if dist.get_world_size() > 1:  # dist.all_reduce compares shapes first, for which the host would wait
            torch_dist.all_reduce(flag, torch_dist.ReduceOp.MAX)

    def judge(
        self, optimizer: torch.optim.Optimizer, norm: float = 0.0, is_agreed: bool = False
    ) -> NonFiniteError | None:
        """Return the error of this update, or None when it may be applied. Collective: every rank must call.

        Args:
            optimizer: Whose parameters are named in the error.
            norm: The norm of the gradients, or any value that is not finite when one of them is not.
            is_agreed: Whether every rank has this very norm, as under DDP, and needs no message to decide.
        """
        reasons: list[str | None] = [None]
        is_known = is_agreed or not dist.is_distributed()
        if not is_known or self.has_found or self.are_late or not math.isfinite(norm):
            reason = self._reason(norm, "" if math.isfinite(norm) else name_nonfinite(optimizer))
            reasons = [reason]
            if dist.get_world_size() > 1:
                flag = torch.tensor(float(reason is not None), device=dist.get_comm_device())
                self.agree(flag)
                reasons = dist.all_gather_object(reason) if flag.item() else [None]
        self.forget()
        if any(reasons):
            return self._error(reasons)
        self.num_consecutive_skips = 0
        return None

    def reject(self, error: NonFiniteError) -> None:
        """Apply the policy to an update that was discarded.

        Raises:
            NonFiniteError: When the policy is ``"raise"``, or too many updates in a row were skipped.
        """
        if self.policy == "raise":
            raise error
        self.num_consecutive_skips += 1
        count = f"{self.num_consecutive_skips} in a row, at most {MAX_CONSECUTIVE_SKIPS}"
        if self.num_consecutive_skips > MAX_CONSECUTIVE_SKIPS:
            error.add_note(f"Too many updates were to be skipped: {count}.")
            raise error
        print_log(f"Skipped the update ({count}): {error}", "current", logging.WARNING)

    def read(self, gradient_norm: Tensor) -> float:
        """Return the norm; losses that are on the device come with it, so that the host waits once."""
        *self._losses, norm = self._values(gradient_norm).tolist()
        return norm

    def _values(self, gradient_norm: Tensor) -> Tensor:
        device = gradient_norm.device
        return torch.stack([torch.as_tensor(v, device=device).float() for v in (*self._losses, gradient_norm)])

    def defer(self, gradient_norm: Tensor) -> Tensor:
        """Return the flag of this update on the device, shape `()`: 1.0 when something is not finite, else 0.0.

        Collective: every rank must call. `resolve` reports it later.
        """
        values = self._values(gradient_norm)
        self.forget()
        flag = torch.isfinite(values).all().logical_not().float()
        self.agree(flag)
        self.pending = (*copy_to_host(torch.cat([values, flag[None]])), _iteration())
        return flag

    def resolve(self) -> NonFiniteError | None:
        """Return what the flag of the update before says, if one is out and set. Collective when it is set."""
        if self.pending is None:
            return None
        (on_host, wait, iteration), self.pending = self.pending, None
        wait()
        *losses, norm, flag = on_host.tolist()
        if not flag:
            self.num_consecutive_skips = 0
            return None
        reason = self._reason(norm, losses=losses)
        reasons = dist.all_gather_object(reason) if dist.get_world_size() > 1 else [reason]
        error = self._error(reasons, iteration)
        error.add_note("Found one update late, as always with a fused optimizer: the batch at hand is not the one.")
        return error

    def observed(self) -> dict[str, Any]:
        """Return what was noted since the last update, in plain types; reads losses that are on the device."""
        return {"losses": [float(loss) for loss in self._losses], "found": list(self._notes)}

    def restore(self, observed: dict[str, Any]) -> None:
        """Restore what `observed` returned."""
        self._losses, self._notes = list(observed.get("losses", ())), list(observed["found"])
        self.has_noted, self.has_found = True, self._reason(0.0) is not None

    def forget(self) -> None:
        """Drop what was noted since the last update."""
        self._losses.clear()
        self._notes.clear()
        self.has_noted = self.has_found = self.are_late = False

    def _reason(self, norm: float, parameter_names: str = "", losses: Sequence[Any] | None = None) -> str | None:
        """Return what was not finite among losses and norm, as text; None where all is well."""
        found = list(self._notes)
        for number, value in enumerate(map(float, self._losses if losses is None else losses), 1):
            if not math.isfinite(value):
                found.append(f"the loss is {value}" + (f" in micro-batch {number}" if number > 1 else ""))
        if not math.isfinite(norm):
            found.append(f"the gradient norm is {norm}{parameter_names}")
        return " and ".join(found) or None

    def _error(self, reasons: list[str | None], iteration: int | None = None) -> NonFiniteError:
        iteration = _iteration() if iteration is None else iteration
        place = "" if iteration is None else f" at iteration {iteration}"
        ranks = "; ".join(f"on rank {rank} {reason}" for rank, reason in enumerate(reasons) if reason)
        what = ranks if len(reasons) > 1 else reasons[0]
        skips = ' Look at the batch and learning rate; nonfinite="skip" skips updates.'
        advice = "" if self.policy == "skip" else skips
        message = f"{what}{place}. The update was discarded before any weight changed.{advice}"
        return NonFiniteError(message, iteration, reasons)


def _iteration() -> int | None:
    iteration: Any = MessageHub.get_current_instance().get_info("iter")
    return None if iteration is None else int(iteration)


def name_nonfinite(optimizer: torch.optim.Optimizer, limit: int = 3) -> str:
    """Return the names of the parameters whose gradient is not finite, for a message; reads every gradient."""
    found = []
    for index, group in enumerate(optimizer.param_groups):
        names = group.get("param_names")
        for position, parameter in enumerate(group["params"]):
            if parameter.grad is not None and not all_finite(parameter.grad):
                label = f"parameter {position} of group {index}, shape {tuple(parameter.shape)}"
                found.append(names[position] if names else label)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return f" (gradient of {', '.join(found[:limit])}{more})" if found else ""

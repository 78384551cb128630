"""What happens when a loss or a gradient is not finite: decided by all ranks together, before a weight changes."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

from lazyengine import dist
from lazyengine.logging import MessageHub, print_log

from ._gradients import is_finite

POLICIES = ("raise", "skip", "ignore")


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
        max_consecutive_skips: How many updates in a row may be skipped; one more is an error.
        keeps_losses: Whether losses in host memory are also read late, as those on an accelerator are.
    """

    def __init__(self, policy: str, max_consecutive_skips: int, keeps_losses: bool = False) -> None:
        if policy not in POLICIES:
            raise ValueError(f"nonfinite must be one of {POLICIES}; got {policy!r}")
        if isinstance(max_consecutive_skips, bool) or not isinstance(max_consecutive_skips, int):
            raise TypeError(f"max_consecutive_skips must be an int; got {max_consecutive_skips!r}")
        if max_consecutive_skips < 0:
            raise ValueError(f"max_consecutive_skips must be at least 0; got {max_consecutive_skips}")
        self.policy = policy
        self.is_active = policy != "ignore"
        self.max_consecutive_skips = max_consecutive_skips
        self.num_consecutive_skips = 0
        self._keeps_losses = keeps_losses
        self._losses: list[Tensor] = []  # not read yet
        self._found: list[str] = []  # what was not finite among the losses read
        self._num_losses = 0
        self._pending: tuple[Tensor, torch.Event | None, int | None] | None = None

    def observe(self, loss: Tensor) -> NonFiniteError | None:
        """Take note of the loss of a micro-batch, shape `()`, before its backward pass.

        Returns:
            The error where it can be known at once: one process, a loss in host memory, policy ``"raise"``.
        """
        self._num_losses += 1
        if self._keeps_losses or not loss.is_cpu:
            self._losses.append(loss.detach())
            return None
        value = loss.item()
        if value - value == 0.0:  # inf - inf and nan - nan are nan
            return None
        self._note_loss(value, self._num_losses)
        if self.policy != "raise" or dist.get_world_size() > 1:
            return None
        return self._error([self._reason(None, "")])

    @property
    def has_nonfinite_loss(self) -> bool:
        """Whether a loss noted since the last update, and read already, is not finite."""
        return bool(self._found)

    def passes(self, gradient_norm: float, is_agreed: bool = False) -> bool:
        """Return True where `judge` would say at once that all is well: the way of nearly every update.

        Args:
            gradient_norm: The norm of the gradients, or any value that is not finite when one of them is not.
            is_agreed: Whether every rank has this very norm, as under DDP, and needs no other to decide.
        """
        if gradient_norm - gradient_norm != 0.0 or self._losses:
            return False
        if not is_agreed and (self._found or dist.is_distributed()):
            return False
        self._found.clear()
        self._num_losses = self.num_consecutive_skips = 0
        return True

    def agree(self, flag: Tensor) -> None:
        """Set ``flag``, shape `()`, to its maximum over all ranks, on its device. Collective: every rank must call."""
        if dist.get_world_size() > 1:
            torch_dist.all_reduce(
                flag, torch_dist.ReduceOp.MAX
            )  # dist.all_reduce compares shapes first: the host waits

    def judge(self, gradient_norm: float | None, parameter_names: str = "") -> NonFiniteError | None:
        """Return what to say about this update, or None when it may be applied. Collective: every rank must call.

        Args:
            gradient_norm: The norm of the gradients, or any value that is not finite when one of them is not.
            parameter_names: Which parameters have such gradients, for the message.
        """
        reason = self._reason(gradient_norm, parameter_names)
        self.forget()
        reasons: list[str | None] = [reason]
        if dist.get_world_size() > 1:
            flag = torch.tensor(float(reason is not None), device=dist.get_comm_device())
            self.agree(flag)
            reasons = dist.all_gather_object(reason) if flag.item() else [None]
        if all(reason is None for reason in reasons):
            self.num_consecutive_skips = 0
            return None
        return self._error(reasons)

    def reject(self, error: NonFiniteError) -> None:
        """Apply the policy to an update that was discarded.

        Raises:
            NonFiniteError: When the policy is ``"raise"``, or too many updates in a row were skipped.
        """
        if self.policy == "raise":
            raise error
        self.num_consecutive_skips += 1
        count, limit = self.num_consecutive_skips, self.max_consecutive_skips
        if count > limit:
            error.add_note(f"This was update {count} in a row to be skipped; max_consecutive_skips={limit}.")
            raise error
        print_log(f"Skipped the update ({count} in a row, at most {limit}): {error}", "current", logging.WARNING)

    def defer(self, gradient_norm: Tensor) -> Tensor:
        """Return the flag of this update on the device, shape `()`: 1.0 when something is not finite, else 0.0.

        Collective: every rank must call. `resolve` reports it later.
        """
        losses = [loss.float() for loss in self._losses]
        if self._found:  # of losses in host memory beside parameters on an accelerator
            losses.append(torch.full_like(gradient_norm, math.nan, dtype=torch.float32))
        self.forget()
        values = torch.stack([*losses, gradient_norm.float()])
        flag = torch.isfinite(values).all().logical_not().float()
        self.agree(flag)
        # A copy to the host that does not block lands in pinned memory; the event tells when it is there.
        on_host = torch.cat([values, flag[None]]).to("cpu", non_blocking=True)
        event = None if flag.is_cpu else torch.Event(flag.device)
        if event is not None:
            event.record()
        self._pending = (on_host, event, _iteration())
        return flag

    def resolve(self) -> None:
        """Read the flag of the update before, if one is out, and apply the policy. Collective when it was set.

        Raises:
            NonFiniteError: As `reject`.
        """
        if self._pending is None:
            return
        (on_host, event, iteration), self._pending = self._pending, None
        if event is not None:
            event.synchronize()
        *losses, norm, flag = on_host.tolist()
        if not flag:
            self.num_consecutive_skips = 0
            return
        newer = self._losses, self._found, self._num_losses
        self._losses, self._found, self._num_losses = [], [], len(losses)
        for index, value in enumerate(losses):
            if not math.isfinite(value):
                self._note_loss(value, index + 1)
        reasons = [self._reason(norm, "")]
        self._losses, self._found, self._num_losses = newer
        if dist.get_world_size() > 1:
            reasons = dist.all_gather_object(reasons[0])
        error = self._error(reasons, iteration)
        error.add_note("Found one update late, so the batch at hand is not the one; see OptimWrapper's deferred_check.")
        self.reject(error)

    def observed(self) -> dict[str, Any]:
        """Return what was noted since the last update, in plain types; reads losses that are on the device."""
        self._read_losses()
        return {"found": list(self._found), "num_losses": self._num_losses}

    def restore(self, observed: dict[str, Any]) -> None:
        """Take back what `observed` returned."""
        self._losses.clear()
        self._found, self._num_losses = list(observed["found"]), observed["num_losses"]

    def forget(self) -> None:
        """Drop what was noted since the last update."""
        self._losses.clear()
        self._found.clear()
        self._num_losses = 0

    def _note_loss(self, value: float, number: int) -> None:
        self._found.append(f"the loss is {value}" + (f" in micro-batch {number}" if number > 1 else ""))

    def _read_losses(self) -> None:
        """Read the losses that were kept, and keep of them what was not finite."""
        for number, loss in enumerate(self._losses, self._num_losses - len(self._losses) + 1):
            value = float(loss)
            if not math.isfinite(value):
                self._note_loss(value, number)
        self._losses.clear()

    def _reason(self, gradient_norm: float | None, parameter_names: str) -> str | None:
        self._read_losses()
        found = list(self._found)
        if gradient_norm is not None and not math.isfinite(gradient_norm):
            found.append(f"the gradient norm is {gradient_norm}{parameter_names}")
        return " and ".join(found) or None

    def _error(self, reasons: list[str | None], iteration: int | None = None) -> NonFiniteError:
        iteration = _iteration() if iteration is None else iteration
        place = "" if iteration is None else f" at iteration {iteration}"
        if len(reasons) == 1:
            what = str(reasons[0])
        else:
            what = "; ".join(f"on rank {rank} {reason}" for rank, reason in enumerate(reasons) if reason)
        advice = (
            "" if self.policy == "skip" else ' Look at the batch and learning rate; nonfinite="skip" skips updates.'
        )
        message = f"{what}{place}. The update was discarded before any weight changed.{advice}"
        return NonFiniteError(message, iteration, reasons)


def _iteration() -> int | None:
    iteration: Any = MessageHub.get_current_instance().get_info("iter")
    return None if iteration is None else int(iteration)


def name_nonfinite(optimizer: torch.optim.Optimizer, limit: int = 3) -> str:
    """Name the parameters whose gradient is not finite, for a message; reads every gradient."""
    found = []
    for index, group in enumerate(optimizer.param_groups):
        names = group.get("param_names")
        for position, parameter in enumerate(group["params"]):
            if parameter.grad is not None and not is_finite(parameter.grad):
                label = f"parameter {position} of group {index}, shape {tuple(parameter.shape)}"
                found.append(names[position] if names else label)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return f" (gradient of {', '.join(found[:limit])}{more})" if found else ""

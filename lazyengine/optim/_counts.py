"""What the loss of an optimizer step is a sum over: counted in micro-batches and ranks, divided by once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

from .. import dist
from ..dist.info import can_send_from


class LossCount:
    """The count of one optimizer step.

    Before the backward pass a sum is divided by `reference`, a power of two near the count of the last step, so that
    gradients have the size of those of a mean (float16) and no bit of them depends on it.

    Attributes:
        reference: The same on every rank; 0 before the first sum.
        own: What this rank has counted since the last step; None where no loss was a sum.
    """

    def __init__(self) -> None:
        self.reference = 0.0
        self.forget()

    def forget(self) -> None:
        """Begin to count for the next step."""
        self.own: Tensor | float | None = None
        self._sum: Any = None  # over all ranks, as soon as what is awaited has come
        self._awaited: Any = None

    def add(self, count: Tensor | float, num_parts: int, device: torch.device) -> None:
        """Add the count of a micro-batch, of which a step has ``num_parts``, with its loss on ``device``.

        Collective at the very first.
        """
        self._device = device
        if isinstance(count, Tensor):
            count = count.item() if count.is_cpu else count.detach().clone()
        self.own = count if self.own is None else self.own + count
        if not self.reference:
            self._set_reference(self.total() * num_parts)
            self._sum = None

    def start(self) -> None:
        """Begin to add up over ranks, while the backward pass runs. Collective: every rank must call."""
        self._sum = self.own
        if dist.get_world_size() > 1:
            self._sum = _on_device(self.own, _counts_on(self._device)).clone()
            self._awaited = torch_dist.all_reduce(self._sum, async_op=True).wait  # type: ignore[union-attr]
        if isinstance(self._sum, Tensor) and not self._sum.is_cpu:
            if self._awaited is not None:
                self._awaited()  # the device does, not the host
            self._sum, self._awaited = copy_to_host(self._sum)

    def total(self) -> float:
        """Return the count of all ranks. Collective where it was not begun before: every rank must call."""
        if self._sum is None:
            self.start()
        if self._awaited is not None:
            self._awaited()
            self._awaited = None
        total: Any = self._sum
        return float(total)

    def factor(self) -> float:
        """Return what gradients, averaged over ranks, are to be multiplied by; 0 where nothing was counted."""
        total = self.total()
        if not total:
            return 0.0
        factor = self.reference * dist.get_world_size() / total
        self._set_reference(total)
        return factor

    def _set_reference(self, total: float) -> None:
        mean = total / dist.get_world_size()
        self.reference = 2.0 ** round(math.log2(mean)) if mean > 0 and math.isfinite(mean) else self.reference or 1.0


def over_all_ranks(counts: list[Any], device: torch.device) -> Tensor:
    """Return the sums over all ranks of several counts, float64, of losses on a device. Collective: all must call."""
    values = torch.stack([_on_device(count, _counts_on(device)) for count in counts])
    if dist.get_world_size() > 1:
        torch_dist.all_reduce(values)
    return values


def copy_to_host(tensor: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Return a copy in host memory that is on its way, and what waits until it has arrived."""
    copy = tensor.to("cpu", non_blocking=True)  # into pinned memory
    if tensor.is_cpu:
        return copy, lambda: None
    event = torch.Event(tensor.device)
    event.record(torch.accelerator.current_stream(tensor.device.index))  # by default that of the current device
    return copy, event.synchronize


def _on_device(count: Any, device: torch.device) -> Tensor:
    """Return a count as a tensor of shape `()`, float64; of a number it is filled there, for which nobody waits."""
    if isinstance(count, Tensor):
        return count.to(device, torch.float64)
    return torch.full((), count, dtype=torch.float64, device=device)


def _counts_on(device: torch.device) -> torch.device:
    """Return where counts of losses on a device are added up: the same on all ranks, whatever their counts are."""
    is_there = device.type == "cuda" and (not dist.is_distributed() or can_send_from(device))
    return device if is_there else dist.get_comm_device()

"""What the loss of an optimizer step is a sum over: counted in micro-batches and ranks, divided by once."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

from .. import dist


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

    def add(self, count: Tensor | float, num_parts: int) -> None:
        """Add the count of a micro-batch, of which a step has ``num_parts``. Collective at the very first."""
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
            self._sum = torch.as_tensor(self.own, dtype=torch.float64, device=dist.get_comm_device()).clone()
            self._awaited = torch_dist.all_reduce(self._sum, async_op=True).wait  # type: ignore[union-attr]
        elif isinstance(self.own, Tensor):  # on an accelerator
            self._sum = self.own.to("cpu", non_blocking=True)
            event = torch.Event(self.own.device)
            event.record()
            self._awaited = event.synchronize

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


def over_all_ranks(counts: list[Any]) -> list[float]:
    """Return the sums over all ranks of several counts. Collective: every rank must call."""
    values = torch.tensor([float(count) for count in counts], dtype=torch.float64, device=dist.get_comm_device())
    if dist.get_world_size() > 1:
        torch_dist.all_reduce(values)
    return values.tolist()

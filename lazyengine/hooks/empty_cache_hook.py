"""Gives unused GPU memory back to the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from .hook import Hook


@dataclasses.dataclass(eq=False)
class EmptyCacheHook(Hook):
    """Call ``torch.cuda.empty_cache()`` at some points; does nothing without a GPU.

    Useful where other processes need the memory, or where training and validation differ much in shapes. It costs
    time: freed memory has to be allocated again.

    Args:
        before_epoch: Before each epoch of every mode.
        after_epoch: After each epoch of every mode.
        after_iter: After each iteration of every mode.
    """

    before_epoch: bool = False
    after_epoch: bool = True
    after_iter: bool = False

    def _before_epoch(self, *args: Any, **kwargs: Any) -> None:
        _empty(self.before_epoch)

    def _after_epoch(self, *args: Any, **kwargs: Any) -> None:
        _empty(self.after_epoch)

    def _after_iter(self, *args: Any, **kwargs: Any) -> None:
        _empty(self.after_iter)


def _empty(wanted: bool) -> None:
    if wanted and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

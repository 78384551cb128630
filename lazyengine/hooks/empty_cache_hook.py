"""Gives unused GPU memory back to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class EmptyCacheHook(Hook):
    """Call ``torch.cuda.empty_cache()`` at some points; does nothing without a GPU.

    Useful where other processes need the memory, or where training and validation differ much in shapes. It costs
    time: freed memory has to be allocated again.

    Args:
        before_epoch: Before each epoch of every mode.
        after_epoch: After each epoch of every mode.
        after_iter: After each iteration of every mode.
    """

    priority = Priority.NORMAL

    def __init__(self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False) -> None:
        self._at_begin = before_epoch
        self._at_end = after_epoch
        self._at_iter = after_iter

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        _empty(self._at_begin)

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        _empty(self._at_end)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        _empty(self._at_iter)


def _empty(wanted: bool) -> None:
    if wanted and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

"""The Runner, its loops, and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from ..checkpoint import LoadFrom, find_latest_checkpoint, load_checkpoint, save_checkpoint
    from .loops import BaseTrainLoop, EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
    from .runner import Runner

__all__ = [
    "BaseTrainLoop",
    "EpochBasedTrainLoop",
    "IterBasedTrainLoop",
    "LoadFrom",
    "Runner",
    "TestLoop",
    "ValLoop",
    "find_latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

__getattr__, __dir__ = late_names(__name__)

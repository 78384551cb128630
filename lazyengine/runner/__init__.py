"""The Runner, its loops, and checkpoints."""

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

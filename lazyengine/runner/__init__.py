"""The Runner, its loops, and checkpoints."""

from ..checkpoint import find_latest_checkpoint, load_checkpoint, save_checkpoint
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from .runner import Runner
from .state import LoadFrom

__all__ = [
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

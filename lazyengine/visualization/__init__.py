"""The visualizer, its backends (plain files and TensorBoard) and the progress bar."""

from __future__ import annotations

from .backend import LocalVisBackend, VisBackend
from .progress import ProgressBar
from .tensorboard_backend import TensorboardVisBackend
from .visualizer import Visualizer

__all__ = ["LocalVisBackend", "ProgressBar", "TensorboardVisBackend", "VisBackend", "Visualizer"]

"""The visualizer, its backends (plain files, TensorBoard, trackers) and the progress bar."""

from __future__ import annotations

from .backend import LocalVisBackend, VisBackend
from .progress import ProgressBar
from .tensorboard_backend import TensorboardVisBackend
from .trackers import MLflowVisBackend, TrackioVisBackend, WandbVisBackend
from .visualizer import Visualizer

__all__ = [
    "LocalVisBackend",
    "MLflowVisBackend",
    "ProgressBar",
    "TensorboardVisBackend",
    "TrackioVisBackend",
    "VisBackend",
    "Visualizer",
    "WandbVisBackend",
]

"""The visualizer and its backends: plain files and TensorBoard."""

from .backend import LocalVisBackend, VisBackend
from .tensorboard_backend import TensorboardVisBackend
from .visualizer import Visualizer

__all__ = ["LocalVisBackend", "TensorboardVisBackend", "VisBackend", "Visualizer"]

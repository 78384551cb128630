"""The digits again, counted in iterations instead of epochs: one node of the base config is replaced."""

from lazyengine.config import LazyCall as L
from lazyengine.config import replace
from lazyengine.runner import IterBasedTrainLoop

from .config import *

train_loop = replace(
    train_loop, L(IterBasedTrainLoop)(dataloader=train_loop.dataloader, max_iters=675, val_interval=45)
)

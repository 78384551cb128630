"""The digits again, counted in iterations instead of epochs: one node is replaced, the hook that saves follows."""

from lazyengine.config import LazyCall as L
from lazyengine.config import replace
from lazyengine.runner import IterBasedTrainLoop

from .config import *

train_loop = replace(
    train_loop, L(IterBasedTrainLoop)(dataloader=train_loop.dataloader, max_iters=675, val_interval=45)
)
default_hooks["checkpoint"].by_epoch = False
default_hooks["checkpoint"].interval = 45

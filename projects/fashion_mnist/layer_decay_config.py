"""The small network with a learning rate that shrinks from the head to the first block: one argument more."""

from .config import *

optimizer.params.layer_decay = 0.8  # head 1, blocks 0.8, 0.64 and 0.51 times the learning rate

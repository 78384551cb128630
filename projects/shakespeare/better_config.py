"""The same size and iterations, a lower loss: rotary positions, normalized queries and keys, learning rate times 4."""

from .config import *

model.rotary = True
model.qk_norm = True
optimizer.lr = 4e-3

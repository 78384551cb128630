"""The digits again, changed in three places: a longer schedule, another optimizer class, a wider network."""

from torch.optim import SGD

from lazyengine.config import LazyCall as L
from lazyengine.config import replace
from lazyengine.optim import param_groups

from .config import *

model.width = 64
train_loop.max_epochs = 30
optimizer = replace(optimizer, L(SGD)(params=L(param_groups)(model=model), lr=0.05, momentum=0.9, weight_decay=5e-4))

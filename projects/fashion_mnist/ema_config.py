"""The small network evaluated with averaged weights: one hook more."""

from lazyengine.config import LazyCall as L
from lazyengine.hooks import EMAHook

from .config import *

default_hooks["ema"] = L(EMAHook)(momentum=0.005, update_buffers=True)  # over about 200 iterations, half an epoch

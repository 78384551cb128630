"""The small network computed in bfloat16: one node is replaced."""

from lazyengine.config import LazyCall as L
from lazyengine.config import replace
from lazyengine.optim import AmpOptimWrapper

from .config import *

optim_wrapper = replace(optim_wrapper, L(AmpOptimWrapper)(optimizer=optimizer, dtype="bfloat16"))

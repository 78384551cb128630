"""nanoGPT's full-size character model (10.6 million parameters) on one GPU: bfloat16, compiled, a fused optimizer."""

from lazyengine.config import LazyCall as L
from lazyengine.config import replace
from lazyengine.model import Compile, ModelSetup
from lazyengine.optim import AmpOptimWrapper

from .config import *

dataset.context = 256
model.num_layers = 6
model.num_heads = 6
model.width = 384
model.dropout = 0.2
optimizer.fused = True
optim_wrapper = replace(
    optim_wrapper, L(AmpOptimWrapper)(optimizer=optimizer, dtype="bfloat16", clip_grad=dict(max_norm=1.0))
)
train_loop.dataloader.batch_size = 64
train_loop.dataloader.num_workers = 4
train_loop.dataloader.pin_memory = True
train_loop.dataloader.persistent_workers = True
train_loop.max_iters = 5000
model_setup = L(ModelSetup)(compile=L(Compile)())
runner.model_setup = model_setup

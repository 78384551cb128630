"""The GPU config over 8 GPUs with FSDP2: the same 64 windows an iteration, weights and optimizer state in shares.

Start it with ``torchrun --nproc_per_node=8 tools/train_net.py --config projects/shakespeare/fsdp_config.py``.
"""

from lazyengine.config import LazyCall as L
from lazyengine.config import replace
from lazyengine.model import FSDP2
from lazyengine.optim import OptimWrapper

from .gpu_config import *

train_loop.dataloader.batch_size = 8  # of each GPU
# FSDP2 itself computes in bfloat16 and keeps float32 weights, so autocast is left out.
optim_wrapper = replace(optim_wrapper, L(OptimWrapper)(optimizer=optimizer, clip_grad=dict(max_norm=1.0)))
model_setup.wrapper = L(FSDP2)(modules=["blocks"], param_dtype="bfloat16", reduce_dtype="float32")
model_setup.compile.modules = ["blocks"]

"""A character GPT on Shakespeare, in nanoGPT's small setting: 2,000 iterations, a few minutes on one CPU core."""

from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.config import ref
from lazyengine.dataset import DataLoader, InfiniteSampler
from lazyengine.evaluator import Evaluator, MeanLoss
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from .gpt import GPT
from .sampling import SampleTextHook
from .text import URL, CharText

dataset = L(CharText)(file=URL, split="train", context=64)
# 4,800 windows are nanoGPT's 400 batches of 12; the mean does not depend on how they are batched.
val_dataset = L(CharText)(file=ref("dataset.file"), split="val", context=ref("dataset.context"), num_windows=4800)

model = L(GPT)(
    vocab_size=65,
    context=ref("dataset.context"),
    num_layers=4,
    num_heads=4,
    width=128,
    dropout=0.0,
    data_preprocessor=L(BaseDataPreprocessor)(),
)
optimizer = L(AdamW)(
    params=L(param_groups)(model=model, norm_decay_mult=0.0), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1
)
optim_wrapper = L(OptimWrapper)(optimizer=optimizer, clip_grad=dict(max_norm=1.0))
warmup = L(LinearLR)(optimizer=optimizer, start_factor=0.01, end=100, by_epoch=False)
decay = L(CosineAnnealingLR)(optimizer=optimizer, begin=100, eta_min=1e-4, by_epoch=False)

train_loop = L(IterBasedTrainLoop)(
    dataloader=L(DataLoader)(dataset=dataset, batch_size=12, sampler=L(InfiniteSampler)(dataset=dataset, shuffle=True)),
    max_iters=2000,
    val_interval=500,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=val_dataset, batch_size=96), evaluator=L(Evaluator)(metrics=[L(MeanLoss)()])
)

default_hooks["logger"].interval = 100
default_hooks["checkpoint"].interval = 500
default_hooks["checkpoint"].by_epoch = False
default_hooks["sample_text"] = L(SampleTextHook)(prompt="\n", num_characters=200, temperature=0.8)

runner = L(Runner)(
    model=model,
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=optim_wrapper,
    param_schedulers=[warmup, decay],
    hooks=default_hooks,
)

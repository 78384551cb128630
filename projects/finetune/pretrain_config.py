"""Pretraining: a vision transformer of the transformers library learns mirrored digits."""

from torch.optim import AdamW
from transformers import ViTConfig, ViTForImageClassification

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator
from lazyengine.model import LossAdapter
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from ..digits.digits import Digits, RandomAffine
from .vit import mirrored

vit = L(ViTConfig)(
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=128,
    id2label={digit: str(digit) for digit in range(10)},  # also says how many classes there are
)
model = L(LossAdapter)(network=L(ViTForImageClassification)(config=vit))  # it computes its own loss
optimizer = L(AdamW)(
    params=L(param_groups)(model=model, norm_decay_mult=0.0, bias_decay_mult=0.0), lr=1e-3, weight_decay=0.05
)

train_dataset = L(Digits)(split="train", pipeline=[L(RandomAffine)(), mirrored])
test_dataset = L(Digits)(split="test", pipeline=[mirrored])
train_loop = L(EpochBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=train_dataset, batch_size=32, sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True)
    ),
    max_epochs=40,
    val_interval=10,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=test_dataset, batch_size=360),
    evaluator=L(Evaluator)(metrics=[L(Accuracy)()]),
)

default_hooks["checkpoint"].interval = 10

runner = L(Runner)(
    model=model,
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer, clip_grad=dict(max_norm=1.0)),
    param_schedulers=[
        L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=45, by_epoch=False),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=45, by_epoch=False),
    ],
    hooks=default_hooks,
)

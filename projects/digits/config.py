"""Handwritten digits: the five-minute example. 99.7 % test accuracy in a few seconds on a CPU."""

from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from .digits import DigitNet, Digits, RandomAffine

model = L(DigitNet)(num_classes=10, width=48, data_preprocessor=L(BaseDataPreprocessor)())
optimizer = L(AdamW)(params=L(param_groups)(model=model), lr=3e-3, weight_decay=0.05)

train_dataset = L(Digits)(split="train", pipeline=[L(RandomAffine)(degrees=10, shift=0.3, scale=0.1)])
test_dataset = L(Digits)(split="test")
train_loop = L(EpochBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=train_dataset,
        batch_size=32,
        sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
    ),
    max_epochs=15,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=test_dataset, batch_size=128),
    evaluator=L(Evaluator)(metrics=[L(Accuracy)()]),
)

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

"""A detector on drawn images of several sizes; a batch is a list with a dict for each image."""

from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Evaluator
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from .average_precision import AveragePrecision
from .detector import Detector
from .shapes import CLASSES, RandomFlip, Shapes

model = L(Detector)(num_classes=len(CLASSES), data_preprocessor=L(BaseDataPreprocessor)())
optimizer = L(AdamW)(params=L(param_groups)(model=model, norm_decay_mult=0.0), lr=2e-3, weight_decay=0.05)

train_dataset = L(Shapes)(split="train", num_images=1000, pipeline=[L(RandomFlip)()])
val_dataset = L(Shapes)(split="val", num_images=200)
train_loop = L(EpochBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=train_dataset,
        batch_size=8,
        collate_fn=list,  # the samples as they are
        sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
    ),
    max_epochs=12,
    val_interval=3,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(
        dataset=val_dataset,
        batch_size=8,
        collate_fn=list,
        sampler=L(DefaultSampler)(dataset=val_dataset, shuffle=False),
    ),
    evaluator=L(Evaluator)(metrics=[L(AveragePrecision)()]),
)

default_hooks["logger"].interval = 50
default_hooks["checkpoint"].interval = 3
default_hooks["checkpoint"].save_best = "mAP"

runner = L(Runner)(
    model=model,
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer, clip_grad=dict(max_norm=10.0)),
    param_schedulers=[
        L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=100, by_epoch=False),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=100, by_epoch=False),
    ],
    hooks=default_hooks,
)

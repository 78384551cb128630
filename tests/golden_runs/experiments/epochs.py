"""Four epochs, clipping, two schedulers in a chain; killed after the second epoch is saved, before its validation."""

from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
from tests.golden_runs.parts import FewDigits, SmallNet

from .common import hooks, visualizer

model = L(SmallNet)(width=4, dropout=0.3, data_preprocessor=L(BaseDataPreprocessor)())
optimizer = L(AdamW)(params=L(param_groups)(model=model), lr=0.01, weight_decay=0.05)
train_dataset = L(FewDigits)(split="train", is_random=True)

runner = L(Runner)(
    model=model,
    train_loop=L(EpochBasedTrainLoop)(
        dataloader=L(DataLoader)(
            dataset=train_dataset,
            batch_size=20,
            sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_epochs=4,
    ),
    val_loop=L(ValLoop)(
        dataloader=L(DataLoader)(dataset=L(FewDigits)(split="test"), batch_size=30),
        evaluator=L(Evaluator)(metrics=[L(Accuracy)(), L(MeanLoss)()]),
    ),
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer, clip_grad=dict(max_norm=1.0)),
    param_schedulers=[
        L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=12, by_epoch=False),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=12, by_epoch=False),
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name="golden_epochs",
    device="cpu",
    seed=1,
)

stop = {"point": "epoch", "at": 2, "signal": "SIGKILL"}
tolerance = {"weights": 1e-3, "metrics": 0.02}

"""Iterations over passes of 11 batches, two batches a step, SGD; killed in mid-pass, two iterations after a save."""

from torch.optim import SGD

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import MultiStepLR, OptimWrapper, PolyLR, param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner, ValLoop
from tests.golden_runs.parts import FewDigits, SmallNet

from .common import hooks, visualizer

model = L(SmallNet)(width=4, dropout=0.3, data_preprocessor=L(BaseDataPreprocessor)())
optimizer = L(SGD)(params=L(param_groups)(model=model), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
train_dataset = L(FewDigits)(split="train", is_random=True, size=165)

hooks["checkpoint"].by_epoch = False
hooks["checkpoint"].interval = 8
hooks["checkpoint"].async_save = True

runner = L(Runner)(
    model=model,
    train_loop=L(IterBasedTrainLoop)(
        dataloader=L(DataLoader)(
            dataset=train_dataset,
            batch_size=15,
            sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_iters=40,
        val_interval=8,
    ),
    val_loop=L(ValLoop)(
        dataloader=L(DataLoader)(dataset=L(FewDigits)(split="test"), batch_size=30),
        evaluator=L(Evaluator)(metrics=[L(Accuracy)(), L(MeanLoss)()]),
    ),
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer, accumulative_counts=2),
    param_schedulers=[
        L(MultiStepLR)(optimizer=optimizer, milestones=[6, 12], gamma=0.5, by_epoch=False),
        L(PolyLR)(optimizer=optimizer, eta_min=1e-3, power=0.9, begin=4, end=20, by_epoch=False),
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name="golden_iterations",
    device="cpu",
    seed=2,
)

stop = {"point": "iter", "at": 18, "signal": "SIGKILL"}
tolerance = {"weights": 1e-3, "metrics": 0.02}

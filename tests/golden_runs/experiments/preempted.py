"""A rate that falls on plateaus and a run that stops early; asked to end by SIGTERM in mid-epoch."""

from torch.optim import SGD

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.hooks import EarlyStoppingHook
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import OptimWrapper, ReduceOnPlateauLR, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
from tests.golden_runs.parts import FewDigits, SmallNet

from .common import hooks, visualizer

model = L(SmallNet)(width=4, dropout=0.3, data_preprocessor=L(BaseDataPreprocessor)())
optimizer = L(SGD)(params=L(param_groups)(model=model), lr=0.05, momentum=0.9)
train_dataset = L(FewDigits)(split="train", is_random=True)

hooks["early_stopping"] = L(EarlyStoppingHook)(monitor="loss", rule="less", min_delta=0.1, patience=4)

runner = L(Runner)(
    model=model,
    train_loop=L(EpochBasedTrainLoop)(
        dataloader=L(DataLoader)(
            dataset=train_dataset,
            batch_size=30,
            sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_epochs=20,
    ),
    val_loop=L(ValLoop)(
        dataloader=L(DataLoader)(dataset=L(FewDigits)(split="test"), batch_size=30),
        evaluator=L(Evaluator)(metrics=[L(Accuracy)(), L(MeanLoss)()]),
    ),
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer),
    param_schedulers=[
        L(ReduceOnPlateauLR)(
            optimizer=optimizer, monitor="loss", factor=0.5, patience=0, threshold=0.1, threshold_rule="abs"
        )
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name="golden_preempted",
    device="cpu",
    seed=5,
)

stop = {"point": "iter", "at": 40, "signal": "SIGTERM"}
tolerance = {"weights": 1e-3, "metrics": 0.02}

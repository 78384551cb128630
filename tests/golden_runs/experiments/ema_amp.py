"""Averaged weights, bfloat16, two batches a step, the best checkpoint kept; killed in mid-pass after a save."""

from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.hooks import EMAHook
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import AmpOptimWrapper, OneCycleLR, param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner, ValLoop
from tests.golden_runs.parts import FewDigits, SmallNet

from .common import hooks, visualizer

model = L(SmallNet)(width=4, dropout=0.3, data_preprocessor=L(BaseDataPreprocessor)())
optimizer = L(AdamW)(params=L(param_groups)(model=model), lr=0.01, weight_decay=0.05)
train_dataset = L(FewDigits)(split="train", is_random=True)

hooks["checkpoint"].by_epoch = False
hooks["checkpoint"].interval = 8
hooks["checkpoint"].save_best = "loss"
hooks["checkpoint"].rule = "less"
hooks["ema"] = L(EMAHook)(momentum=0.2, update_buffers=True)

runner = L(Runner)(
    model=model,
    train_loop=L(IterBasedTrainLoop)(
        dataloader=L(DataLoader)(
            dataset=train_dataset,
            batch_size=20,
            sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_iters=40,
        val_interval=6,
    ),
    val_loop=L(ValLoop)(
        dataloader=L(DataLoader)(dataset=L(FewDigits)(split="test"), batch_size=30),
        evaluator=L(Evaluator)(metrics=[L(Accuracy)(), L(MeanLoss)()]),
    ),
    optim_wrapper=L(AmpOptimWrapper)(
        optimizer=optimizer, dtype="bfloat16", accumulative_counts=2, clip_grad=dict(max_norm=2.0)
    ),
    param_schedulers=[L(OneCycleLR)(optimizer=optimizer, eta_max=0.02, total_steps=20, by_epoch=False)],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name="golden_ema_amp",
    device="cpu",
    seed=4,
)

stop = {"point": "iter", "at": 24, "signal": "SIGKILL"}
tolerance = {"weights": 0.1, "metrics": 0.1}

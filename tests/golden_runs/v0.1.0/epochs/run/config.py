"""Saved by lazyengine from epochs.py. A config like any other: change it, import it, run it."""

from lazyengine.config import LazyCall
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ProgressBarHook,
    RuntimeInfoHook,
)
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
from lazyengine.visualization import LocalVisBackend, Visualizer
from tests.golden_runs.parts import FewDigits, Probe, SmallNet
from torch.optim import AdamW

hooks = {
    'runtime_info': LazyCall(RuntimeInfoHook)(),
    'timer': LazyCall(IterTimerHook)(),
    'sampler_seed': LazyCall(DistSamplerSeedHook)(),
    'logger': LazyCall(LoggerHook)(interval=3),
    'param_scheduler': LazyCall(ParamSchedulerHook)(),
    'progress_bar': LazyCall(ProgressBarHook)(),
    'checkpoint': LazyCall(CheckpointHook)(interval=1, max_keep_ckpts=1),
    'probe': LazyCall(Probe)(),
}
visualizer = LazyCall(Visualizer)(vis_backends=[LazyCall(LocalVisBackend)()])
model = LazyCall(SmallNet)(width=4, dropout=0.3, data_preprocessor=LazyCall(BaseDataPreprocessor)())
optimizer = LazyCall(AdamW)(params=LazyCall(param_groups)(model=model), lr=0.01, weight_decay=0.05)
train_dataset = LazyCall(FewDigits)(split='train', is_random=True)
runner = LazyCall(Runner)(
    model=model,
    train_loop=LazyCall(EpochBasedTrainLoop)(
        dataloader=LazyCall(DataLoader)(
            dataset=train_dataset,
            batch_size=20,
            sampler=LazyCall(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_epochs=4,
    ),
    val_loop=LazyCall(ValLoop)(
        dataloader=LazyCall(DataLoader)(dataset=LazyCall(FewDigits)(split='test'), batch_size=30),
        evaluator=LazyCall(Evaluator)(metrics=[LazyCall(Accuracy)(), LazyCall(MeanLoss)()]),
    ),
    optim_wrapper=LazyCall(OptimWrapper)(optimizer=optimizer, clip_grad={'max_norm': 1.0}),
    param_schedulers=[
        LazyCall(LinearLR)(optimizer=optimizer, start_factor=0.1, end=12, by_epoch=False),
        LazyCall(CosineAnnealingLR)(optimizer=optimizer, begin=12, by_epoch=False),
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name='golden_epochs',
    device='cpu',
    seed=1,
)
stop = {'point': 'epoch', 'at': 2, 'signal': 'SIGKILL'}
tolerance = {'weights': 0.001, 'metrics': 0.02}

"""Saved by lazyengine from iterations.py. A config like any other: change it, import it, run it."""

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
from lazyengine.optim import MultiStepLR, OptimWrapper, PolyLR, param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner, ValLoop
from lazyengine.visualization import LocalVisBackend, Visualizer
from tests.golden_runs.parts import FewDigits, Probe, SmallNet
from torch.optim import SGD

hooks = {
    'runtime_info': LazyCall(RuntimeInfoHook)(),
    'timer': LazyCall(IterTimerHook)(),
    'sampler_seed': LazyCall(DistSamplerSeedHook)(),
    'logger': LazyCall(LoggerHook)(interval=3),
    'param_scheduler': LazyCall(ParamSchedulerHook)(),
    'progress_bar': LazyCall(ProgressBarHook)(),
    'checkpoint': LazyCall(CheckpointHook)(interval=8, max_keep_ckpts=1, by_epoch=False, async_save=True),
    'probe': LazyCall(Probe)(),
}
visualizer = LazyCall(Visualizer)(vis_backends=[LazyCall(LocalVisBackend)()])
model = LazyCall(SmallNet)(width=4, dropout=0.3, data_preprocessor=LazyCall(BaseDataPreprocessor)())
optimizer = LazyCall(SGD)(
    params=LazyCall(param_groups)(model=model),
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.001,
)
train_dataset = LazyCall(FewDigits)(split='train', is_random=True, size=165)
runner = LazyCall(Runner)(
    model=model,
    train_loop=LazyCall(IterBasedTrainLoop)(
        dataloader=LazyCall(DataLoader)(
            dataset=train_dataset,
            batch_size=15,
            sampler=LazyCall(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_iters=40,
        val_interval=8,
    ),
    val_loop=LazyCall(ValLoop)(
        dataloader=LazyCall(DataLoader)(dataset=LazyCall(FewDigits)(split='test'), batch_size=30),
        evaluator=LazyCall(Evaluator)(metrics=[LazyCall(Accuracy)(), LazyCall(MeanLoss)()]),
    ),
    optim_wrapper=LazyCall(OptimWrapper)(optimizer=optimizer, accumulative_counts=2),
    param_schedulers=[
        LazyCall(MultiStepLR)(optimizer=optimizer, milestones=[6, 12], gamma=0.5, by_epoch=False),
        LazyCall(PolyLR)(optimizer=optimizer, eta_min=0.001, power=0.9, begin=4, end=20, by_epoch=False),
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name='golden_iterations',
    device='cpu',
    seed=2,
)
stop = {'point': 'iter', 'at': 18, 'signal': 'SIGKILL'}
tolerance = {'weights': 0.001, 'metrics': 0.02}

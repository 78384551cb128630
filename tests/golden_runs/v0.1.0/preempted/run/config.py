"""Saved by lazyengine from preempted.py. A config like any other: change it, import it, run it."""

from lazyengine.config import LazyCall
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    EarlyStoppingHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ProgressBarHook,
    RuntimeInfoHook,
)
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import OptimWrapper, ReduceOnPlateauLR, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
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
    'checkpoint': LazyCall(CheckpointHook)(interval=1, max_keep_ckpts=1),
    'probe': LazyCall(Probe)(),
    'early_stopping': LazyCall(EarlyStoppingHook)(monitor='loss', rule='less', min_delta=0.1, patience=4),
}
visualizer = LazyCall(Visualizer)(vis_backends=[LazyCall(LocalVisBackend)()])
model = LazyCall(SmallNet)(width=4, dropout=0.3, data_preprocessor=LazyCall(BaseDataPreprocessor)())
optimizer = LazyCall(SGD)(params=LazyCall(param_groups)(model=model), lr=0.05, momentum=0.9)
train_dataset = LazyCall(FewDigits)(split='train', is_random=True)
runner = LazyCall(Runner)(
    model=model,
    train_loop=LazyCall(EpochBasedTrainLoop)(
        dataloader=LazyCall(DataLoader)(
            dataset=train_dataset,
            batch_size=30,
            sampler=LazyCall(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_epochs=20,
    ),
    val_loop=LazyCall(ValLoop)(
        dataloader=LazyCall(DataLoader)(dataset=LazyCall(FewDigits)(split='test'), batch_size=30),
        evaluator=LazyCall(Evaluator)(metrics=[LazyCall(Accuracy)(), LazyCall(MeanLoss)()]),
    ),
    optim_wrapper=LazyCall(OptimWrapper)(optimizer=optimizer),
    param_schedulers=[
        LazyCall(ReduceOnPlateauLR)(
            optimizer=optimizer,
            monitor='loss',
            factor=0.5,
            patience=0,
            threshold=0.1,
            threshold_rule='abs',
        ),
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name='golden_preempted',
    device='cpu',
    seed=5,
)
stop = {'point': 'iter', 'at': 40, 'signal': 'SIGTERM'}
tolerance = {'weights': 0.001, 'metrics': 0.02}

"""Saved by lazyengine from ema_amp.py. A config like any other: change it, import it, run it."""

from lazyengine.config import LazyCall
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator, MeanLoss
from lazyengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    EMAHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ProgressBarHook,
    RuntimeInfoHook,
)
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import AmpOptimWrapper, OneCycleLR, param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner, ValLoop
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
    'checkpoint': LazyCall(CheckpointHook)(
        interval=8,
        max_keep_ckpts=1,
        by_epoch=False,
        save_best='loss',
        rule='less',
    ),
    'probe': LazyCall(Probe)(),
    'ema': LazyCall(EMAHook)(momentum=0.2, update_buffers=True),
}
visualizer = LazyCall(Visualizer)(vis_backends=[LazyCall(LocalVisBackend)()])
model = LazyCall(SmallNet)(width=4, dropout=0.3, data_preprocessor=LazyCall(BaseDataPreprocessor)())
optimizer = LazyCall(AdamW)(params=LazyCall(param_groups)(model=model), lr=0.01, weight_decay=0.05)
train_dataset = LazyCall(FewDigits)(split='train', is_random=True)
runner = LazyCall(Runner)(
    model=model,
    train_loop=LazyCall(IterBasedTrainLoop)(
        dataloader=LazyCall(DataLoader)(
            dataset=train_dataset,
            batch_size=20,
            sampler=LazyCall(DefaultSampler)(dataset=train_dataset, shuffle=True),
            num_workers=0,
        ),
        max_iters=40,
        val_interval=6,
    ),
    val_loop=LazyCall(ValLoop)(
        dataloader=LazyCall(DataLoader)(dataset=LazyCall(FewDigits)(split='test'), batch_size=30),
        evaluator=LazyCall(Evaluator)(metrics=[LazyCall(Accuracy)(), LazyCall(MeanLoss)()]),
    ),
    optim_wrapper=LazyCall(AmpOptimWrapper)(
        optimizer=optimizer,
        dtype='bfloat16',
        accumulative_counts=2,
        clip_grad={'max_norm': 2.0},
    ),
    param_schedulers=[
        LazyCall(OneCycleLR)(optimizer=optimizer, eta_max=0.02, total_steps=20, by_epoch=False),
    ],
    hooks=hooks,
    visualizer=visualizer,
    experiment_name='golden_ema_amp',
    device='cpu',
    seed=4,
)
stop = {'point': 'iter', 'at': 24, 'signal': 'SIGKILL'}
tolerance = {'weights': 0.1, 'metrics': 0.1}

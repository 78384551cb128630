"""Saved by lazyengine from gan.py. A config like any other: change it, import it, run it."""

from lazyengine.config import LazyCall
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Evaluator
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
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, OptimWrapperDict, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
from lazyengine.visualization import LocalVisBackend, Visualizer
from tests.golden_runs.parts import (
    DrawnDistance,
    FewDigits,
    Probe,
    SmallDiscriminator,
    SmallGAN,
    SmallGenerator,
)
from torch.optim import Adam

hooks = {
    'runtime_info': LazyCall(RuntimeInfoHook)(),
    'timer': LazyCall(IterTimerHook)(),
    'sampler_seed': LazyCall(DistSamplerSeedHook)(),
    'logger': LazyCall(LoggerHook)(interval=3),
    'param_scheduler': LazyCall(ParamSchedulerHook)(),
    'progress_bar': LazyCall(ProgressBarHook)(),
    'checkpoint': LazyCall(CheckpointHook)(interval=4, max_keep_ckpts=1, by_epoch=False),
    'probe': LazyCall(Probe)(),
}
visualizer = LazyCall(Visualizer)(vis_backends=[LazyCall(LocalVisBackend)()])
generator = LazyCall(SmallGenerator)(noise_size=4, width=2)
discriminator = LazyCall(SmallDiscriminator)(width=2)
model = LazyCall(SmallGAN)(
    generator=generator,
    discriminator=discriminator,
    penalty=0.1,
    data_preprocessor=LazyCall(BaseDataPreprocessor)(),
)
generator_optimizer = LazyCall(Adam)(
    params=LazyCall(param_groups)(model=generator),
    lr=0.01,
    betas=(0.5, 0.99),
)
discriminator_optimizer = LazyCall(Adam)(
    params=LazyCall(param_groups)(model=discriminator),
    lr=0.01,
    betas=(0.5, 0.99),
)
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
        val_interval=2,
    ),
    val_loop=LazyCall(ValLoop)(
        dataloader=LazyCall(DataLoader)(dataset=LazyCall(FewDigits)(split='test'), batch_size=60),
        evaluator=LazyCall(Evaluator)(metrics=[LazyCall(DrawnDistance)()]),
    ),
    optim_wrapper=LazyCall(OptimWrapperDict)(
        generator=LazyCall(OptimWrapper)(optimizer=generator_optimizer),
        discriminator=LazyCall(OptimWrapper)(optimizer=discriminator_optimizer),
    ),
    param_schedulers={
        'generator': [
            LazyCall(LinearLR)(optimizer=generator_optimizer, start_factor=0.1, end=10, by_epoch=False),
            LazyCall(CosineAnnealingLR)(optimizer=generator_optimizer, begin=10, by_epoch=False),
        ],
        'discriminator': [LazyCall(CosineAnnealingLR)(optimizer=discriminator_optimizer, by_epoch=False)],
    },
    hooks=hooks,
    visualizer=visualizer,
    experiment_name='golden_gan',
    device='cpu',
    seed=3,
)
stop = {'point': 'iter', 'at': 12, 'signal': 'SIGKILL'}
tolerance = {'weights': 0.001, 'metrics': 0.02}

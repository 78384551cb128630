"""Two networks, two optimizers with a schedule each, a training step of its own; killed in mid-epoch after a save."""

from torch.optim import Adam

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Evaluator
from lazyengine.model import BaseDataPreprocessor
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, OptimWrapperDict, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
from tests.golden_runs.parts import DrawnDistance, FewDigits, SmallDiscriminator, SmallGAN, SmallGenerator

from .common import hooks, visualizer

generator = L(SmallGenerator)(noise_size=4, width=2)
discriminator = L(SmallDiscriminator)(width=2)
model = L(SmallGAN)(
    generator=generator, discriminator=discriminator, penalty=0.1, data_preprocessor=L(BaseDataPreprocessor)()
)
generator_optimizer = L(Adam)(params=L(param_groups)(model=generator), lr=0.01, betas=(0.5, 0.99))
discriminator_optimizer = L(Adam)(params=L(param_groups)(model=discriminator), lr=0.01, betas=(0.5, 0.99))
train_dataset = L(FewDigits)(split="train", is_random=True)

hooks["checkpoint"].by_epoch = False
hooks["checkpoint"].interval = 4

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
        val_interval=2,
    ),
    val_loop=L(ValLoop)(
        dataloader=L(DataLoader)(dataset=L(FewDigits)(split="test"), batch_size=60),
        evaluator=L(Evaluator)(metrics=[L(DrawnDistance)()]),
    ),
    optim_wrapper=L(OptimWrapperDict)(
        generator=L(OptimWrapper)(optimizer=generator_optimizer),
        discriminator=L(OptimWrapper)(optimizer=discriminator_optimizer),
    ),
    param_schedulers=dict(
        generator=[
            L(LinearLR)(optimizer=generator_optimizer, start_factor=0.1, end=10, by_epoch=False),
            L(CosineAnnealingLR)(optimizer=generator_optimizer, begin=10, by_epoch=False),
        ],
        discriminator=[L(CosineAnnealingLR)(optimizer=discriminator_optimizer, by_epoch=False)],
    ),
    hooks=hooks,
    visualizer=visualizer,
    experiment_name="golden_gan",
    device="cpu",
    seed=3,
)

stop = {"point": "iter", "at": 12, "signal": "SIGKILL"}
tolerance = {"weights": 1e-3, "metrics": 0.02}

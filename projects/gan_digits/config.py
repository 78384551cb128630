"""A GAN on the digits: two optimizers with a schedule each, a training step of its own, pictures in the log."""

from torch.optim import Adam

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Evaluator
from lazyengine.model import DDP, BaseDataPreprocessor, ModelSetup
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, OptimWrapperDict, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from ..digits.digits import Digits
from .drawing import DrawImagesHook
from .gan import GAN, Discriminator, DrawnNeighbors, Generator

generator = L(Generator)(noise_size=16, width=32)
discriminator = L(Discriminator)(width=32)
model = L(GAN)(
    generator=generator, discriminator=discriminator, penalty=0.1, data_preprocessor=L(BaseDataPreprocessor)()
)

generator_optimizer = L(Adam)(params=L(param_groups)(model=generator), lr=1e-3, betas=(0.5, 0.99))
discriminator_optimizer = L(Adam)(params=L(param_groups)(model=discriminator), lr=1e-3, betas=(0.5, 0.99))

train_dataset = L(Digits)(split="train")
train_loop = L(EpochBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=train_dataset,
        batch_size=32,
        sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
    ),
    max_epochs=60,
    val_interval=5,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=L(Digits)(split="test"), batch_size=360),
    evaluator=L(Evaluator)(metrics=[L(DrawnNeighbors)()]),
)

default_hooks["checkpoint"].interval = 5
default_hooks["checkpoint"].save_best = "neighbors"
default_hooks["checkpoint"].rule = "greater"
default_hooks["draw_images"] = L(DrawImagesHook)(interval=5)

runner = L(Runner)(
    model=model,
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=L(OptimWrapperDict)(
        generator=L(OptimWrapper)(optimizer=generator_optimizer),
        discriminator=L(OptimWrapper)(optimizer=discriminator_optimizer),
    ),
    # With several ranks: each network has no part in the loss of the other.
    model_setup=L(ModelSetup)(wrapper=L(DDP)(find_unused_parameters=True)),
    param_schedulers=dict(
        generator=[
            L(LinearLR)(optimizer=generator_optimizer, start_factor=0.1, end=30, by_epoch=False),
            L(CosineAnnealingLR)(optimizer=generator_optimizer, begin=30, by_epoch=False),
        ],
        discriminator=[L(CosineAnnealingLR)(optimizer=discriminator_optimizer, by_epoch=False)],
    ),
    hooks=default_hooks,
)

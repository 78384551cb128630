"""Fashion-MNIST with a network of 93,738 parameters."""

from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.config import ref
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from .fashion_mnist import FashionMnist, ImagePreprocessor
from .networks import SmallNet

model = L(SmallNet)(
    widths=(32, 64, 112),
    label_smoothing=0.05,
    data_preprocessor=L(ImagePreprocessor)(shift=1, flip=0.5),
)
optimizer = L(AdamW)(params=L(param_groups)(model=model, norm_decay_mult=0.0), lr=3e-3, weight_decay=0.05)
optim_wrapper = L(OptimWrapper)(optimizer=optimizer)

train_dataset = L(FashionMnist)(split="train", root="/usr/share/datasets/fashion-mnist")  # or a URL, see the README
test_dataset = L(FashionMnist)(split="test", root=ref("train_dataset.root"))
train_loop = L(EpochBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=train_dataset,
        batch_size=128,
        sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True),
    ),
    max_epochs=12,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=test_dataset, batch_size=500),
    evaluator=L(Evaluator)(metrics=[L(Accuracy)()]),
)

default_hooks["logger"].interval = 50
runner = L(Runner)(
    model=model,
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=optim_wrapper,
    param_schedulers=[  # positions in epochs, changed at every iteration
        L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=0.5, convert_to_iter_based=True),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=0.5, convert_to_iter_based=True),
    ],
    hooks=default_hooks,
)

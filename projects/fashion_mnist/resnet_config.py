"""Fashion-MNIST with residual blocks and stronger augmentation, computed in bfloat16."""

from lazyengine.config import LazyCall as L
from lazyengine.config import replace

from .bf16_config import *
from .fashion_mnist import ImagePreprocessor
from .networks import ResNet

model = replace(
    model,
    L(ResNet)(
        width=64,
        label_smoothing=0.1,
        dropout=0.1,
        data_preprocessor=L(ImagePreprocessor)(shift=2, flip=0.5, erase=8),
    ),
)
optimizer.lr = 4e-3
train_loop.max_epochs = 12

"""The two networks: a small one with three convolutions, and one with residual blocks."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.model import BaseDataPreprocessor, BaseModel

Mode = Literal["loss", "predict", "tensor"]


class ConvBlock(nn.Sequential):
    """A 3 x 3 convolution, batch normalization, ReLU and, where asked for, 2 x 2 max pooling.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        pool: Whether to halve height and width at the end.
    """

    def __init__(self, in_channels: int, out_channels: int, pool: bool = False) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        super().__init__(*layers, *([nn.MaxPool2d(2)] if pool else []))


class ResidualBlock(nn.Module):
    """Two convolution blocks whose output is added to their input; `(N, channels, H, W)` stays that shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus what the convolutions make of it."""
        return x + self.residual(x)


class Classifier(BaseModel):
    """Blocks and a linear layer over all features that come out of them, trained by cross-entropy.

    Weights and images lie in memory with the channels last, which makes convolutions on a CPU 1.4 times as fast.

    Args:
        blocks: What turns images `(N, 1, 28, 28)` into features; numbered, as layer-wise decay of the learning rate
            needs it.
        num_features: Features of one image.
        num_classes: Number of classes.
        label_smoothing: Part of the target that is spread over all classes, in [0, 1).
        dropout: Probability of dropping a feature before the linear layer.
        data_preprocessor: Prepares the batch.
    """

    def __init__(
        self,
        blocks: list[nn.Module],
        num_features: int,
        num_classes: int,
        label_smoothing: float,
        dropout: float,
        data_preprocessor: BaseDataPreprocessor | None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, num_classes)
        self.label_smoothing = label_smoothing
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a form that torch documents

    def forward(self, image: Tensor, label: Tensor, mode: Mode = "tensor") -> dict[str, Tensor] | Tensor:
        """Run the network.

        Args:
            image: Images `(N, 1, H, W)`, normalized float.
            label: Classes `(N,)`, int64.
            mode: ``"loss"`` for training, ``"predict"`` for evaluation, ``"tensor"`` for the scores alone.

        Returns:
            A dict with the scalar ``loss``; a dict with ``scores`` `(N, num_classes)` and ``label`` `(N,)`; or the
            scores.
        """
        features = self.blocks(image.contiguous(memory_format=torch.channels_last))
        scores = self.head(self.dropout(features.flatten(1)))
        if mode == "loss":
            return {"loss": F.cross_entropy(scores, label, label_smoothing=self.label_smoothing)}
        if mode == "predict":
            return {"scores": scores, "label": label}
        return scores


class SmallNet(Classifier):
    """Three convolution blocks; 93,738 parameters with the default widths.

    Args:
        widths: Channels of the three blocks.
        num_classes: See `Classifier`, like the arguments that follow.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 112),
        num_classes: int = 10,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        data_preprocessor: BaseDataPreprocessor | None = None,
    ) -> None:
        first, second, third = widths
        channels = [(1, first), (first, second), (second, third)]
        blocks: list[nn.Module] = [ConvBlock(before, after, pool=True) for before, after in channels]
        super().__init__(blocks, third * 3 * 3, num_classes, label_smoothing, dropout, data_preprocessor)


class ResNet(Classifier):
    """Three stages, the last two with a residual block: 9 layers; 1.8 million parameters with 64 channels.

    The arrangement is that of David Page's fast network for CIFAR-10 (https://myrtle.ai/learn/how-to-train-your-resnet).

    Args:
        width: Channels of the first stage; each of the other two has twice as many as the one before.
        num_classes: See `Classifier`, like the arguments that follow.
    """

    def __init__(
        self,
        width: int = 64,
        num_classes: int = 10,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        data_preprocessor: BaseDataPreprocessor | None = None,
    ) -> None:
        blocks: list[nn.Module] = [
            ConvBlock(1, width, pool=True),
            nn.Sequential(ConvBlock(width, 2 * width), ResidualBlock(2 * width), nn.MaxPool2d(2)),
            nn.Sequential(ConvBlock(2 * width, 4 * width), ResidualBlock(4 * width), nn.AdaptiveAvgPool2d(1)),
        ]
        super().__init__(blocks, 4 * width, num_classes, label_smoothing, dropout, data_preprocessor)

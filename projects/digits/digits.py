"""The handwritten digits of the UCI set, and a small convolutional network for them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.dataset import BaseDataset
from lazyengine.model import BaseDataPreprocessor, BaseModel

_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits.csv.gz")


def stratified_test_mask(labels: np.ndarray, fraction: float = 0.2) -> np.ndarray:
    """Choose the test images: the same fraction of every class, always the same ones.

    Args:
        labels: Class of each image, integers of shape `(N,)`.
        fraction: Part of each class that goes to the test set.

    Returns:
        A bool array of shape `(N,)`.
    """
    rng = np.random.RandomState(0)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        mask[members[: round(len(members) * fraction)]] = True
    return mask


class Digits(BaseDataset):
    """1,797 images of 8 x 8 pixels, 10 classes, split 80 to 20.

    Args:
        split: ``"train"`` (1,438 images) or ``"test"`` (359 images).
        pipeline: Callables applied to each sample, a dict with ``image`` (float32 tensor of shape `(1, 8, 8)`, values
            in [0, 1]) and ``label`` (int).
        file: Another file of the same layout: 64 pixel values in 0..16 and the class, one image a line.
    """

    METAINFO = {"name": "UCI handwritten digits", "classes": tuple("0123456789")}  # noqa: RUF012

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        pipeline: Sequence[Callable[[Any], Any]] = (),
        file: str = _FILE,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        self.split = split
        super().__init__(ann_file=file, pipeline=list(pipeline), test_mode=split == "test")

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the file and return the records of the split."""
        table = np.loadtxt(self.ann_file, delimiter=",", dtype=np.uint8)
        pixels, labels = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64]
        chosen = stratified_test_mask(labels) == (self.split == "test")
        return [{"image": x, "label": int(y)} for x, y in zip(pixels[chosen], labels[chosen])]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Return the sample: the image as a float tensor, and its label."""
        record = self.get_data_info(idx)
        image = torch.from_numpy(record["image"].astype(np.float32) / 16)
        return self.pipeline({"image": image, "label": record["label"]})


class RandomAffine:
    """Turn, scale and move the image a little; values between pixels are interpolated, the border is 0.

    Args:
        degrees: Largest turn to either side.
        shift: Largest move in each direction, in pixels.
        scale: Largest relative change of size.
    """

    def __init__(self, degrees: float = 10.0, shift: float = 0.3, scale: float = 0.1) -> None:
        self.degrees = degrees
        self.shift = shift
        self.scale = scale

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its image moved."""
        image = sample["image"]
        turn, dx, dy, size = (torch.rand(4) * 2 - 1).tolist()
        angle, factor = math.radians(turn * self.degrees), 1 + size * self.scale
        cos, sin = factor * math.cos(angle), factor * math.sin(angle)
        step = 2 * self.shift / image.shape[-1]  # a pixel, in the coordinates from -1 to 1 of affine_grid
        matrix = torch.tensor([[[cos, -sin, dx * step], [sin, cos, dy * step]]])
        grid = F.affine_grid(matrix, [1, *image.shape], align_corners=False)
        sample["image"] = F.grid_sample(image[None], grid, align_corners=False)[0]
        return sample


class DigitNet(BaseModel):
    """Two convolution blocks and a linear layer; about 54,000 parameters.

    Args:
        num_classes: Number of classes.
        width: Channels of the first block; the second has twice as many.
        dropout: Probability of dropping a feature before the linear layer.
        data_preprocessor: Moves the batch to the model's device.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 48,
        dropout: float = 0.3,
        data_preprocessor: BaseDataPreprocessor | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(2 * width * 16, num_classes)

    def forward(
        self, image: Tensor, label: Tensor, mode: Literal["loss", "predict", "tensor"] = "tensor"
    ) -> dict[str, Tensor] | Tensor:
        """Run the network.

        Args:
            image: Images `(N, 1, 8, 8)`, float, values in [0, 1].
            label: Classes `(N,)`, int64.
            mode: ``"loss"`` for training, ``"predict"`` for evaluation, ``"tensor"`` for the scores alone.

        Returns:
            A dict with the scalar ``loss``; a dict with ``scores`` `(N, num_classes)` and ``label`` `(N,)`; or the
            scores.
        """
        scores = self.head(self.backbone(image))
        if mode == "loss":
            return {"loss": F.cross_entropy(scores, label)}
        if mode == "predict":
            return {"scores": scores, "label": label}
        return scores

"""Drawn images of several sizes with disks, squares and triangles, and their boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

CLASSES = ("disk", "square", "triangle")
_FIRST = {"train": 0, "val": 1_000_000}  # seeds of the images of a split


class Shapes(Dataset[dict[str, Any]]):
    """Images of 48 to 96 pixels a side with one to five shapes, which may hide one another in part; no file is needed.

    An image is a function of its number.

    Args:
        split: ``"train"`` or ``"val"``: different images.
        num_images: Number of images.
        pipeline: Callables applied to each sample.

    Attributes:
        metainfo: ``classes``, their names.

    Raises:
        ValueError: ``split`` is another word.
    """

    metainfo = {"classes": CLASSES}  # noqa: RUF012

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        num_images: int = 1000,
        pipeline: Sequence[Callable[..., Any]] = (),
    ) -> None:
        if split not in _FIRST:
            raise ValueError(f"split={split!r}: expected 'train' or 'val'")
        self.first = _FIRST[split]
        self.num_images = num_images
        self.pipeline = list(pipeline)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``image`` `(3, H, W)`, float32 in [0, 1], ``boxes`` `(n, 4)`, float32, and ``labels`` `(n,)`, int64.

        A box is ``x1, y1, x2, y2`` in pixels.
        """
        if not 0 <= index < self.num_images:
            raise IndexError(index)
        sample = draw(np.random.default_rng(self.first + index))
        for step in self.pipeline:
            sample = step(sample)
        return sample


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Return an image with its boxes and classes, as `Shapes` has it."""
    height, width = rng.integers(48, 97, 2)
    image = rng.uniform(0, 0.6, (3, 1, 1)) + rng.normal(0, 0.08, (3, height, width))
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(rng.integers(1, 6)):
        size = int(rng.integers(10, 29))
        left, top = int(rng.integers(0, width - size)), int(rng.integers(0, height - size))
        box = (left, top, left + size, top + size)
        if any(overlap(box, other) > 0.3 for other in boxes):
            continue
        labels.append(int(rng.integers(len(CLASSES))))
        boxes.append(box)
        part = image[:, top : top + size, left : left + size]
        color = rng.uniform(0.3, 1, (3, 1, 1))
        part[:] = np.where(mask(CLASSES[labels[-1]], size), color + rng.normal(0, 0.08, part.shape), part)
    return {
        "image": torch.from_numpy(image.clip(0, 1).astype(np.float32)),
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels),
    }


def mask(shape: str, size: int) -> np.ndarray:
    """Return where in its box a shape is: bool `(size, size)`."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    if shape == "disk":
        return x**2 + y**2 <= 1
    return np.abs(x) <= (y + 1) / 2 if shape == "triangle" else np.ones((size, size), bool)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection of two boxes over the area of the smaller one."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0) * max(height, 0) / smaller


class RandomFlip:
    """Exchange left and right in every second image, drawn at random, with its boxes."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample, flipped or not."""
        if torch.rand(()) < 0.5:
            return sample
        x1, y1, x2, y2 = sample["boxes"].unbind(1)
        width = sample["image"].shape[2]
        boxes = torch.stack((width - x2, y1, width - x1, y2), dim=1)
        return {**sample, "image": sample["image"].flip(2), "boxes": boxes}


def pad_images(images: Sequence[Tensor], divisor: int) -> Tensor:
    """Stack images `(3, H, W)` of several sizes, padded with 0 at the bottom and on the right.

    Returns:
        A tensor `(N, 3, H, W)`, whose height and width are multiples of ``divisor``.
    """
    height, width = (-(-max(image.shape[i] for image in images) // divisor) * divisor for i in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for place, image in zip(batch, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch

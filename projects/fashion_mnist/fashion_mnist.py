"""The images of Fashion-MNIST, read from their IDX files, and what happens to a batch of them before the network."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lazyengine import fileio
from lazyengine.dataset import BaseDataset
from lazyengine.model import BaseDataPreprocessor

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"


def read_idx(root: str, name: str) -> np.ndarray:
    """Read an IDX file of bytes, packed by gzip (``name.gz``) or not (``name``).

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension as a big-endian 32-bit
    integer, and the values (http://yann.lecun.com/exdb/mnist).

    Args:
        root: Folder or URL that holds the file.
        name: File name without ``.gz``.

    Returns:
        A uint8 array of the shape that the file gives.

    Raises:
        FileNotFoundError: There is neither of the two files.
        ValueError: The file is no such IDX file, or is cut off.
    """
    place, content = _read_either(root, (f"{name}.gz", name))
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{place} is damaged ({error}) · delete it and get it again from {URL}") from error
    num_dims = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    if not num_dims:
        raise ValueError(
            f"{place} is no IDX file of bytes: it begins with {content[:16]!r}, expected b'\\x00\\x00\\x08' and the "
            f"number of dimensions · get it again from {URL}"
        )
    begin = 4 + 4 * num_dims
    shape = struct.unpack(f">{num_dims}I", content[4:begin].ljust(4 * num_dims, b"\0"))
    if len(content) - begin != math.prod(shape):
        raise ValueError(
            f"{place} is cut off or damaged: its header says {shape}, which is {math.prod(shape)} values, and "
            f"{max(len(content) - begin, 0)} follow · get it again from {URL}"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy()  # a copy can be written to


def _read_either(root: str, names: Sequence[str]) -> tuple[str, bytes]:
    paths = [fileio.join(root, name) for name in names]
    failures = []
    for path in paths:
        try:
            with fileio.open(path, "rb") as file:
                return path, file.read()
        except OSError as error:  # also what urllib raises when a server does not have the file
            failures.append(error)
    raise FileNotFoundError(
        f"neither {paths[0]} nor {paths[1]} can be read ({failures[0]}) · install Debian's package "
        f"dataset-fashion-mnist (its folder is {DEBIAN_FOLDER}), or set train_dataset.root to a folder with "
        f"the four files, or to {URL}"
    ) from failures[0]


class FashionMnist(BaseDataset):
    """70,000 grey images of 28 x 28 pixels of clothes, 10 classes (https://github.com/zalandoresearch/fashion-mnist).

    A sample is a dict with ``image`` (uint8 tensor of shape `(28, 28)`) and ``label`` (int). Images stay bytes until a
    whole batch is on the model's device (`ImagePreprocessor`), so reading is no bottleneck.

    Args:
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000 images).
        root: Folder or URL with the IDX files, packed by gzip or not.
        indices: Keep the first ones only (an int), or these.
        pipeline: Callables applied to each sample.
    """

    METAINFO = {  # noqa: RUF012
        "name": "Fashion-MNIST",
        "classes": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
    }

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        root: str = DEBIAN_FOLDER,
        indices: int | Sequence[int] | None = None,
        pipeline: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        self.split = split
        self.root = root
        super().__init__(indices=indices, pipeline=pipeline, test_mode=split == "test")

    def load_data_list(self) -> Iterator[dict[str, Any]]:
        """Read the two files of the split and yield the records."""
        prefix = {"train": "train", "test": "t10k"}[self.split]
        images = read_idx(self.root, f"{prefix}-images-idx3-ubyte")
        labels = read_idx(self.root, f"{prefix}-labels-idx1-ubyte")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{self.root}: the images of {prefix} have shape {images.shape} and their labels {labels.shape}; "
                "expected (N, height, width) and (N,) · the files do not belong together, get all four again"
            )
        for image, label in zip(images, labels.tolist()):
            yield {"image": image, "label": label}

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Return the sample: the image as a tensor of bytes, and its label."""
        record = self.get_data_info(idx)
        return self.pipeline({"image": torch.from_numpy(record["image"]), "label": record["label"]})


class ImagePreprocessor(BaseDataPreprocessor):
    """Makes float images of bytes, normalizes them and, in training, moves and mirrors each one at random.

    It works on the whole batch, on the model's device. Its random numbers are the model's, which the engine seeds for
    each iteration, so a resumed run sees the same images.

    Args:
        mean: Mean of the bytes, subtracted. The default is that of the training images.
        std: Standard deviation of the bytes, divided by.
        shift: Largest move in each direction, in pixels; what moves in is black.
        flip: Probability of mirroring left and right.
        erase: Side of a square, in pixels, that is set to the mean at a random place (cutout); 0 for none.
    """

    def __init__(
        self, mean: float = 72.94, std: float = 90.02, shift: int = 0, flip: float = 0.0, erase: int = 0
    ) -> None:
        super().__init__()
        if std <= 0 or shift < 0 or erase < 0 or not 0 <= flip <= 1:
            raise ValueError(
                f"std={std}, shift={shift}, flip={flip}, erase={erase}: expected std > 0, shift >= 0, erase >= 0 and "
                "flip in [0, 1]"
            )
        self.mean, self.std = mean, std
        self.shift, self.flip, self.erase = shift, flip, erase

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare one batch.

        Args:
            data: A dict with ``image``, uint8 of shape `(N, H, W)`, and ``label`` `(N,)`.
            training: Whether to move and mirror.

        Returns:
            The dict with ``image`` as float32 of shape `(N, 1, H, W)`.
        """
        data = self.cast_data(data)
        image = data["image"]
        if training and (self.shift or self.flip):
            image = self._move(image)
        image = image.float().sub_(self.mean).div_(self.std)
        if training and self.erase:
            image = self._erase(image)
        return {**data, "image": image[:, None]}

    def _move(self, image: Tensor) -> Tensor:
        num, height, width = image.shape
        device, reach = image.device, 2 * self.shift + 1
        rows = torch.arange(height, device=device) + torch.randint(reach, (num, 1), device=device)
        columns = torch.arange(width, device=device) + torch.randint(reach, (num, 1), device=device)
        is_mirrored = torch.rand(num, 1, device=device) < self.flip
        columns = torch.where(is_mirrored, columns.flip(1), columns)
        padded = F.pad(image, [self.shift] * 4)
        return padded[torch.arange(num, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]

    def _erase(self, image: Tensor) -> Tensor:
        num, height, width = image.shape
        device = image.device
        top = torch.randint(height, (num, 1), device=device) - self.erase // 2
        left = torch.randint(width, (num, 1), device=device) - self.erase // 2
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        is_row = (rows >= top) & (rows < top + self.erase)
        is_column = (columns >= left) & (columns < left + self.erase)
        return image.masked_fill_(is_row[:, :, None] & is_column[:, None, :], 0.0)

"""What the golden experiments are made of: a few digits, two small models, a metric, and a hook that looks on.

Nothing here may change what a run computes, nor its name: the golden folders were made with it, and their saved configs
import it. Images are drawn with exact arithmetic only (no `randn`): the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.dataset import BaseDataset
from lazyengine.evaluator import TensorMetric
from lazyengine.hooks import Hook
from lazyengine.model import BaseDataPreprocessor, BaseModel

_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits.csv.gz")
NUM_TRAIN = 180


class FewDigits(BaseDataset):
    """The first 240 images, 8 x 8, of the UCI digits: 180 to train, 60 to test.

    Training images are moved by a pixel at most, dimmed and disturbed, drawn from the three random modules.

    Args:
        split: ``"train"`` or ``"test"``.
        is_random: Whether the images are disturbed anew whenever they are read.
        size: How many of the split's images to take; None for all.
    """

    METAINFO = {"name": "few digits", "classes": tuple("0123456789")}  # noqa: RUF012

    def __init__(
        self, split: Literal["train", "test"] = "train", is_random: bool = False, size: int | None = None
    ) -> None:
        self.split = split
        self.is_random = is_random
        self.size = size
        super().__init__(test_mode=split == "test")

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the file and return the records of the split."""
        table = np.loadtxt(_FILE, delimiter=",", dtype=np.uint8)
        rows = table[:NUM_TRAIN] if self.split == "train" else table[NUM_TRAIN:]
        return [{"image": row[:64].reshape(1, 8, 8), "label": int(row[64])} for row in rows[: self.size]]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Return the sample: the image as a float tensor in about [0, 1], its label and its index."""
        record = self.get_data_info(idx)
        image = torch.from_numpy(record["image"].astype(np.float32) / 16)
        if self.is_random:
            top, left = random.randint(0, 2), int(np.random.randint(3))
            image = F.pad(image, (1, 1, 1, 1))[:, top : top + 8, left : left + 8]
            image = (1 - 0.25 * torch.rand(())) * image + 0.125 * torch.rand(image.shape)
        return {"image": image, "label": record["label"], "index": idx}


class SmallNet(BaseModel):
    """Two convolutions with batch norm, dropout and a linear layer.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        dropout: Probability of dropping a feature.
        data_preprocessor: Moves the batch to the model's device.
    """

    def __init__(
        self, width: int = 4, dropout: float = 0.3, data_preprocessor: BaseDataPreprocessor | None = None
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
        self.head = nn.Linear(2 * width * 16, 10)

    def forward(self, image: Tensor, label: Tensor, index: Tensor, mode: str = "tensor") -> Any:
        """Return the loss, the scores with the loss of each sample, or the scores."""
        scores = self.head(self.backbone(image))
        if mode == "loss":
            return {"loss": F.cross_entropy(scores, label)}
        if mode == "predict":
            return {"scores": scores, "label": label, "loss": F.cross_entropy(scores.float(), label, reduction="none")}
        return scores


class SmallGenerator(nn.Module):
    """Draws images `(N, 1, 8, 8)` of given classes.

    Args:
        noise_size: Length of the noise vector.
        width: Channels of the hidden layers.
    """

    def __init__(self, noise_size: int = 4, width: int = 2) -> None:
        super().__init__()
        self.noise_size = noise_size
        self.classes = nn.Embedding(10, noise_size)
        self.net = nn.Sequential(
            nn.Linear(2 * noise_size, 16 * width),
            nn.Unflatten(1, (4 * width, 2, 2)),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        """Return images in [0, 1] for noise `(N, noise_size)` and classes `(N,)`."""
        return self.net(torch.cat((noise, self.classes(label)), dim=1))


class SmallDiscriminator(nn.Module):
    """Scores images of classes.

    Args:
        width: Channels of the first layer.
    """

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.score = nn.Linear(8 * width, 1)
        self.classes = nn.Embedding(10, 8 * width)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Return scores `(N,)`, greater for images that look real."""
        features = self.net(image)
        return self.score(features).squeeze(1) + (features * self.classes(label)).mean(1)


class SmallGAN(BaseModel):
    """Trains a generator and a discriminator against one another, each with an optimizer of its own.

    Args:
        generator: Makes images out of noise and classes.
        discriminator: Scores images of classes.
        penalty: Weight of the gradient penalty on real images.
        data_preprocessor: Moves the batch to the model's device.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        penalty: float = 0.1,
        data_preprocessor: BaseDataPreprocessor | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.generator = generator
        self.discriminator = discriminator
        self.penalty = penalty

    def train_step(self, data: Any, optim_wrapper: Any, forward: Any = None) -> dict[str, Any]:
        """Update the discriminator, then the generator, on one batch."""
        run = forward or self
        data = self.data_preprocessor(data, True)
        log_vars: dict[str, Any] = {}
        for player in ("discriminator", "generator"):
            self.discriminator.requires_grad_(player == "discriminator")
            wrapper = optim_wrapper[player]
            with wrapper.optim_context(run):
                losses = run(**data, mode=player)
            loss, values = self.parse_losses(losses)
            wrapper.update_params(loss)
            log_vars |= {name: value for name, value in values.items() if name != "loss"}
        return log_vars

    def forward(self, image: Tensor, label: Tensor, index: Tensor, mode: str = "tensor") -> Any:
        """Return a player's losses; real and drawn images with their classes; or the drawn images."""
        drawn = self.draw(label)
        if mode == "discriminator":
            image = image.requires_grad_()
            real, fake = self.discriminator(image, label), self.discriminator(drawn.detach(), label)
            (slope,) = torch.autograd.grad(real.sum(), image, create_graph=True)
            return {
                "loss_discriminator": (F.softplus(-real) + F.softplus(fake)).mean(),
                "loss_penalty": self.penalty * slope.square().sum((1, 2, 3)).mean(),
            }
        if mode == "generator":
            return {"loss_generator": F.softplus(-self.discriminator(drawn, label)).mean()}
        return {"image": image, "drawn": drawn} if mode == "predict" else drawn

    def draw(self, label: Tensor) -> Tensor:
        """Draw an image for each of the classes, from uniform noise."""
        noise_size: Any = self.generator.noise_size
        return self.generator(2 * torch.rand(len(label), noise_size) - 1, label)


class DrawnDistance(TensorMetric):
    """Mean squared distance between real images and those that were drawn of their classes."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep the distance of each sample."""
        self.results.append((data_samples["image"] - data_samples["drawn"]).square().flatten(1).mean(1, keepdim=True))

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return ``distance``."""
        return {"distance": results.double().mean().item()}


class Probe(Hook):
    """Notes which samples a run saw and how it was validated; where `stop` says so, ends the process.

    Runs last at every point, when what belongs to the iteration has been saved.

    Attributes:
        first_iter: Completed iterations when training began here; None before.
        batches: The indices of the samples of each batch.
        draws: A digest of each batch's images.
        validations: The iteration and the metrics of each validation within training.
        stop: ``{"point": "iter" or "epoch", "at": number of completed ones, "signal": name}``, or None.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.first_iter: int | None = None
        self.batches: list[list[int]] = []
        self.draws: list[str] = []
        self.validations: list[dict[str, Any]] = []
        self.stop: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """Note where training begins."""
        self.first_iter = runner.iter

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note the batch."""
        self.batches.append([int(index) for index in data_batch["index"]])
        self.draws.append(hashlib.sha256(data_batch["image"].contiguous().numpy().tobytes()).hexdigest())

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """End the process, if it is to end here."""
        self._stop(runner, "iter", runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """End the process, if it is to end here."""
        self._stop(runner, "epoch", runner.epoch + 1)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Note the metrics."""
        if runner.is_training:
            values = {name: float(value) for name, value in (metrics or {}).items()}
            self.validations.append({"iter": runner.num_iters_completed, "metrics": values})

    def _stop(self, runner: Any, point: str, at: int) -> None:
        if self.stop is not None and (self.stop["point"], self.stop["at"]) == (point, at):
            runner.wait_for_checkpoints()
            os.kill(os.getpid(), getattr(signal, self.stop["signal"]))

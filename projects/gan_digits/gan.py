"""A class-conditional GAN on the digits: two networks, two optimizers, and a training step of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.evaluator import TensorMetric
from lazyengine.model import BaseModel


class Generator(nn.Module):
    """Draws images of given classes.

    Args:
        noise_size: Length of the noise vector.
        width: Channels of the hidden layers.
        num_classes: Number of classes.
    """

    def __init__(self, noise_size: int = 16, width: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.noise_size = noise_size
        self.classes = nn.Embedding(num_classes, noise_size)
        self.net = nn.Sequential(
            nn.Linear(2 * noise_size, 4 * width * 4),
            nn.Unflatten(1, (4 * width, 2, 2)),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        """Return images `(N, 1, 8, 8)` in [0, 1] for noise `(N, noise_size)` and classes `(N,)`, int64."""
        return self.net(torch.cat((noise, self.classes(label)), dim=1))


class Discriminator(nn.Module):
    """Tells images of a class from drawn ones, by projection (Miyato and Koyama 2018, arXiv:1802.05637).

    Args:
        width: Channels of the first layer.
        num_classes: Number of classes.
    """

    def __init__(self, width: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.score = nn.Linear(4 * width * 4, 1)
        self.classes = nn.Embedding(num_classes, 4 * width * 4)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Return scores `(N,)`, greater for images that look real, for `(N, 1, 8, 8)` and classes `(N,)`, int64."""
        features = self.net(image)
        return self.score(features).squeeze(1) + (features * self.classes(label)).mean(1)


class GAN(BaseModel):
    """Trains a generator and a discriminator against one another with the non-saturating loss.

    ``L_D = softplus(-D(x)) + softplus(D(G(z)))``, ``L_G = softplus(-D(G(z)))`` (Goodfellow et al. 2014,
    arXiv:1406.2661), and for the discriminator the gradient penalty R1 on real images (Mescheder et al. 2018,
    arXiv:1801.04406).

    Args:
        generator: Makes images out of noise and classes.
        discriminator: Scores images of classes.
        penalty: Weight of R1; 0 leaves it out.
        data_preprocessor: Moves the batch to the model's device.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        penalty: float = 0.1,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.generator = generator
        self.discriminator = discriminator
        self.penalty = penalty

    def train_step(self, data: Any, optim_wrapper: Any, forward: Callable[..., Any] | None = None) -> dict[str, Any]:
        """Update the discriminator, then the generator, on one batch.

        Args:
            data: A dict with ``image`` and ``label``.
            optim_wrapper: An `OptimWrapperDict` of ``discriminator`` and ``generator``.
            forward: The model in DDP, where there are several ranks; every rank must call.

        Returns:
            The two losses and the mean scores of real and drawn images.
        """
        run = forward or self
        data = self.data_preprocessor(data, True)
        log_vars: dict[str, Any] = {}
        for player in ("discriminator", "generator"):
            # The generator's loss also reaches the discriminator's weights, which it is not meant to change.
            self.discriminator.requires_grad_(player == "discriminator")
            wrapper = optim_wrapper[player]
            with wrapper.optim_context(run):
                losses = run(data["image"], data["label"], mode=player)
            loss, values = self.parse_losses(losses)
            wrapper.update_params(loss)
            log_vars |= {name: value for name, value in values.items() if name != "loss"}
        return log_vars

    def forward(
        self,
        image: Tensor,
        label: Tensor,
        mode: Literal["discriminator", "generator", "predict", "tensor"] = "tensor",
    ) -> dict[str, Tensor] | Tensor:
        """Run the networks.

        Args:
            image: Real images `(N, 1, 8, 8)`, float, values in [0, 1].
            label: Their classes `(N,)`, int64.
            mode: A player's name gives its loss and what to log; ``"predict"`` and ``"tensor"`` draw images of the
                same classes.

        Returns:
            A dict of scalars; a dict with the real and drawn images and their classes; or the drawn images.
        """
        if mode == "discriminator":
            with torch.no_grad():
                drawn = self.draw(label)
            image = image.detach().requires_grad_(self.penalty > 0)
            real, fake = self.discriminator(image, label), self.discriminator(drawn, label)
            losses = {"loss_discriminator": (F.softplus(-real) + F.softplus(fake)).mean()}
            if self.penalty:
                (slope,) = torch.autograd.grad(real.sum(), image, create_graph=True)
                losses["loss_penalty"] = self.penalty * slope.square().sum((1, 2, 3)).mean()
            return {**losses, "score_real": real.mean(), "score_drawn": fake.mean()}
        drawn = self.draw(label)
        if mode == "generator":
            return {"loss_generator": F.softplus(-self.discriminator(drawn, label)).mean()}
        return {"image": image, "drawn": drawn, "label": label[:, None]} if mode == "predict" else drawn

    def draw(self, label: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw an image `(1, 8, 8)` in [0, 1] for each of the classes `(N,)`.

        Args:
            label: Classes, int64.
            generator: Random generator on the CPU; None is torch's own.
        """
        noise = torch.randn(len(label), self.generator.noise_size, generator=generator).to(label.device)
        return self.generator(noise, label)


class DrawnNeighbors(TensorMetric):
    """How well drawn images teach the classes: the share of real images whose nearest drawn image has their class.

    Images that look wrong lower it, and so do images that all look the same.

    Reads ``image``, ``drawn`` `(N, C, H, W)` and ``label`` `(N,)` of the predictions.
    """

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep both images and the class: a row of float32 for each sample."""
        image, drawn, label = (data_samples[name].flatten(1) for name in ("image", "drawn", "label"))
        self.results.append(torch.cat((image, drawn, label), dim=1))

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return ``neighbors``, in [0, 1]."""
        image, drawn = results[:, :-1].chunk(2, dim=1)
        label = results[:, -1]
        nearest = torch.cdist(image, drawn).argmin(1)
        return {"neighbors": (label[nearest] == label).float().mean().item()}

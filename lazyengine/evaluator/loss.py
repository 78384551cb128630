"""Mean loss over a dataset, and perplexity."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .metric import TensorMetric
from .samples import num_samples, require


class MeanLoss(TensorMetric):
    """Mean of a loss that the model's predict mode returns.

    `sum_i w_i * l_i / sum_i w_i`, with weights 1 unless ``weight_key`` names others, such as the number of tokens. The
    loss is ``(N,)``, one for each sample, or a scalar, the mean of its batch; a scalar cannot be cut exactly when
    samplers have repeated samples. A scalar weight is the whole batch's.

    Args:
        loss_key: Name of the loss in the predictions.
        weight_key: Name of the weights ``(N,)`` or scalar in the predictions or the data batch; None for equal ones.
        name: Name of the value.
        collect_device: See `BaseMetric`, like the next two.
        prefix: None by default.
        collect_dir: See `BaseMetric`.
    """

    def __init__(
        self,
        loss_key: str = "loss",
        weight_key: str | None = None,
        name: str = "loss",
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.loss_key, self.weight_key, self.name = loss_key, weight_key, name

    @property
    def names(self) -> tuple[str, ...]:
        """The one value's name."""
        return (self.with_prefix(self.name),)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep the losses and their weights: a tensor ``(N, 2)``, float32 or float64."""
        owner = type(self).__name__
        loss = require(data_samples, self.loss_key, None, owner).detach()
        if loss.dim() > 1:
            raise ValueError(f"{owner}: {self.loss_key!r} must be (N,) or a scalar, got {tuple(loss.shape)}")
        loss = loss if loss.dtype == torch.float64 else loss.float()
        count = len(loss) if loss.dim() else num_samples(data_samples, data_batch) or 1
        weight = self._weights(data_batch, data_samples, count, loss)
        self.results.append(torch.stack((loss.expand(count), weight), dim=1))

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return the weighted mean, computed in float64."""
        loss, weight = results.double().unbind(1)
        total, weights = torch.stack(((loss * weight).sum(), weight.sum())).tolist()
        return {self.name: total / weights if weights else math.nan}

    def _weights(self, data_batch: Any, data_samples: Any, count: int, loss: Tensor) -> Tensor:
        if self.weight_key is None:
            return loss.new_ones(()).expand(count)
        weight = require(data_samples, self.weight_key, None, type(self).__name__, data_batch)
        weight = weight.to(loss, non_blocking=True)
        return (weight if weight.dim() else weight / count).expand(count)


class Perplexity(MeanLoss):
    """Exponential of the mean negative log-likelihood: `exp(sum_i w_i * l_i / sum_i w_i)`.

    With ``weight_key`` naming the numbers of tokens and a loss that is each sample's mean over its tokens, this is the
    perplexity by token. Source: Jelinek et al. 1977, Perplexity, a measure of the difficulty of speech recognition
    tasks, https://doi.org/10.1121/1.2016299.

    Args:
        loss_key: Name of the loss (natural logarithm) in the predictions.
        weight_key: Name of the weights; None for equal ones.
        name: Name of the value.
        collect_device: See `BaseMetric`, like the next two.
        prefix: None by default.
        collect_dir: See `BaseMetric`.
    """

    def __init__(
        self,
        loss_key: str = "loss",
        weight_key: str | None = None,
        name: str = "perplexity",
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(loss_key, weight_key, name, collect_device, prefix, collect_dir)

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return the perplexity; infinity where it is too large for a float."""
        (mean,) = super().compute_metrics(results).values()
        try:
            return {self.name: math.exp(mean)}
        except OverflowError:
            return {self.name: math.inf}

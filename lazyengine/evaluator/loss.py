"""Mean loss over a dataset, and perplexity."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import torch

from lazyengine.errors import UsageValueError

from .metric import Options, TensorMetric
from .samples import BATCH, find, num_samples, require


class MeanLoss(TensorMetric):
    """Mean of a loss that the model's predict mode returns.

    `sum_i w_i * l_i / sum_i w_i`, with weights 1 unless ``weight_key`` names others, such as the number of tokens. The
    loss is ``(N,)``, one for each sample, or a scalar, the mean of its batch; a scalar cannot be cut exactly when
    samplers have repeated samples. A scalar weight is the whole batch's. Of saved predictions, which have both as
    ``batch_<name>``, the same mean is computed.

    Args:
        loss_key: Name of the loss in the predictions.
        weight_key: Name of the weights ``(N,)`` or scalar in the predictions or the data batch; None for equal ones,
            but for a scalar loss the predictions' own ``num``, where they have it.
        name: Name of the value; ``"loss"`` if not given.
        **options: See `BaseMetric`.
    """

    default_name: ClassVar[str] = "loss"

    def __init__(
        self, loss_key: str = "loss", weight_key: str | None = None, name: str | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__(**options)
        self.loss_key, self.weight_key, self.name = loss_key, weight_key, name or self.default_name
        self.names = [self.with_prefix(self.name)]

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep the losses and their weights: a tensor ``(N, 2)``, float32 or float64."""
        owner = type(self).__name__
        loss_key = _key_in(data_samples, self.loss_key)
        loss = require(data_samples, loss_key, None, owner).detach()
        if loss.dim() > 1:
            raise UsageValueError(f"{owner}: {self.loss_key!r} must be (N,) or a scalar, got {tuple(loss.shape)}")
        loss = loss if loss.dtype == torch.float64 else loss.float()
        count = len(loss) if loss.dim() else num_samples(data_samples, data_batch) or 1
        weight = loss.new_ones(count)
        is_of_batch = not loss.dim() or loss_key != self.loss_key
        weight_key = _key_in(data_samples, self.weight_key or "num")
        if self.weight_key is not None or (is_of_batch and find(data_samples, weight_key) is not None):
            given = require(data_samples, weight_key, None, owner, data_batch).to(loss, non_blocking=loss.is_cuda)
            if weight_key != (self.weight_key or "num"):
                weight = given / require(data_samples, f"{BATCH}size", None, owner).to(loss)
            else:
                weight = given if given.dim() else given / count
            weight = weight.expand(count)
        self.results.append(torch.stack((loss.expand(count), weight), dim=1))

    def compute_metrics(self, results: torch.Tensor) -> dict[str, float]:
        """Return the weighted mean, computed in float64."""
        loss, weight = results.double().unbind(1)
        loss = loss.masked_fill(weight == 0, 0.0)  # the mean of no tokens is NaN, and adds nothing
        total, weights = torch.stack(((loss * weight).sum(), weight.sum())).tolist()
        return {self.name: total / weights if weights else math.nan}


class Perplexity(MeanLoss):
    """Exponential of the mean negative log-likelihood: `exp(sum_i w_i * l_i / sum_i w_i)`.

    With ``weight_key`` naming the numbers of tokens and a loss that is each sample's mean over its tokens, this is the
    perplexity by token. Source: Jelinek et al. 1977, Perplexity, a measure of the difficulty of speech recognition
    tasks, https://doi.org/10.1121/1.2016299.

    Args:
        loss_key: Name of the loss (natural logarithm) in the predictions.
        weight_key: Name of the weights; None for equal ones.
        name: Name of the value; ``"perplexity"`` if not given.
        **options: See `BaseMetric`.
    """

    default_name = "perplexity"

    def compute_metrics(self, results: torch.Tensor) -> dict[str, float]:
        """Return the perplexity; infinity where it is too large for a float."""
        (mean,) = super().compute_metrics(results).values()
        return {self.name: torch.tensor(mean, dtype=torch.float64).exp().item()}


def _key_in(data_samples: Any, name: str) -> str:
    """Return the key of a value: its name, or where only that is there, as in saved predictions, ``batch_<name>``."""
    is_of_batch = find(data_samples, name) is None and find(data_samples, BATCH + name) is not None
    return BATCH + name if is_of_batch else name

"""Top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .metric import TensorMetric
from .samples import require


class Accuracy(TensorMetric):
    """Fraction of samples whose label is among the k highest scores, in [0, 1].

    Computes ``accuracy/top1`` and so on. Predictions are scores ``(N, C)``, float, or, for top-1, predicted classes
    ``(N,)``, int; labels are classes ``(N,)``, int. Both are looked up in the model's predictions, the labels also in
    the data batch (second element of a tuple). Nothing is synchronized while batches are processed.

    Args:
        topk: One k or several.
        pred_key: Name of the scores.
        label_key: Name of the labels.
        collect_device: See `BaseMetric`, like the next two.
        prefix: ``"accuracy"`` if not given.
        collect_dir: See `BaseMetric`.

    Raises:
        ValueError: ``topk`` is empty or not positive.
    """

    default_prefix = "accuracy"

    def __init__(
        self,
        topk: int | Sequence[int] = (1,),
        pred_key: str = "scores",
        label_key: str = "label",
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1 or len(set(self.topk)) != len(self.topk):
            raise ValueError(f"Accuracy: topk needs different numbers of at least 1, got {topk!r}")
        self.pred_key, self.label_key = pred_key, label_key

    @property
    def names(self) -> tuple[str, ...]:
        """``accuracy/top1`` and so on."""
        return tuple(self.with_prefix(f"top{k}") for k in self.topk)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep which samples are right: a tensor ``(N,)``, or ``(N, len(topk))``, bool, on the predictions' device."""
        scores = require(data_samples, self.pred_key, 0, "Accuracy")
        labels = require(data_samples, self.label_key, 1, "Accuracy", data_batch)
        if labels.dim() != 1 or len(labels) != len(scores) or scores.dim() not in (1, 2):
            raise ValueError(
                f"Accuracy: needs scores (N, C) or classes (N,) and labels (N,), got {self.pred_key}="
                f"{tuple(scores.shape)} and {self.label_key}={tuple(labels.shape)}"
            )
        if labels.device != scores.device:
            labels = labels.to(scores.device, non_blocking=True)
        self.results.append(self._are_right(scores, labels))

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return the fraction of right samples for each k."""
        counts = results.sum(0).reshape(-1).tolist()
        return {f"top{k}": count / len(results) for k, count in zip(self.topk, counts)}

    def _are_right(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.topk == (1,):
            return (scores if scores.dim() == 1 else scores.argmax(1)) == labels
        largest = max(self.topk)
        if scores.dim() == 1 or scores.shape[1] < largest:
            raise ValueError(
                f"Accuracy: topk={self.topk} needs scores (N, C) with C >= {largest}, got {tuple(scores.shape)}"
            )
        hits = scores.topk(largest, dim=1).indices == labels[:, None]
        return torch.stack([hits[:, :k].any(1) for k in self.topk], dim=1)

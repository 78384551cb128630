"""Metrics of classification, of samples and of pixels: top-k accuracy, the confusion matrix, mean IoU."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from lazyengine.errors import UsageValueError
from lazyengine.logging import output_path, print_log

from .metric import Options, TensorMetric
from .samples import require

Numbers = int | Sequence[int]


class _ClassMetric(TensorMetric):
    """A metric of scores and labels; `maps` of the class says whether a sample may have a label for each pixel."""

    maps: ClassVar[bool] = False

    def __init__(self, pred_key: str, label_key: str, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.pred_key, self.label_key = pred_key, label_key

    def read(self, data_batch: Any, data_samples: Any) -> tuple[Tensor, Tensor]:
        """Return scores ``(N, C)`` or classes ``(N,)``, and labels ``(N,)``, on the predictions' device.

        With `maps` also scores ``(N, C, H, W)`` or classes ``(N, H, W)``, and labels ``(N, H, W)``.
        """
        name = type(self).__name__
        scores = require(data_samples, self.pred_key, 0, name)
        labels = require(data_samples, self.label_key, 1, name, data_batch)
        shape = scores.shape
        fits = labels.shape in (shape, shape[:1] + shape[2:])
        if not (fits and (labels.dim() == 1 or (self.maps and labels.dim() > 1))):
            shapes = f"{self.pred_key}={tuple(shape)} and {self.label_key}={tuple(labels.shape)}"
            maps = ", or maps (N, C, H, W) or (N, H, W) and labels (N, H, W)" if self.maps else ""
            raise UsageValueError(f"{name}: needs scores (N, C) or classes (N,) and labels (N,){maps}, got {shapes}")
        if shape[1] == 1 if scores.dim() > labels.dim() else scores.is_floating_point():
            raise UsageValueError(
                f"{name}: {self.pred_key}={tuple(shape)} of {scores.dtype} tells no class · return a score for "
                "each class, or the classes as integers, such as (probability > 0.5).long()"
            )
        if labels.device == scores.device:
            return scores, labels
        # On the host labels could be read before they have arrived.
        return scores, labels.to(scores.device, non_blocking=scores.is_cuda)


class Accuracy(_ClassMetric):
    """Fraction of samples whose label is among the k highest scores, in [0, 1].

    Computes ``accuracy/top1`` and so on. Predictions are scores ``(N, C)``, float, or, for top-1, predicted classes
    ``(N,)``, int; labels are classes ``(N,)``, int. Both are looked up in the model's predictions, the labels also in
    the data batch (second element of a tuple). A sample with a NaN among its scores is wrong. Nothing is synchronized
    while batches are processed.

    Args:
        topk: One k or several.
        pred_key: Name of the scores.
        label_key: Name of the labels.
        **options: See `BaseMetric`; the prefix is ``"accuracy"`` if not given.

    Raises:
        UsageValueError: ``topk`` is empty or not positive.
    """

    default_prefix = "accuracy"

    def __init__(
        self, topk: Numbers = (1,), pred_key: str = "scores", label_key: str = "label", **options: Unpack[Options]
    ) -> None:
        super().__init__(pred_key, label_key, **options)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1 or len(set(self.topk)) != len(self.topk):
            raise UsageValueError(f"Accuracy: topk needs different numbers of at least 1, got {topk!r}")
        self.names = [self.with_prefix(f"top{k}") for k in self.topk]
        self._seen: tuple[Any, Any, int] = (0, 0, 1)  # the least and greatest label of the first batch, and classes

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep which samples are right: a tensor ``(N,)``, or ``(N, len(topk))``, bool, on the predictions' device."""
        scores, labels = self.read(data_batch, data_samples)
        if not self.results and labels.numel() and scores.dim() > 1:
            self._seen = labels.min(), labels.max(), scores.shape[1]  # read at the end
        if self.topk == (1,):
            best = None if scores.dim() == 1 else scores.max(1)
            self.results.append(scores == labels if best is None else _hits(best.values, best.indices, labels))
            return
        largest = max(self.topk)
        if scores.dim() == 1 or scores.shape[1] < largest:
            shape = tuple(scores.shape)
            raise UsageValueError(f"Accuracy: topk={self.topk} needs scores (N, C) with C >= {largest}, got {shape}")
        best = scores.topk(largest, dim=1)
        hits = _hits(best.values[:, :1], best.indices, labels[:, None])
        self.results.append(torch.stack([hits[:, :k].any(1) for k in self.topk], dim=1))

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return the fraction of right samples for each k."""
        low, high, num_classes = map(int, self._seen)
        if low < 0 or high >= num_classes:
            labels = f"labels from {low} to {high} for scores of {num_classes} classes, counted from 0"
            text = f"Accuracy: there are {labels}: a sample whose label is no class counts as wrong"
            print_log(text, "current", logging.WARNING)
        counts = results.sum(0).reshape(-1).tolist()
        return {f"top{k}": count / len(results) for k, count in zip(self.topk, counts)}


class _CountingMetric(_ClassMetric):
    """A metric that counts how often classes occur, of samples or of the pixels of maps."""

    maps = True

    def __init__(
        self, num_classes: int | None, pred_key: str, label_key: str, ignore_index: int | None, **options: Any
    ) -> None:
        super().__init__(pred_key, label_key, **options)
        if num_classes is not None and num_classes < 1:
            raise UsageValueError(f"{type(self).__name__}: num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def class_names(self) -> list[str]:
        """Return what the dataset calls its classes; empty where it does not say."""
        return [str(name) for name in (self.dataset_meta or {}).get("classes") or ()]

    def cells(self, scores: Tensor, labels: Tensor) -> tuple[int, Tensor, Tensor, Tensor]:
        """Return the number of classes `C`; labels, predicted classes and which count, all ``(N, P)``, int64.

        What is no class becomes `C`.

        Raises:
            ValueError: Nobody says how many classes there are, which are counted before all were seen.
        """
        is_scores = scores.dim() > labels.dim()
        size = self.num_classes or len(self.class_names()) or (scores.shape[1] if is_scores else 0)
        if not size:
            raise UsageValueError(
                f"{type(self).__name__}: needs num_classes (or the dataset's classes) for maps of classes."
            )
        counted = torch.ones_like(labels) if self.ignore_index is None else labels != self.ignore_index
        return size, _cells(labels, size), _cells(_predicted(scores, labels), size), _cells(counted, 2)

    def check_unknown(self, labels: Tensor, predicted: Tensor, size: int, seen: str = "") -> None:
        """Refuse labels that are no class, and warn of predictions that are none; given are their numbers."""
        if int(labels):
            raise UsageValueError(
                f"{type(self).__name__}: {int(labels)} times a label is none of the {size} classes, which are counted "
                f"from 0{seen}; name the label of what does not count with ignore_index, or give num_classes."
            )
        if int(predicted):
            what = f"{int(predicted)} times a prediction is none of the {size} classes, as where a score is NaN"
            print_log(f"{type(self).__name__}: {what}: it counts as wrong", "current", logging.WARNING)


class ConfusionMatrix(_CountingMetric):
    """Count how often class `i` (row) was predicted as class `j` (column).

    Computes ``confusion_matrix/mean_recall`` and ``confusion_matrix/mean_precision``, each the mean over the classes
    that occur (in the labels, or in the predictions). What is predicted from scores with a NaN is no class: it is in no
    column, and counts as wrong. The matrix itself is in `matrix` on the main process after `evaluate`, and in a picture
    if asked for.

    Args:
        num_classes: Number of classes `C`; None for the dataset's ``classes``, or else the largest class seen.
        pred_key: Name of the scores ``(N, C)``, float, or predicted classes ``(N,)``, int; or of maps
            ``(N, C, H, W)`` or ``(N, H, W)``, where each pixel counts (and ``C x (C + 1)`` numbers are kept of each).
        label_key: Name of the labels ``(N,)`` or ``(N, H, W)``, int; also looked up in the data batch.
        ignore_index: Label of pixels and samples that do not count; None for none.
        picture: Path of a PNG written at every evaluation (needs matplotlib), a relative one in the folder of the
            running start, outside a run in the current one; None for none.
        **options: See `BaseMetric`; the prefix is ``"confusion_matrix"`` if not given.

    Raises:
        UsageValueError: ``num_classes`` is not positive.

    Attributes:
        matrix: Counts ``(C, C)``, int64, of the last evaluation on the main process; None before and elsewhere.
    """

    default_prefix = "confusion_matrix"

    def __init__(
        self,
        num_classes: int | None = None,
        pred_key: str = "scores",
        label_key: str = "label",
        picture: str | os.PathLike[str] | None = None,
        ignore_index: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_classes, pred_key, label_key, ignore_index, **options)
        self.picture = picture
        self.files = [] if picture is None else [picture]
        self.matrix: Tensor | None = None
        self.names = [self.with_prefix("mean_recall"), self.with_prefix("mean_precision")]

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep labels and predicted classes ``(N, 2)``, or of maps counts ``(N, 1, C * (C + 1) + 1)``, int64.

        Raises:
            ValueError: Of maps of classes, nobody says how many classes there are.
        """
        scores, labels = self.read(data_batch, data_samples)
        if labels.dim() == 1:
            self.results.append(torch.stack((labels, _predicted(scores, labels)), dim=1).long())
            return
        size, labels, predicted, counted = self.cells(scores, labels)
        cells = torch.where(labels < size, labels * (size + 1) + predicted, size * (size + 1))
        self.results.append(_count(cells, counted, size * (size + 1) + 1)[:, None])

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Count, keep the matrix, write the picture, and return mean recall and mean precision.

        Raises:
            ValueError: A label is outside ``[0, C)``.
        """
        if results.dim() == 3:
            counts = results.sum((0, 1))
            return self._finish(counts, math.isqrt(len(counts)))
        if self.ignore_index is not None:
            results = results[results[:, 0] != self.ignore_index]
        size = self.num_classes or len(self.class_names()) or (int(results.max()) + 1 if len(results) else 1)
        seen = ", got {} to {}".format(*map(int, results[:, 0].aminmax())) if len(results) else ""
        labels, predicted = (_cells(column, size)[:, 0] for column in results.unbind(1))
        cells = (labels * (size + 1) + predicted).clamp(max=size * (size + 1))
        return self._finish(torch.bincount(cells, minlength=size * (size + 1) + 1), size, seen)

    def _finish(self, counts: Tensor, size: int, seen: str = "") -> dict[str, float]:
        """Compute from counts of labels and, one class more, predictions; the last count is of what has no label."""
        rows = counts[:-1].reshape(size, size + 1).cpu()
        self.check_unknown(counts[-1], rows[:, -1].sum(), size, seen)
        self.matrix = matrix = rows[:, :-1]
        if self.picture is not None:
            self.plot(self.picture)
        right = matrix.diag().double()
        recall, precision = (right / rows.sum(1)).nanmean(), (right / matrix.sum(0)).nanmean()
        return {"mean_recall": recall.item(), "mean_precision": precision.item()}

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the matrix of the last evaluation, coloured by fraction of the row, with counts.

        Args:
            path: Where to write a PNG, as `picture`; None for nowhere.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: There is no matrix yet.
        """
        if self.matrix is None:
            raise ValueError("ConfusionMatrix.plot: there is no matrix · call evaluate first (on the main process)")
        from matplotlib.figure import Figure

        counts, size = self.matrix, len(self.matrix)
        shades = counts / counts.sum(1, keepdim=True).clamp(min=1)
        names = self.class_names()[:size] or [str(index) for index in range(size)]
        figure = Figure(figsize=(2 + 0.45 * min(size, 40), 1.5 + 0.45 * min(size, 40)), layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(shades.numpy(), cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axis, shrink=0.85, label="fraction of the row")
        axis.set(xlabel="predicted", ylabel="true", xticks=range(size), yticks=range(size), yticklabels=names)
        axis.set_xticklabels(names, rotation=45 if any(len(name) > 2 for name in names) else 0)
        for row, column in torch.cartesian_prod(torch.arange(size), torch.arange(size)).tolist() if size <= 25 else ():
            color = "white" if shades[row, column] > 0.6 else "black" if counts[row, column] else "silver"
            axis.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=8)
        if path is not None:
            path = output_path(path)
            figure.savefig(path, dpi=120)
            print_log(f"{type(self).__name__}: the picture is {path}", logger="current")
        return figure


class MeanIoU(_CountingMetric):
    """Intersection over union of each class, averaged over the classes that occur; for semantic segmentation.

    Computes ``segmentation/mean_iou``, ``segmentation/mean_accuracy`` (of the classes' recalls) and
    ``segmentation/pixel_accuracy``, each in [0, 1], over all pixels of the dataset. A pixel with a NaN among its
    scores is wrong. Three numbers are kept for each class and sample, and nothing is synchronized while batches are
    processed.

    Args:
        num_classes: Number of classes `C`; None for the dataset's ``classes``, or else that of the scores.
        pred_key: Name of the scores ``(N, C, H, W)``, float, or predicted classes ``(N, H, W)``, int.
        label_key: Name of the labels ``(N, H, W)``, int; also looked up in the data batch.
        ignore_index: Label of pixels that do not count; None for none.
        **options: See `BaseMetric`; the prefix is ``"segmentation"`` if not given.

    Attributes:
        per_class: IoU of each class, ``(C,)``, float64, NaN where it does not occur, of the last evaluation on the
            main process; None before and elsewhere.
    """

    default_prefix = "segmentation"

    def __init__(
        self,
        num_classes: int | None = None,
        pred_key: str = "scores",
        label_key: str = "label",
        ignore_index: int | None = 255,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_classes, pred_key, label_key, ignore_index, **options)
        self.per_class: Tensor | None = None
        self.names = [self.with_prefix(name) for name in ("mean_iou", "mean_accuracy", "pixel_accuracy")]

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep counts ``(N, 3, C + 1)``, int64: of right pixels, labels and predictions; the last of what is no class.

        Raises:
            ValueError: Of maps of classes, nobody says how many classes there are.
        """
        size, labels, predicted, counted = self.cells(*self.read(data_batch, data_samples))
        pairs = ((labels, counted * (labels == predicted)), (labels, counted), (predicted, counted))
        self.results.append(torch.stack([_count(cells, weights, size + 1) for cells, weights in pairs], dim=1))

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Return the means over classes, and the fraction of right pixels."""
        right, labels, predicted = results.sum(0).cpu()
        self.check_unknown(labels[-1], predicted[-1], len(labels) - 1)
        right, labels, predicted = right[:-1].double(), labels[:-1], predicted[:-1]
        self.per_class = right / (labels + predicted - right)
        return {
            "mean_iou": self.per_class.nanmean().item(),
            "mean_accuracy": (right / labels).nanmean().item(),
            "pixel_accuracy": (right.sum() / labels.sum()).item(),
        }


def _predicted(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the class of the largest score, -1 where one is NaN; or the classes that were given instead of scores."""
    if scores.dim() == labels.dim():
        return scores
    best = scores.max(1)
    return best.indices.masked_fill(best.values.isnan(), -1)


def _hits(largest: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """Return which classes are the labels, none where the largest score is NaN, which torch takes for the largest."""
    return (classes == labels).logical_and_(largest == largest)  # NaN alone differs from itself


def _cells(classes: Tensor, size: int) -> Tensor:
    """Return classes by sample, int64; what is no class becomes `size`."""
    classes = classes.long().flatten(1) if classes.dim() > 1 else classes.long()[:, None]
    return torch.where((classes >= 0) & (classes < size), classes, size)


def _count(cells: Tensor, counted: Tensor, size: int) -> Tensor:
    """Return how often each number below `size` stands in each row of ``(N, P)``, as ``(N, size)``, int64."""
    counts = torch.zeros(len(cells), size, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(1, cells, counted)

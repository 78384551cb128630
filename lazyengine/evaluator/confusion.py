"""Confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .metric import TensorMetric
from .samples import require


class ConfusionMatrix(TensorMetric):
    """Count how often class `i` (row) was predicted as class `j` (column).

    Computes ``confusion_matrix/mean_recall`` and ``confusion_matrix/mean_precision``, each the mean over the classes
    that occur (in the labels, or in the predictions). The matrix itself is in `matrix` on the main process after
    `evaluate`, and in a picture if asked for.

    Args:
        num_classes: Number of classes `C`; None for the dataset's ``classes``, or else the largest class seen.
        pred_key: Name of the scores ``(N, C)``, float, or predicted classes ``(N,)``, int.
        label_key: Name of the labels ``(N,)``, int; also looked up in the data batch.
        picture: Path of a PNG written at every evaluation (needs matplotlib); None for none.
        collect_device: See `BaseMetric`, like the next two.
        prefix: ``"confusion_matrix"`` if not given.
        collect_dir: See `BaseMetric`.

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
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"ConfusionMatrix: num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.pred_key, self.label_key, self.picture = pred_key, label_key, picture
        self.matrix: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The two values' names."""
        return (self.with_prefix("mean_recall"), self.with_prefix("mean_precision"))

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep labels and predicted classes: a tensor ``(N, 2)``, int64, on the predictions' device."""
        scores = require(data_samples, self.pred_key, 0, "ConfusionMatrix")
        labels = require(data_samples, self.label_key, 1, "ConfusionMatrix", data_batch)
        predicted = scores.argmax(1) if scores.dim() == 2 else scores
        if labels.shape != predicted.shape or labels.dim() != 1:
            raise ValueError(
                f"ConfusionMatrix: needs scores (N, C) or classes (N,) and labels (N,), got {self.pred_key}="
                f"{tuple(scores.shape)} and {self.label_key}={tuple(labels.shape)}"
            )
        labels = labels.to(predicted.device, non_blocking=True)
        self.results.append(torch.stack((labels, predicted), dim=1).long())

    def compute_metrics(self, results: Tensor) -> dict[str, float]:
        """Count, keep the matrix, write the picture, and return mean recall and mean precision."""
        labels, predicted = results.cpu().unbind(1)
        self.matrix = self.calculate(predicted, labels, self._num_classes(results))
        if self.picture is not None:
            self.plot(self.picture)
        right = self.matrix.diag().double()
        recall = right / self.matrix.sum(1)
        precision = right / self.matrix.sum(0)
        return {"mean_recall": recall.nanmean().item(), "mean_precision": precision.nanmean().item()}

    @staticmethod
    def calculate(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Count pairs.

        Args:
            predicted: Predicted classes ``(N,)``, int.
            labels: True classes ``(N,)``, int.
            num_classes: Number of classes `C`.

        Returns:
            Counts ``(C, C)``, int64; row: true class, column: predicted class.

        Raises:
            ValueError: A class is outside ``[0, C)``.
        """
        for name, values in (("label", labels), ("predicted class", predicted)):
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
                raise ValueError(
                    f"ConfusionMatrix: every {name} must lie in [0, {num_classes}), got {int(values.min())} to "
                    f"{int(values.max())}"
                )
        pairs = torch.bincount(labels.long() * num_classes + predicted.long(), minlength=num_classes**2)
        return pairs.reshape(num_classes, num_classes)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | None = None,
        normalize: bool = True,
    ) -> Any:
        """Draw the matrix of the last evaluation.

        Args:
            path: Where to write a PNG; None for nowhere.
            class_names: Names of the classes; by default the dataset's.
            normalize: Colour by fraction of the row, so that rare classes are seen; the numbers are counts.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: There is no matrix yet.
        """
        if self.matrix is None:
            raise ValueError(
                "ConfusionMatrix.plot: there is no matrix · call evaluate first (it is on the main process)"
            )
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        counts = self.matrix
        shades = counts / counts.sum(1, keepdim=True).clamp(min=1) if normalize else counts / counts.max().clamp(min=1)
        size = len(counts)
        names = [str(name) for name in class_names or (self.dataset_meta or {}).get("classes") or range(size)]
        figure = Figure(figsize=(2 + 0.45 * min(size, 40), 1.5 + 0.45 * min(size, 40)), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        image = axis.imshow(shades.numpy(), cmap="Blues", vmin=0, vmax=1)
        what = "fraction of the row" if normalize else "fraction of the largest count"
        figure.colorbar(image, ax=axis, shrink=0.85, label=what)
        axis.set(xlabel="predicted", ylabel="true", xticks=range(size), yticks=range(size))
        axis.set_xticklabels(names[:size], rotation=45 if any(len(name) > 2 for name in names) else 0)
        axis.set_yticklabels(names[:size])
        if size <= 25:
            for row in range(size):
                for column in range(size):
                    color = "white" if shades[row, column] > 0.6 else "black" if counts[row, column] else "silver"
                    axis.text(
                        column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=8
                    )
        if path is not None:
            folder = os.path.dirname(os.fspath(path))
            if folder:
                os.makedirs(folder, exist_ok=True)
            figure.savefig(path, dpi=120)
        return figure

    def _num_classes(self, results: Tensor) -> int:
        if self.num_classes is not None:
            return self.num_classes
        classes = (self.dataset_meta or {}).get("classes")
        return len(classes) if classes else int(results.max()) + 1

"""Several metrics over one dataset."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .metric import BaseMetric


class Evaluator:
    """Hand every batch to several metrics and merge what they compute.

    Args:
        metrics: One metric or several; their full names must differ, so give two of a kind different prefixes.

    Raises:
        TypeError: Something is no metric.
        ValueError: Two metrics say beforehand that they compute a value of the same name.
    """

    def __init__(self, metrics: BaseMetric | Sequence[BaseMetric]) -> None:
        self.metrics = list(metrics) if isinstance(metrics, Sequence) else [metrics]
        for metric in self.metrics:
            if not isinstance(metric, BaseMetric):
                raise TypeError(
                    f"Evaluator: expected metrics derived from BaseMetric, got {metric!r} · wrap a torchmetrics metric "
                    "in TorchMetric"
                )
        names = Counter(name for metric in self.metrics for name in metric.names)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(_duplicate(twice[0], [m for m in self.metrics if twice[0] in m.names]))
        self._dataset_meta: dict[str, Any] | None = None

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """What the dataset says of itself; setting it hands it to every metric."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any] | None) -> None:
        self._dataset_meta = dataset_meta
        for metric in self.metrics:
            metric.dataset_meta = dataset_meta

    def reset(self) -> None:
        """Forget the results of an evaluation that did not come to its end."""
        for metric in self.metrics:
            metric.reset()

    def process(self, data_samples: Any, data_batch: Any = None) -> None:
        """Hand one batch to every metric.

        Args:
            data_samples: What the model's predict mode returned; see `lazyengine.evaluator.samples`.
            data_batch: The batch as the loader gave it.
        """
        for metric in self.metrics:
            metric.process(data_batch, data_samples)

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute all metrics. Collective: every rank must call.

        Args:
            size: Number of samples in the dataset.

        Returns:
            Values by full name, the same on every rank.

        Raises:
            ValueError: Two metrics computed a value of the same name.
        """
        values: dict[str, Any] = {}
        owners: dict[str, BaseMetric] = {}
        for metric in self.metrics:
            for name, value in metric.evaluate(size).items():
                if name in owners:
                    raise ValueError(_duplicate(name, [owners[name], metric]))
                values[name], owners[name] = value, metric
        return values

    def offline_evaluate(
        self, data_samples: Iterable[Any], data: Iterable[Any] | None = None, chunk_size: int = 1
    ) -> dict[str, Any]:
        """Compute the metrics from saved predictions, in one process.

        Args:
            data_samples: The predictions, sample by sample (what `load_results` returns).
            data: The dataset's samples in the same order, for metrics that read the data batch.
            chunk_size: Samples handed to `process` at once; larger is faster.

        Returns:
            Values by full name.

        Raises:
            ValueError: ``data`` has another length, or ``chunk_size`` is not positive.
        """
        if chunk_size < 1:
            raise ValueError(f"offline_evaluate: chunk_size must be at least 1, got {chunk_size}")
        batches = _chunks(data, chunk_size) if data is not None else itertools.repeat(None)
        size = 0
        for chunk in _chunks(data_samples, chunk_size):
            batch = next(batches, None)
            if data is not None and (batch is None or len(batch) != len(chunk)):
                raise ValueError(f"offline_evaluate: data has fewer samples than data_samples ({size} chunks fit)")
            size += len(chunk)
            self.process(chunk, _collate(batch))
        if data is not None and next(batches, None) is not None:
            raise ValueError(f"offline_evaluate: data has more samples than the {size} of data_samples")
        return self.evaluate(size)


def _chunks(items: Iterable[Any], chunk_size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, chunk_size)):
        yield chunk


def _collate(batch: list[Any] | None) -> Any:
    """Turn samples into a batch of lists: nothing is stacked, since sizes may differ."""
    if batch is None:
        return None
    from lazyengine.dataset import pseudo_collate

    return pseudo_collate(batch)


def _duplicate(name: str, metrics: Sequence[BaseMetric]) -> str:
    kinds = " and ".join(type(metric).__name__ for metric in metrics)
    return f"{kinds} both compute {name!r} · give them different prefixes, such as prefix='first' and prefix='second'"

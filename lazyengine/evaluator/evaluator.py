"""Several metrics over one dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice, repeat, zip_longest
from typing import Any

from lazyengine.errors import UsageTypeError, UsageValueError

from .metric import BaseMetric
from .samples import SampleList, collate

_MISSING = object()
Samples = Iterable[Any]


class Evaluator:
    """Hand every batch to several metrics and merge what they compute.

    Args:
        metrics: One metric or several; their full names must differ, so give two of a kind different prefixes.

    Raises:
        UsageTypeError: Something is no metric.
        UsageValueError: Two metrics say beforehand that they compute a value of the same name, or write the same file.
    """

    def __init__(self, metrics: BaseMetric | Sequence[BaseMetric]) -> None:
        self.metrics = list(metrics) if isinstance(metrics, Sequence) else [metrics]
        owners: dict[str, BaseMetric] = {}
        for metric in self.metrics:
            if not isinstance(metric, BaseMetric):
                hint = "wrap a torchmetrics metric in TorchMetric"
                raise UsageTypeError(f"Evaluator: expected metrics derived from BaseMetric, got {metric!r} · {hint}")
            _claim(owners, metric, metric.names)
        self.check_files(self.metrics)

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """What the dataset says of itself; setting it hands it to every metric."""
        return self.metrics[0].dataset_meta if self.metrics else None

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any] | None) -> None:
        for metric in self.metrics:
            metric.dataset_meta = dataset_meta

    @staticmethod
    def check_files(metrics: Iterable[BaseMetric]) -> None:
        """Refuse metrics of one evaluation that write the same file, of which only the last one's would be left.

        Raises:
            UsageValueError: Two of them do.
        """
        owners: dict[str, BaseMetric] = {}
        for metric in metrics:
            for path in (os.path.normpath(os.fspath(each)) for each in metric.files):
                if path in owners:
                    both = f"{type(owners[path]).__name__} and {type(metric).__name__}"
                    raise UsageValueError(f"{both} both write {path!r} · give each a file of its own")
                owners[path] = metric

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

    def evaluate(self, size: int | None) -> dict[str, Any]:
        """Compute all metrics. Collective: every rank must call.

        Args:
            size: Number of samples in the dataset; None where nobody knows it. See `BaseMetric.evaluate`.

        Returns:
            Values by full name, the same on every rank.

        Raises:
            UsageRuntimeError: A metric kept more results than there are samples.
            UsageValueError: Two metrics computed a value of the same name.
        """
        values: dict[str, Any] = {}
        owners: dict[str, BaseMetric] = {}
        for metric in self.metrics:
            computed = metric.evaluate(size)
            _claim(owners, metric, computed)
            values |= computed
        return values

    def offline_evaluate(
        self, data_samples: Samples, data: Samples | None = None, chunk_size: int = 1, collate: Any = collate
    ) -> dict[str, Any]:
        """Compute the metrics from saved predictions, in one process.

        Metrics see the predictions as a list of samples whose values can also be read at once, by name: those that are
        written for samples and those that are written for batches both run.

        Args:
            data_samples: The predictions, sample by sample (what `load_results` returns).
            data: The dataset's samples in the same order, for metrics that read the data batch.
            chunk_size: Samples handed to `process` at once; larger is faster.
            collate: Makes a batch of the dataset's samples, as the loader's ``collate_fn`` did.

        Returns:
            Values by full name.

        Raises:
            UsageValueError: ``data`` has another length, or ``chunk_size`` is not positive.
        """
        if chunk_size < 1:
            raise UsageValueError(f"offline_evaluate: chunk_size must be at least 1, got {chunk_size}")
        self.reset()
        size = 0
        both = zip(data_samples, repeat(None)) if data is None else zip_longest(data_samples, data, fillvalue=_MISSING)
        while chunk := list(islice(both, chunk_size)):
            samples, batch = ([item for item in column if item is not _MISSING] for column in zip(*chunk))
            size += len(samples)
            if len(batch) != len(samples):
                relation = "fewer samples than" if len(batch) < len(samples) else f"more samples than the {size} of"
                raise UsageValueError(f"offline_evaluate: data has {relation} data_samples")
            self.process(SampleList(samples), None if data is None else collate(batch))
        return self.evaluate(size)


def _claim(owners: dict[str, BaseMetric], metric: BaseMetric, names: Iterable[str]) -> None:
    """Note which metric computes values of these names, and refuse those that another one computes."""
    for name in names:
        if name in owners:
            raise UsageValueError(
                f"{type(owners[name]).__name__} and {type(metric).__name__} both compute {name!r} · give them "
                "different prefixes, such as prefix='first' and prefix='second'"
            )
        owners[name] = metric

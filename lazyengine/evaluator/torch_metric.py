"""Adapter for the metrics of torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lazyengine.dist import collect_results, get_world_size

from .metric import BaseMetric
from .samples import require


class TorchMetric(BaseMetric):
    """Use any `torchmetrics.Metric` or `MetricCollection` as a metric.

    In one process every batch goes straight to ``metric.update``. With several ranks and ``exact``, predictions and
    targets are kept, collected in the dataset's order, cut to its size and handed to the metric on the main process,
    since torchmetrics itself counts samples that samplers repeat. ``exact=False`` keeps nothing and lets torchmetrics
    merge the ranks' states.

    Args:
        metric: The torchmetrics object.
        pred_key: Name of what ``update`` gets first.
        label_key: Name of what it gets second, also looked up in the data batch; None to pass predictions alone.
        name: Name of the value; by default the metric's class in lower case. Metrics that return a dict have names of
            their own.
        exact: See above.
        chunk_size: Samples in one ``update`` when collected.
        collect_device: See `BaseMetric`, like the next two.
        prefix: None by default.
        collect_dir: See `BaseMetric`.
    """

    def __init__(
        self,
        metric: Any,
        pred_key: str = "scores",
        label_key: str | None = "label",
        name: str | None = None,
        exact: bool = True,
        chunk_size: int = 4096,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if not (hasattr(metric, "update") and hasattr(metric, "compute") and hasattr(metric, "reset")):
            raise TypeError(f"TorchMetric: expected a torchmetrics metric, got {type(metric).__name__}")
        self.metric = metric
        self.pred_key, self.label_key = pred_key, label_key
        self.name = name or type(metric).__name__.lower()
        self.exact, self.chunk_size = exact, chunk_size

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Update the metric, or keep the batch's tensors for later."""
        values = [require(data_samples, self.pred_key, 0, "TorchMetric")]
        if self.label_key is not None:
            labels = require(data_samples, self.label_key, 1, "TorchMetric", data_batch)
            values.append(labels.to(values[0].device, non_blocking=True))
        if self._is_collected():
            self.results.append(values)
        else:
            self._update(values)

    def compute_metrics(self, results: Any) -> dict[str, Any]:
        """Update from collected tensors, if any, and compute."""
        for start in range(0, len(results[0]) if results else 0, self.chunk_size):
            self._update([column[start : start + self.chunk_size] for column in results])
        return self._named(self.metric.compute())

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the metric. Collective: every rank must call; see `BaseMetric.evaluate`."""
        try:
            if self._is_collected():
                with _without_own_sync(self.metric):
                    return self._on_main_process(self._collect(size))
            values = self._named(self.metric.compute())
            return {self.with_prefix(name): value for name, value in values.items()}
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget all results and the metric's state."""
        super().reset()
        self.metric.reset()

    def _is_collected(self) -> bool:
        return self.exact and get_world_size() > 1

    def _collect(self, size: int) -> list[Tensor]:
        folder = {"tmpdir": self.collect_dir} if self.collect_device == "cpu" else {}
        columns = range(1 if self.label_key is None else 2)
        parts = [torch.cat([values[i] for values in self.results]) if self.results else [] for i in columns]
        collected = [collect_results(part, size, self.collect_device, **folder) for part in parts]
        return [column for column in collected if isinstance(column, Tensor)]

    def _update(self, values: list[Tensor]) -> None:
        metric_device = getattr(self.metric, "device", values[0].device)
        if metric_device != values[0].device:
            self.metric.to(values[0].device)
        self.metric.update(*values)

    def _named(self, value: Any) -> dict[str, Any]:
        values = value if isinstance(value, Mapping) else {self.name: value}
        return {str(name): _number(item) for name, item in values.items()}


class _without_own_sync:
    """Keep torchmetrics from communicating: only the main process computes here, and the others would not answer."""

    def __init__(self, metric: Any) -> None:
        members = metric.values() if hasattr(metric, "keys") else [metric]
        self.metrics = [m for member in members for m in member.modules() if hasattr(m, "distributed_available_fn")]

    def __enter__(self) -> None:
        self.saved = [metric.distributed_available_fn for metric in self.metrics]
        for metric in self.metrics:
            metric.distributed_available_fn = _never

    def __exit__(self, *_: Any) -> None:
        for metric, function in zip(self.metrics, self.saved):
            metric.distributed_available_fn = function


def _never() -> bool:
    return False


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return value

"""Adapter for the metrics of torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from lazyengine.dist import all_gather_object, get_world_size
from lazyengine.errors import UsageTypeError
from lazyengine.nesting import iter_leaves, map_leaves

from .metric import BaseMetric, Options
from .samples import find, is_sample_list, iter_samples, require, to_cpu, to_number

_CHUNK = 4096  # samples in one update when collected
Column = Tensor | list[Any]


class TorchMetric(BaseMetric):
    """Use any `torchmetrics.Metric` or `MetricCollection` as a metric.

    In one process every batch goes straight to ``metric.update``. With several ranks predictions and targets are kept,
    collected in the dataset's order without those of repeated samples, and handed to the metric on the main process:
    torchmetrics itself counts samples that samplers repeat, and is kept from communicating.

    A value is a tensor with the batch first, also of maps ``(N, C, H, W)``; maps of several sizes, one update each; or
    a list with a dict for each sample, as ``MeanAveragePrecision`` has them.

    Args:
        metric: The torchmetrics object.
        pred_key: Name of what ``update`` gets first; ``""`` for the predictions themselves, sample by sample.
        label_key: Name of what it gets second, also looked up in the data batch; ``""`` for the samples of the batch
            themselves; None to pass predictions alone.
        name: Name of the value; by default the metric's class in lower case. Metrics that return a dict have names of
            their own.
        **options: See `BaseMetric`.

    Raises:
        UsageTypeError: ``metric`` has not the methods of a torchmetrics metric.
    """

    def __init__(
        self,
        metric: Any,
        pred_key: str = "scores",
        label_key: str | None = "label",
        name: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if not (hasattr(metric, "update") and hasattr(metric, "compute") and hasattr(metric, "reset")):
            raise UsageTypeError(f"TorchMetric: expected a torchmetrics metric, got {type(metric).__name__}")
        self.metric = metric
        self.pred_key, self.label_key = pred_key, label_key
        self.name = name or type(metric).__name__.lower()

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Update the metric, or keep the batch's values for later."""
        values = [_column(self.pred_key, 0, data_samples, data_samples)]
        if self.label_key is not None:
            labels = _column(self.label_key, 1, data_samples, data_batch)
            device = _device_of(values)
            options = {"device": device, "non_blocking": device is not None and device.type == "cuda"}
            values.append(map_leaves(lambda v: v.to(**options) if isinstance(v, Tensor) else v, labels))
        if get_world_size() > 1:
            self.results.append(values)
        else:
            self._update(values)

    def compute_metrics(self, results: Any) -> dict[str, Any]:
        """Update from collected values, if any, and compute."""
        for start in range(0, len(results[0]) if results else 0, _CHUNK):
            self._update([column[start : start + _CHUNK] for column in results])
        computed = self.metric.compute()
        numbers = map_leaves(to_number, computed if isinstance(computed, Mapping) else {self.name: computed})
        return {str(key): item.tolist() if isinstance(item, Tensor) else item for key, item in numbers.items()}

    def reset(self) -> None:
        """Forget all results and the metric's state."""
        super().reset()
        self.metric.reset()

    def _collect(self, size: int | None) -> list[Column]:
        if get_world_size() == 1:
            return []
        parts = list(zip(*self.results)) or [()] * (1 if self.label_key is None else 2)
        shapes = [{tuple(p.shape[1:]) if isinstance(p, Tensor) else None for p in column} for column in parts]
        everywhere = all_gather_object(shapes)
        columns: list[Any] = []
        for column, *found in zip(parts, *everywhere):
            is_even = len(shapes := set().union(*found)) <= 1 and None not in shapes
            whole = torch.cat(column) if is_even and column else [sample for part in column for sample in part]
            columns.append(self._gather(whole, size))
        return [to_cpu(column) if isinstance(column, list) else column for column in columns if column is not None]

    def _update(self, values: Sequence[Column]) -> None:
        if any(isinstance(column, list) and isinstance(column[0], Tensor) for column in values):  # of several sizes
            for sample in zip(*values):
                self.metric.update(*(value[None] if isinstance(value, Tensor) else [value] for value in sample))
            return
        device = _device_of(values)
        if getattr(self.metric, "device", device) != device and device is not None:
            self.metric.to(device)
        self.metric.update(*values)


def _column(key: str, place: int, data_samples: Any, data_batch: Any) -> Column:
    """Return a batched tensor, or a list with a tensor or a dict for each sample."""
    if key == "":
        return data_batch if is_sample_list(data_batch) else list(iter_samples(data_batch))
    value = find(data_samples, key, place)
    value = find(data_batch, key, place) if value is None else value
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping | Tensor):
        return list(value)
    return require(data_samples, key, place, "TorchMetric", data_batch)


def _device_of(values: Any) -> torch.device | None:
    return next((leaf.device for _, leaf in iter_leaves(values) if isinstance(leaf, Tensor)), None)

"""The adapter with an object that has torchmetrics' interface, for environments without the package."""

import pytest
import torch

from lazyengine.evaluator import TorchMetric


class Mean:
    def __init__(self):
        self.reset()

    def update(self, preds, target):
        self.values += (preds - target).tolist()

    def compute(self):
        return torch.tensor(sum(self.values) / len(self.values))

    def reset(self):
        self.values = []


def test_updates_computes_and_resets():
    metric = TorchMetric(Mean(), pred_key="y", label_key="t", prefix="off")
    for _ in range(2):
        metric.process({"t": torch.zeros(2)}, {"y": torch.tensor([1.0, 2.0])})
        assert metric.evaluate(2) == {"off/mean": 1.5}
    assert metric.metric.values == []


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="expected a torchmetrics metric, got dict"):
        TorchMetric({})

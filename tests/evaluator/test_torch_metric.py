"""The adapter for torchmetrics."""

import torch
import torchmetrics

from lazyengine.evaluator import Evaluator, TorchMetric


def _batches():
    generator = torch.Generator().manual_seed(3)
    return [(torch.rand(7, 4, generator=generator), torch.randint(0, 4, (7,), generator=generator)) for _ in range(3)]


def test_equals_torchmetrics_by_hand_again_and_again():
    expected = torchmetrics.Accuracy(task="multiclass", num_classes=4)
    for scores, labels in _batches():
        expected.update(scores, labels)
    evaluator = Evaluator(
        [TorchMetric(torchmetrics.Accuracy(task="multiclass", num_classes=4), name="acc", prefix="tm")]
    )
    for _ in range(2):
        for scores, labels in _batches():
            evaluator.process({"scores": scores}, {"label": labels})
        assert evaluator.evaluate(21) == {"tm/acc": expected.compute().item()}


def test_collections_vectors_and_predictions_alone():
    collection = torchmetrics.MetricCollection([torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()])
    metric = TorchMetric(collection, pred_key="y", label_key="t")
    metric.process(None, {"y": torch.tensor([1.0, 3.0]), "t": torch.tensor([1.0, 1.0])})
    assert metric.evaluate(2) == {"MeanSquaredError": 2.0, "MeanAbsoluteError": 1.0}
    mean = TorchMetric(torchmetrics.MeanMetric(), pred_key="loss", label_key=None)
    mean.process(None, {"loss": torch.tensor([1.0, 3.0])})
    assert mean.evaluate(2) == {"meanmetric": 2.0}
    per_class = TorchMetric(torchmetrics.Accuracy(task="multiclass", num_classes=3, average="none"), name="acc")
    per_class.process(None, (torch.eye(3), torch.tensor([0, 1, 1])))
    assert per_class.evaluate(3) == {"acc": [1.0, 0.5, 0.0]}

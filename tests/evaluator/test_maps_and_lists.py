"""Metrics of pixels, and of lists with a dict for each sample: as computed by hand, on one rank and on two."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from lazyengine import dist
from lazyengine.errors import UsageError
from lazyengine.evaluator import Accuracy, BaseMetric, ConfusionMatrix, Evaluator, MeanIoU, TorchMetric

torchmetrics = pytest.importorskip("torchmetrics")
SIZE = 5


class BoxCounts(torchmetrics.Metric):
    """Takes what MeanAveragePrecision takes, which needs packages of its own."""

    def __init__(self):
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx=None)
        self.add_state("seen", default=[], dist_reduce_fx=None)

    def update(self, preds, target):
        assert len(preds) == len(target)
        self.scores += [each["scores"] for each in preds]
        self.seen += [torch.tensor([len(each["boxes"]), int(each["image_id"])]) for each in target]

    def compute(self):
        return {"score": torch.cat(self.scores).sum(), "seen": torch.stack(self.seen).flatten()}


class OwnAccuracy(BaseMetric):
    """Builds a metric of torchmetrics where it computes, as written for one process."""

    def process(self, data_batch, data_samples):
        self.results += list(zip(data_samples["scores"], data_batch["label"]))

    def compute_metrics(self, results):
        metric = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        scores, labels = map(torch.stack, zip(*results))
        metric.update(scores.flatten(2).mean(2), labels[:, 0, 0])
        return {"own": metric.compute()}


class StateOfRanks(OwnAccuracy):
    def __init__(self):
        super().__init__()
        self.metric = torchmetrics.MeanMetric()

    def process(self, data_batch, data_samples):
        self.metric.update(data_samples["scores"])

    def compute_metrics(self, results):
        return {"own": self.metric.compute()}


def batch_of(indices):
    """Three classes on maps of 4 x 4 pixels; boxes, of which sample i has i % 3; maps of a size of their own."""
    made = []
    for index in indices:
        generator = torch.Generator().manual_seed(index)
        scores = torch.rand(3, 4, 4, generator=generator)
        label = torch.randint(0, 3, (4, 4), generator=generator)
        label[0, index % 4] = 255
        label[0, 0] = index % 3
        size = 2 + index % 2
        made.append({
            "scores": scores, "label": label, "target": {"boxes": torch.zeros(index % 3, 4), "image_id": index},
            "pred": {"scores": torch.full((2,), float(index))},
            "own": torch.rand(size, size, generator=generator), "own_label": torch.zeros(size, size),
        })  # fmt: skip
    batch = {key: torch.stack([each[key] for each in made]) for key in ("scores", "label")}
    return {**batch, **{key: [each[key] for each in made] for key in ("target", "pred", "own", "own_label")}}, made


def evaluate(indices, step=2):
    metrics = [
        MeanIoU(), ConfusionMatrix(ignore_index=255), OwnAccuracy(),
        TorchMetric(torchmetrics.Accuracy(task="multiclass", num_classes=3, ignore_index=255), prefix="pixels"),
        TorchMetric(BoxCounts(), "pred", "target", prefix="boxes"),
        TorchMetric(torchmetrics.MeanSquaredError(), "own", "own_label", prefix="sizes"),
    ]  # fmt: skip
    evaluator = Evaluator(metrics)
    for start in range(0, len(indices), step):
        batch, made = batch_of(indices[start : start + step])
        samples = {key: batch[key] for key in ("scores", "own")}
        for metric in evaluator.metrics:
            metric.process(batch, made if metric.prefix == "boxes" else samples)
    return evaluator.evaluate(SIZE), metrics


def by_hand():
    batch, _ = batch_of(range(SIZE))
    labels, predicted = batch["label"].flatten(), batch["scores"].argmax(1).flatten()
    labels, predicted = labels[labels != 255], predicted[labels != 255]
    matrix = torch.zeros(3, 3, dtype=torch.long)
    for row, column in zip(labels, predicted):
        matrix[row, column] += 1
    right = matrix.diag().double()
    return matrix, {
        "segmentation/mean_iou": (right / (matrix.sum(0) + matrix.sum(1) - right)).mean().item(),
        "segmentation/mean_accuracy": (right / matrix.sum(1)).mean().item(),
        "segmentation/pixel_accuracy": (right.sum() / matrix.sum()).item(),
        "confusion_matrix/mean_recall": (right / matrix.sum(1)).mean().item(),
        "confusion_matrix/mean_precision": (right / matrix.sum(0)).mean().item(),
        "own": (batch["scores"].flatten(2).mean(2).argmax(1) == batch["label"][:, 0, 0]).double().mean().item(),
        "pixels/multiclassaccuracy": None,
        "boxes/score": 20.0,
        "boxes/seen": [0, 0, 1, 1, 2, 2, 0, 3, 1, 4],
        "sizes/meansquarederror": torch.cat([each.flatten() for each in batch["own"]]).square().mean().item(),
    }


def check(found):
    _, expected = by_hand()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is not None:
            assert found[name] == pytest.approx(value, rel=1e-6), name


def test_one_process():
    found, (iou, confusion, *_) = evaluate(list(range(SIZE)))
    check(found)
    matrix, _ = by_hand()
    assert torch.equal(confusion.matrix, matrix)
    assert iou.per_class is not None
    assert iou.per_class.mean().item() == found["segmentation/mean_iou"]


def run_rank(rank, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    indices = [0, 1, 2, 3, 4, 0]  # as a sampler repeats samples
    found, _ = evaluate(indices[rank::2])
    check(found)
    alone, _ = evaluate(indices[rank::2], step=1)
    assert alone == found
    metric = StateOfRanks()
    metric.process(None, {"scores": torch.ones(2)})
    with pytest.raises(RuntimeError, match=r"process updates metric \(MeanMetric\) on each rank"):
        metric.evaluate(4)
    assert dist.get_world_size() == 2  # a computation alone leaves the group as it is
    torch.distributed.destroy_process_group()


def test_two_ranks(tmp_path):
    spawn(run_rank, (tmp_path / "store",), nprocs=2)


def test_predictions_and_samples_themselves():
    metric = TorchMetric(BoxCounts(), pred_key="", label_key="")
    batch, made = batch_of([1, 2])
    metric.process(batch["target"], [each["pred"] for each in made])
    assert metric.evaluate(2) == {"score": 6.0, "seen": [1, 1, 2, 2]}


def test_what_is_no_class_is_refused():
    scores, label = torch.rand(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 7]]])
    for metric in (MeanIoU(), ConfusionMatrix()):
        metric.process({"label": label}, {"scores": scores})
        with pytest.raises(ValueError, match="1 times a label is none of the 3 classes"):
            metric.evaluate(1)
        with pytest.raises(ValueError, match="needs num_classes"):
            metric.process({"label": label}, {"scores": label})
    with pytest.raises(ValueError, match=r"needs scores \(N, C\) or classes \(N,\) and labels \(N,\), got"):
        Accuracy().process({"label": label}, {"scores": scores})


@pytest.mark.parametrize("kind", [ConfusionMatrix, MeanIoU])
def test_a_number_of_classes_below_one_is_refused(kind):
    with pytest.raises(UsageError, match=rf"{kind.__name__}: num_classes must be at least 1, got -3"):
        kind(num_classes=-3)

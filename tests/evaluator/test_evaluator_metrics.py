"""The metrics that are shipped, against computations by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyengine.errors import UsageError
from lazyengine.evaluator import Accuracy, ConfusionMatrix, Evaluator, MeanIoU, MeanLoss, Perplexity


def evaluate(metric, *batches, size=None):
    for batch in batches:
        metric.process(None, batch)
    return metric.evaluate(size)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(3, 12), st.integers(1, 17), st.integers(0, 1000))
def test_accuracy_equals_counting_by_hand(num, classes, batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num, classes, generator=generator)
    labels = torch.randint(0, classes, (num,), generator=generator)
    batches = [
        {"scores": scores[i : i + batch_size], "label": labels[i : i + batch_size]} for i in range(0, num, batch_size)
    ]
    expected = {}
    for k in (1, 3):
        ranked = [sorted(range(classes), key=lambda c, row=row: -row[c])[:k] for row in scores.tolist()]
        expected[f"accuracy/top{k}"] = sum(y in best for y, best in zip(labels.tolist(), ranked)) / num
    assert evaluate(Accuracy(topk=(1, 3)), *batches) == pytest.approx(expected)
    assert evaluate(Accuracy(topk=1), *batches) == pytest.approx({"accuracy/top1": expected["accuracy/top1"]})


def test_accuracy_refuses_what_would_broadcast():
    for scores, labels in ((torch.zeros(4, 3), torch.zeros(4, 1)), (torch.zeros(4, 3), torch.zeros(3)),
                           (torch.zeros(4, 3, 2), torch.zeros(4))):  # fmt: skip
        with pytest.raises(ValueError, match=r"needs scores \(N, C\) or classes \(N,\) and labels \(N,\)"):
            Accuracy().process(None, {"scores": scores, "label": labels})
    with pytest.raises(ValueError, match=r"topk=\(5,\) needs scores \(N, C\) with C >= 5, got \(2, 3\)"):
        Accuracy(topk=5).process(None, (torch.zeros(2, 3), torch.zeros(2)))
    with pytest.raises(ValueError, match="with C >= 2"):
        Accuracy(topk=2).process(None, (torch.zeros(2, dtype=torch.long), torch.zeros(2)))
    for topk in ((), 0, (1, 1)):
        with pytest.raises(ValueError, match="topk needs different numbers"):
            Accuracy(topk=topk)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("metric", [Accuracy(), ConfusionMatrix(), MeanIoU(num_classes=2)])
def test_one_probability_a_sample_is_no_class(metric, shape):
    """Cut to whole numbers, or as the only one of its row, each would be of class 0."""
    maps = (3, 5) if isinstance(metric, MeanIoU) else ()
    label = torch.ones(4, *maps, dtype=torch.long)
    with pytest.raises(ValueError, match=r"tells no class · .* such as \(probability > 0.5\)"):
        metric.process({"label": label}, {"scores": torch.rand(*shape, *maps)})
    metric.process({"label": label}, {"scores": (torch.ones(4, *maps) > 0.5).long()})
    assert 1.0 in metric.evaluate(4).values()


def test_scores_with_nan_predict_no_class():
    scores = torch.eye(3)[[0, 1, 2, 0]]
    scores[3, 0] = torch.nan
    for label, right in (([0, 1, 2, 0], 0.75), ([-1, -1, -1, -1], 0.0)):
        samples = {"scores": scores, "label": torch.tensor(label)}
        for metric, number in ((Accuracy(), 1), (Accuracy(topk=(1, 3)), 2)):
            metric.process(None, samples)
            assert list(metric.evaluate(4).values()) == [right] * number


MATRIX = {"mean_recall": 0.75, "mean_precision": 1.0}
COUNTING = pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (ConfusionMatrix, (), MATRIX),
        (ConfusionMatrix, (1, 1), MATRIX),
        (MeanIoU, (1, 1), {"mean_iou": 0.75, "mean_accuracy": 0.75, "pixel_accuracy": 2 / 3}),
    ],
    ids=["matrix of samples", "matrix of maps", "iou of maps"],
)


@COUNTING
def test_a_prediction_of_no_class_counts_as_wrong_in_every_metric(make, shape, expected, capsys):
    """One NaN ended a validation, and with it a run of days, which goes on by accuracy."""
    scores = torch.eye(2)[[0, 1, 0, 1, 0, 0]]
    scores[4, 0] = scores[5, 1] = torch.nan  # both of class 0
    samples = {"scores": scores.reshape(6, 2, *shape), "label": torch.tensor([0, 1, 0, 1, 0, 0]).reshape(6, *shape)}
    found = evaluate(metric := make(num_classes=2), samples, size=6)
    assert {name.partition("/")[2]: value for name, value in found.items()} == pytest.approx(expected)
    text = (
        f"{make.__name__}: 2 times a prediction is none of the 2 classes, as where a score is NaN: it counts as wrong"
    )
    assert text in capsys.readouterr().out
    assert make is MeanIoU or metric.matrix.tolist() == [[2, 0], [0, 2]]


@COUNTING
@pytest.mark.parametrize("label", [-1, 3, 255])
def test_labels_that_are_no_class_are_refused(make, shape, expected, label):
    labels = torch.tensor([0, 1, label])
    samples = {"scores": torch.eye(3).reshape(3, 3, *shape), "label": labels.reshape(3, *shape)}
    seen = "" if shape else f", got {int(labels.min())} to {int(labels.max())}"
    with pytest.raises(
        UsageError, match=f"1 times a label is none of the 3 classes, which are counted from 0{seen}; name"
    ):
        evaluate(make(3, ignore_index=None), samples, size=3)


def test_a_confusion_matrix_of_ignored_labels_alone_has_no_means():
    matrix = ConfusionMatrix(ignore_index=-100)
    matrix.process(None, (torch.eye(3), torch.full((3,), -100)))
    assert all(map(math.isnan, matrix.evaluate(3).values()))


def test_accuracy_keeps_tensors_on_their_device_without_reading_them():
    """On the meta device any read of a value raises."""
    metric = Accuracy(topk=(1, 2))
    metric.process(None, (torch.zeros(4, 3, device="meta"), torch.zeros(4, dtype=torch.long)))
    assert metric.results[0].device.type == "meta"
    assert metric.results[0].shape == (4, 2)
    losses = MeanLoss(weight_key="weight")
    losses.process(None, {"loss": torch.zeros(4, device="meta"), "weight": torch.ones(4, device="meta")})
    matrix = ConfusionMatrix()
    matrix.process(None, (torch.zeros(4, 3, device="meta"), torch.zeros(4, dtype=torch.long)))
    assert losses.results[0].device.type == matrix.results[0].device.type == "meta"


def test_mean_loss_by_sample_by_batch_and_weighted():
    by_sample = [{"loss": torch.tensor([1.0, 2.0, 3.0])}, {"loss": torch.tensor([6.0])}]
    assert evaluate(MeanLoss(), *by_sample) == {"loss": 3.0}
    by_batch = [
        {"loss": torch.tensor(2.0), "label": torch.zeros(3)},
        {"loss": torch.tensor(6.0), "label": torch.zeros(1)},
    ]
    assert evaluate(MeanLoss(prefix="val"), *by_batch) == {"val/loss": 3.0}
    weighted = {"loss": torch.tensor([1.0, 4.0]), "num_tokens": torch.tensor([30, 10])}
    assert evaluate(MeanLoss(weight_key="num_tokens"), weighted) == {"loss": 1.75}
    scalars = [{"loss": torch.tensor(1.0), "n": torch.tensor(30), "ids": torch.zeros(2, 5)},
               {"loss": torch.tensor(4.0), "n": torch.tensor(10), "ids": torch.zeros(3, 5)}]  # fmt: skip
    assert evaluate(MeanLoss(weight_key="n"), *scalars)["loss"] == pytest.approx(1.75)
    half = {"loss": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    assert evaluate(MeanLoss(name="nll"), half) == {"nll": 1.5}
    assert math.isnan(evaluate(MeanLoss(weight_key="w"), {"loss": torch.ones(2), "w": torch.zeros(2)})["loss"])
    with pytest.raises(ValueError, match=r"'loss' must be \(N,\) or a scalar, got \(2, 2\)"):
        MeanLoss().process(None, {"loss": torch.zeros(2, 2)})


def test_the_mean_of_no_tokens_adds_nothing():
    losses = {"loss": torch.tensor([1.0, math.nan, 3.0]), "num": torch.tensor([3, 0, 1])}
    for metric, value in ((MeanLoss(weight_key="num"), 1.5), (Perplexity(weight_key="num"), math.exp(1.5))):
        metric.process(None, losses)
        assert metric.evaluate(3) == {metric.name: pytest.approx(value)}
    metric = MeanLoss(weight_key="num")
    metric.process(None, losses | {"num": torch.tensor([3, 1, 1])})
    assert math.isnan(metric.evaluate(3)["loss"])


def test_mean_loss_of_many_samples_is_summed_in_double():
    losses = torch.full((200_000,), 0.1)
    assert evaluate(MeanLoss(), {"loss": losses})["loss"] == pytest.approx(float(losses[0]), rel=1e-12)


def test_perplexity():
    nll = torch.tensor([math.log(2.0), math.log(8.0)])
    assert evaluate(Perplexity(), {"loss": nll}) == {"perplexity": pytest.approx(4.0)}
    tokens = {"loss": nll, "num_tokens": torch.tensor([3.0, 1.0])}
    assert evaluate(Perplexity(weight_key="num_tokens"), tokens)["perplexity"] == pytest.approx(2 ** (6 / 4))
    assert evaluate(Perplexity(), {"loss": torch.tensor([1e4])}) == {"perplexity": math.inf}


def test_confusion_matrix_counts_and_means():
    metric = ConfusionMatrix()
    batch = {"scores": torch.tensor([0, 0, 1, 2, 2, 2]), "label": torch.tensor([0, 1, 1, 2, 2, 0])}
    values = evaluate(metric, batch)
    assert metric.matrix is not None
    assert metric.matrix.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]
    assert values == {
        "confusion_matrix/mean_recall": pytest.approx((1 / 2 + 1 / 2 + 1) / 3),
        "confusion_matrix/mean_precision": pytest.approx((1 / 2 + 1 + 2 / 3) / 3),
    }


def test_confusion_matrix_takes_the_number_of_classes_from_the_dataset():
    metric = ConfusionMatrix()
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = {"classes": ["ant", "bee", "cat", "dog"]}
    evaluator.process((torch.eye(4)[:3], torch.tensor([0, 1, 2])))
    values = evaluator.evaluate(3)
    assert metric.matrix is not None
    assert metric.matrix.shape == (4, 4)
    assert values["confusion_matrix/mean_recall"] == 1.0  # a class that never occurs does not count
    with pytest.raises(ValueError, match=r"1 times a label is none of the 2 classes, .* got 0 to 2"):
        evaluate(ConfusionMatrix(num_classes=2), (torch.eye(3), torch.tensor([0, 1, 2])))
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        ConfusionMatrix(num_classes=0)


def test_confusion_matrix_draws_a_picture(tmp_path):
    picture = tmp_path / "plots" / "matrix.png"
    metric = ConfusionMatrix(picture=picture)
    with pytest.raises(ValueError, match="there is no matrix · call evaluate first"):
        metric.plot()
    metric.dataset_meta = {"classes": ["ant", "bee", "cat"]}
    evaluate(metric, (torch.eye(3), torch.tensor([0, 1, 1])))
    assert picture.read_bytes().startswith(b"\x89PNG")
    axis = metric.plot().axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["ant", "bee", "cat"]
    assert [text.get_text() for text in axis.texts] == ["1", "0", "0", "0", "1", "1", "0", "0", "0"]


@pytest.mark.parametrize(
    ("scores", "labels", "told"),
    [
        (torch.eye(2), [5, 6], "from 5 to 6 for scores of 2 classes"),
        (torch.eye(3), [0, 1, -100], "from -100 to 1 for scores of 3 classes"),
        (torch.eye(3), [0, 1, 3], "from 0 to 3"),
        (torch.eye(3), [0, 1, 2], ""),
        (torch.tensor([0, 7]), [0, 9], ""),
        (torch.zeros(0, 2), [], ""),
    ],
)
def test_labels_that_are_no_class_are_said(scores, labels, told, log_lines):
    batches = [{"scores": each, "label": torch.tensor(labels, dtype=torch.int64)} for each in (scores, scores)]
    values = evaluate(Accuracy(), *batches, {"scores": torch.eye(2)[:1], "label": torch.tensor([0])})
    assert 0 <= values["accuracy/top1"] <= 1
    assert [told in line for line in log_lines] == [True] * bool(told)

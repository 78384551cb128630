"""The evaluator, the base classes, and looking up a value."""

from dataclasses import dataclass

import pytest
import torch

from lazyengine.evaluator import Accuracy, BaseMetric, Evaluator, MeanLoss, TensorMetric


class Mean(BaseMetric):
    """One number for each sample."""

    default_prefix = "mean"

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {"value": sum(results) / len(results), "count": len(results)}


def test_results_are_forgotten_after_an_evaluation():
    evaluator = Evaluator(Mean())
    for _ in range(2):
        evaluator.process([1.0, 2.0])
        evaluator.process([3.0])
        assert evaluator.evaluate(3) == {"mean/value": 2.0, "mean/count": 3}
    assert evaluator.metrics[0].results == []


def test_prefix_default_own_and_none():
    for prefix, name in ((None, "mean/value"), ("val", "val/value"), ("", "value")):
        metric = Mean(prefix=prefix)
        metric.process(None, [1.0])
        assert name in metric.evaluate(1)


def test_several_metrics_see_batch_and_samples_and_the_dataset_meta():
    seen = []

    class Spy(Mean):
        def process(self, data_batch, data_samples):
            seen.append((data_batch, data_samples))
            super().process(data_batch, data_samples)

    evaluator = Evaluator([Spy(prefix="a"), Mean(prefix="b")])
    evaluator.dataset_meta = {"classes": ["x"]}
    assert [metric.dataset_meta for metric in evaluator.metrics] == [{"classes": ["x"]}] * 2
    evaluator.process(data_samples=[2.0], data_batch={"image": 1})
    assert seen == [({"image": 1}, [2.0])]
    assert list(evaluator.evaluate(1)) == ["a/value", "a/count", "b/value", "b/count"]


def test_duplicate_names_are_refused_early_where_known_and_at_evaluation_else():
    with pytest.raises(ValueError, match="Accuracy and Accuracy both compute 'accuracy/top1' · give them different"):
        Evaluator([Accuracy(), Accuracy(label_key="other")])
    Evaluator([Accuracy(), Accuracy(prefix="second")])
    evaluator = Evaluator([Mean(), Mean()])
    evaluator.process([1.0])
    with pytest.raises(ValueError, match="Mean and Mean both compute 'mean/value'"):
        evaluator.evaluate(1)


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match=r"derived from BaseMetric, got 3 · wrap a torchmetrics metric in TorchMetric"):
        Evaluator([Mean(), 3])  # type: ignore[list-item]


def test_collect_arguments_are_checked():
    with pytest.raises(ValueError, match="collect_device must be 'cpu' or 'gpu', got 'tpu'"):
        Mean(collect_device="tpu")
    with pytest.raises(ValueError, match="has no use with collect_device='gpu'"):
        Mean(collect_device="gpu", collect_dir="/tmp")


def test_an_error_in_compute_metrics_keeps_its_type_and_names_the_metric():
    class Broken(Mean):
        def compute_metrics(self, results):
            raise ZeroDivisionError("no")

    metric = Broken()
    metric.process(None, [1.0])
    with pytest.raises(ZeroDivisionError, match="no") as caught:
        metric.evaluate(1)
    assert caught.value.__notes__ == ["while computing the metric Broken"]
    assert metric.results == []


def test_a_tensor_metric_is_given_one_tensor():
    class Sum(TensorMetric):
        def process(self, data_batch, data_samples):
            self.results.append(data_samples["x"])

        def compute_metrics(self, results):
            return {"sum": results.sum().item(), "rows": len(results)}

    metric = Sum()
    metric.process(None, {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    metric.process(None, {"x": torch.tensor([[5.0, 6.0]])})
    assert metric.evaluate(3) == {"sum": 21.0, "rows": 3}
    with pytest.raises(ValueError, match="Sum has no samples to compute from, on any rank"):
        metric.evaluate(3)


# ---- offline


def test_offline_evaluation_equals_online():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(103, 5, generator=generator), torch.randint(0, 5, (103,), generator=generator)
    online = Evaluator([Accuracy(topk=(1, 3))])
    online.process({"scores": scores, "label": labels})
    expected = online.evaluate(103)
    samples = [{"scores": s, "label": y} for s, y in zip(scores, labels)]
    for chunk_size in (1, 10, 1000):
        assert Evaluator([Accuracy(topk=(1, 3))]).offline_evaluate(samples, chunk_size=chunk_size) == expected
    predictions = ({"scores": s} for s in scores)
    data = ({"label": y} for y in labels.tolist())
    assert Evaluator([Accuracy(topk=(1, 3))]).offline_evaluate(predictions, data, chunk_size=10) == expected


class BatchError(TensorMetric):
    """Written for batches at once: it reads whole values by their names."""

    def process(self, data_batch, data_samples):
        assert all(isinstance(value, torch.Tensor) for value in (data_samples["y"], data_batch["y"]))
        self.results.append((data_samples["y"] - data_batch["y"]).abs() * data_batch["weight"]["w"])

    def compute_metrics(self, results):
        return {"mae": results.mean().item()}


class SampleError(BaseMetric):
    """Written for samples one by one."""

    def process(self, data_batch, data_samples):
        self.results += [float(sample["y"]) for sample in data_samples]

    def compute_metrics(self, results):
        return {"mean": sum(results) / len(results)}


@pytest.mark.parametrize("kind", [torch.tensor, float, lambda y: torch.tensor(y).numpy()])
def test_offline_evaluation_runs_metrics_for_batches_and_for_samples(kind):
    samples = [{"y": kind(y), "path": "a.png"} for y in (1.0, 2.0, 4.0)]
    data = [{"y": 1.0, "weight": {"w": i}, "name": "x"} for i in range(3)]
    for chunk_size in (1, 2, 3, 10):
        evaluator = Evaluator([BatchError(), SampleError()])
        values = evaluator.offline_evaluate(samples, data, chunk_size)
        assert values == {"mae": pytest.approx(7 / 3), "mean": pytest.approx(7 / 3)}
    with pytest.raises(KeyError, match=r"no 'z' in SampleList of 1, the first a dict with \['path', 'y'\]"):
        Evaluator(Named("z")).offline_evaluate(samples)
    assert Evaluator(Named("path")).offline_evaluate(samples, chunk_size=2) == {"all": ["a.png"] * 3}


class Named(BaseMetric):
    def __init__(self, key):
        super().__init__()
        self.key = key

    def process(self, data_batch, data_samples):
        self.results += data_samples[self.key]

    def compute_metrics(self, results):
        return {"all": results}


def test_offline_evaluation_collates_as_the_loader_did():
    seen = []

    class Spy(Mean):
        def process(self, data_batch, data_samples):
            seen.append(data_batch)
            super().process(data_batch, data_samples)

    Evaluator(Spy()).offline_evaluate([1.0, 2.0, 3.0], [1, 2, 3], 2, collate=tuple)
    assert seen == [(1, 2), (3,)]


def test_offline_evaluation_checks_lengths():
    samples = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="data has fewer samples"):
        Evaluator(Mean()).offline_evaluate(samples, [1, 2])
    with pytest.raises(ValueError, match="data has more samples than the 3"):
        Evaluator(Mean()).offline_evaluate(samples, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        Evaluator(Mean()).offline_evaluate(samples, chunk_size=0)


# ---- shapes of samples


@dataclass
class Prediction:
    scores: torch.Tensor
    label: torch.Tensor | int


def test_every_arrangement_of_samples_gives_the_same():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    labels = torch.tensor([1, 1, 1])
    arrangements = [
        ({"scores": scores, "label": labels}, None),
        (Prediction(scores, labels), None),
        ((scores, labels), None),
        ({"scores": scores}, {"image": 0, "label": labels}),
        (scores, {"label": labels}),
        (scores, (torch.zeros(3, 4), labels)),
        (scores, [torch.zeros(3, 4), labels]),
        ([{"scores": s, "label": y} for s, y in zip(scores, labels)], None),
        ([{"scores": s.tolist(), "label": int(y)} for s, y in zip(scores, labels)], None),
        ([Prediction(s, int(y)) for s, y in zip(scores, labels)], None),
        (list(zip(scores, labels)), None),
        ({"scores": scores.argmax(1), "label": labels}, None),
    ]
    for data_samples, data_batch in arrangements:
        evaluator = Evaluator([Accuracy()])
        evaluator.process(data_samples, data_batch)
        assert evaluator.evaluate(3) == {"accuracy/top1": pytest.approx(2 / 3)}


def test_a_missing_key_says_what_is_there():
    with pytest.raises(KeyError, match=r"no 'scores' in the predictions \(dict with \['logits'\]\), nor in the batch"):
        Accuracy().process(None, {"logits": torch.zeros(2, 2)})
    with pytest.raises(KeyError, match=r"no 'label' .*tensor \(2, 2\).*dict with \['image'\]"):
        Accuracy().process({"image": 1}, torch.zeros(2, 2))
    with pytest.raises(KeyError, match=r"list of 1, the first a Prediction with \['label', 'scores'\]"):
        Accuracy(pred_key="x").process(None, [Prediction(torch.zeros(2), 1)])
    with pytest.raises(TypeError, match="'loss' must be a tensor or numbers, got str"):
        MeanLoss().process(None, {"loss": "low"})

"""How many results a metric may keep: none is cut in silence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.evaluator import Accuracy, BaseMetric, ConfusionMatrix, DumpResults, Evaluator, MeanLoss, TensorMetric


class Crops(BaseMetric):
    """Keeps several results for each sample, one after the other."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.results += sample

    def compute_metrics(self, results):
        return {"sum": sum(results), "count": len(results)}


class Rows(TensorMetric):
    """The same with rows of a tensor."""

    def process(self, data_batch, data_samples):
        self.results.append(torch.tensor(data_samples).flatten())

    def compute_metrics(self, results):
        return {"sum": results.sum().item(), "count": len(results)}


def crops(metric, size):
    evaluator = Evaluator(metric)
    for start in range(0, 40, 8):
        evaluator.process([[i, i, i] for i in range(start, start + 8)])
    return evaluator.evaluate(size)


@pytest.mark.seam(17, "list", "tensor", "one rank")
@pytest.mark.parametrize("kind", [Crops, Rows])
def test_three_results_a_sample_are_an_error_or_all_used(kind):
    with pytest.raises(
        UsageError, match=rf"{kind.__name__} kept 120 results.*40 samples.*results_per_sample"
    ) as caught:
        crops(kind(), 40)
    assert isinstance(caught.value, RuntimeError)
    expected = {"sum": 3 * sum(range(40)), "count": 120}
    assert crops(kind(results_per_sample=3), 40) == expected
    assert crops(kind(results_per_sample="any"), 40) == expected
    assert crops(kind(), 120) == expected
    assert crops(kind(), None) == expected

    class ByClass(kind):
        results_per_sample = 3

    assert crops(ByClass(), 40) == expected
    with pytest.raises(UsageError, match="ByClass kept 120 results"):
        crops(ByClass(), 39)


def test_after_the_error_nothing_is_left():
    metric = Crops()
    with pytest.raises(UsageError):
        crops(metric, 40)
    assert metric.results == []


def test_results_that_do_not_fill_the_samples_are_refused_where_a_number_was_given():
    metric = Crops(results_per_sample=3)
    metric.process(None, [[1, 2, 3], [4, 5]])
    with pytest.raises(UsageError, match=r"kept 5 results.*results_per_sample=3"):
        metric.evaluate(2)


def test_fewer_results_than_samples_are_a_metrics_own_affair():
    metric = Crops()
    metric.process(None, [[1], [], [2]])
    assert metric.evaluate(3) == {"sum": 3, "count": 2}


@pytest.mark.parametrize("value", [0, -1, 1.5, "all", True])
def test_other_numbers_are_refused(value):
    with pytest.raises(UsageError, match=r"results_per_sample must be at least 1, or 'any', got"):
        Crops(results_per_sample=value)


@pytest.mark.seam(17, "stream")
def test_every_metric_takes_the_option_and_a_size_that_nobody_knows(tmp_path):
    batch = {"scores": torch.eye(4), "label": torch.arange(4), "loss": torch.ones(4)}
    dump = partial(DumpResults, tmp_path / "r.pt")
    kinds: list[Callable[..., BaseMetric]] = [Accuracy, MeanLoss, ConfusionMatrix, dump]
    for metric in kinds:
        whole = Evaluator(metric())
        whole.process(batch)
        expected = whole.evaluate(None)
        for number in (2, "any"):
            evaluator = Evaluator(metric(results_per_sample=number))
            evaluator.process(batch)
            assert evaluator.evaluate(2) == expected
        whole.process(batch)
        with pytest.raises(UsageError, match="kept 4 results on 1 process for 2 samples"):
            whole.evaluate(2)


def test_values_are_plain_numbers():
    class Kinds(Crops):
        def compute_metrics(self, results):
            return {"a": np.float32(0.5), "b": np.array([1.5]), "c": torch.tensor([2.5]), "d": [np.int64(3)], "e": "x"}

    metric = Kinds()
    metric.process(None, [[1]])
    values = metric.evaluate(1)
    assert values == {"a": 0.5, "b": 1.5, "c": 2.5, "d": [3], "e": "x"}
    assert [type(value) for value in values.values()] == [float, float, float, list, str]


@pytest.mark.parametrize("value", [None, 0.5, [1.0]])
def test_a_metric_that_returns_no_names_is_told_so(value):
    class Nameless(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(1)

        def compute_metrics(self, results):
            return value

    metric = Nameless()
    metric.process(None, None)
    with pytest.raises(TypeError, match=r"Nameless.compute_metrics returned .*'name': value"):
        metric.evaluate(1)

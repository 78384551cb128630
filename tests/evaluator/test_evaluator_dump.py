"""Saved predictions: plain types, in the dataset's order, good for offline evaluation."""

import json
import pickle
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lazyengine.evaluator import Accuracy, DumpResults, Evaluator, iter_samples, load_results, save_results


def _dump(path, size=5, **kwargs):
    scores = torch.arange(15.0).reshape(5, 3)
    evaluator = Evaluator([DumpResults(path, **kwargs), Accuracy()])
    for part in (slice(0, 4), slice(4, 5)):
        evaluator.process({"scores": scores[part], "label": torch.full((5,), 2)[part], "loss": torch.tensor(0.5)})
    assert evaluator.evaluate(size) == {"accuracy/top1": 1.0}
    return scores


@pytest.mark.parametrize("ending", ["pt", "jsonl", "pkl"])
def test_predictions_come_back_and_evaluate_the_same(tmp_path, ending):
    path = tmp_path / "deep" / f"results.{ending}"
    scores = _dump(path)
    samples = load_results(path, trusted=ending in ("pkl", "pickle"))
    assert len(samples) == 5
    for sample, row in zip(samples, scores):
        assert torch.equal(torch.as_tensor(sample["scores"]), row)
        assert (int(sample["label"]), float(sample["loss"])) == (2, 0.5)
    assert Evaluator([Accuracy()]).offline_evaluate(samples, chunk_size=2) == {"accuracy/top1": 1.0}


def test_a_pt_file_is_read_without_running_code(tmp_path):
    _dump(tmp_path / "results.pt")
    saved = torch.load(tmp_path / "results.pt", weights_only=True)
    assert saved["num_samples"] == 5
    assert saved["columns"]["scores"].shape == (5, 3)


def test_a_jsonl_file_has_a_line_for_each_sample(tmp_path):
    _dump(tmp_path / "results.jsonl", keys=["label"])
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"label": 2}] * 5


@pytest.mark.parametrize("name", ["results.pkl", "results.pickle"])
def test_a_pickle_needs_trust_and_holds_no_more_than_the_sample(tmp_path, name):
    _dump(tmp_path / name)
    with pytest.raises(ValueError, match="reading a pickle can run any code · if you trust it"):
        load_results(tmp_path / name)
    with open(tmp_path / name, "rb") as file:
        sample = pickle.load(file)[0]
    assert sample["scores"].untyped_storage().nbytes() == 3 * 4


def test_samples_become_plain(tmp_path):
    @dataclass
    class Detection:
        boxes: torch.Tensor
        path: Path
        score: np.float32

    metric = DumpResults(tmp_path / "results.pt")
    metric.process(None, [Detection(torch.zeros(n, 4), Path("a.png"), np.float32(0.5)) for n in (1, 2)])
    metric.process(None, [{"boxes": np.zeros((3, 4)), "path": "b.png", "score": 1.0}])
    metric.evaluate(3)
    samples = load_results(tmp_path / "results.pt")
    assert [tuple(sample["boxes"].shape) for sample in samples] == [(1, 4), (2, 4), (3, 4)]
    assert [sample["path"] for sample in samples] == ["a.png", "a.png", "b.png"]
    assert samples[0]["score"] == 0.5
    assert type(samples[0]["score"]) is float


def test_other_arrangements_keep_their_samples(tmp_path):
    Pair = namedtuple("Pair", "x y")
    for index, (batch, expected) in enumerate(
        [
            (torch.tensor([1, 2]), [1, 2]),
            ((torch.tensor([1, 2]), torch.tensor([3, 4])), [(1, 3), (2, 4)]),
            (Pair(torch.tensor([1, 2]), torch.tensor([3, 4])), [{"x": 1, "y": 3}, {"x": 2, "y": 4}]),
            ([{"a": 1}, {"b": 2}], [{"a": 1}, {"b": 2}]),
            ([7, 8], [7, 8]),
            (["a", "b"], ["a", "b"]),
            ([{"boxes": [torch.tensor([1])]}, {}], [{"boxes": [torch.tensor([1])]}, {}]),
        ]
    ):
        metric = DumpResults(tmp_path / f"{index}.pt")
        metric.process(None, batch)
        metric.evaluate(10)
        assert load_results(tmp_path / f"{index}.pt") == expected


def test_iter_samples_splits_what_is_batched_and_repeats_what_is_not():
    batch = {"x": torch.tensor([1, 2]), "name": ["a", "b"], "loss": torch.tensor(3.0), "meta": {"k": 1}}
    assert list(iter_samples(batch)) == [
        {"x": 1, "name": "a", "loss": 3.0, "meta": {"k": 1}},
        {"x": 2, "name": "b", "loss": 3.0, "meta": {"k": 1}},
    ]
    with pytest.raises(TypeError, match=r"no batched tensor in dict with \['loss'\]"):
        list(iter_samples({"loss": torch.tensor(3.0)}))


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .pt, .pth, .jsonl, .pkl, .pickle, got 'results.npy'"):
        DumpResults("results.npy")
    with pytest.raises(ValueError, match=r"expected a file of DumpResults"):
        load_results("results.npy")
    with pytest.raises(KeyError, match=r"no 'boxes' in the predictions, which have \['label'\]"):
        DumpResults("results.pt", keys=["boxes"]).process(None, [{"label": 1}])
    with pytest.raises(TypeError, match=r"a complex cannot be written as JSON · use a .pt file"):
        save_results([{"z": 1j}], str(tmp_path / "results.jsonl"))
    assert not (tmp_path / "results.jsonl").exists()
    save_results([], str(tmp_path / "empty.pt"))
    assert load_results(tmp_path / "empty.pt") == []

"""Saved predictions: plain types, in the dataset's order, good for offline evaluation."""

import json
import pickle
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.evaluator import (
    Accuracy,
    DumpResults,
    Evaluator,
    MeanLoss,
    iter_samples,
    load_results,
    save_results,
)


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
        assert (int(sample["label"]), float(sample["batch_loss"])) == (2, 0.5)
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


@pytest.mark.parametrize("ending", ["pt", "jsonl"])
@pytest.mark.parametrize(
    ("losses", "names"),
    [
        ({"loss": [1.0, 4.0]}, {"batch_loss", "batch_size"}),
        ({"loss": [1.0, 4.0], "num": [30, 10]}, {"batch_loss", "batch_num", "batch_size"}),
        ({"loss": [[1.0, 2.0, 3.0, 4.0], [5.0]]}, {"loss"}),
    ],
)
def test_what_a_batch_has_one_of_says_so_and_has_the_same_mean_afterwards(tmp_path, ending, losses, names):
    """The loss of its batch stood in each sample as if it were the sample's own."""
    evaluator = Evaluator([DumpResults(path := tmp_path / f"results.{ending}"), MeanLoss()])
    for number, size in enumerate((4, 1)):
        values = {name: torch.tensor(each[number]) for name, each in losses.items()}
        evaluator.process({"scores": torch.eye(size, 3), **values})
    expected = evaluator.evaluate(5)
    samples = load_results(path)
    assert set(samples[0]) == {"scores", *names}
    assert samples[-1].get("batch_size", 1) == 1
    found = Evaluator(MeanLoss()).offline_evaluate(samples, chunk_size=3)
    assert found == pytest.approx(expected, rel=1e-6)


def test_keys_name_what_the_model_returned(tmp_path):
    _dump(tmp_path / "results.pt", keys=["loss", "label"])
    assert load_results(tmp_path / "results.pt")[0] == {"batch_loss": 0.5, "label": 2}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("results.pt", lambda path: torch.save({"state_dict": {"w": torch.ones(1)}}, path)),
        ("results.pt", lambda path: torch.save([1, 2], path)),
        ("results.jsonl", lambda path: path.write_text('{"scores": [1, 2]}\n{"scor')),
        ("results.pkl", lambda path: path.write_bytes(b"")),
        ("results.pkl", lambda path: path.write_bytes(pickle.dumps(3))),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, name, write):
    write(tmp_path / name)
    message = rf"{name} (holds no predictions|cannot be read as predictions).*; name a file of DumpResults"
    with pytest.raises(UsageError, match=message):
        load_results(tmp_path / name, trusted=True)


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

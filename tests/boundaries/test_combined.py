"""Several train loaders at once, workers that stay and see changes, exactness tried by reading, fields of a batch."""

from __future__ import annotations

import itertools
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lazyengine.analysis import check_batches
from lazyengine.cli.main import main
from lazyengine.dataset import CombinedLoader, DataLoader, pseudo_collate
from lazyengine.model import train_step, val_step
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop

from .streams import Shards
from .test_generators import Counting, Data, InAttribute


def plain(size: int, **options: Any) -> DataLoader:
    return DataLoader(Data(InAttribute(), size=size), 2, shuffle=True, collate_fn=pseudo_collate, **options)


def combined(mode: Any, streams: bool = False, num_workers: int = 0) -> CombinedLoader:
    options = {"num_workers": num_workers, "multiprocessing_context": "fork"}
    loaders: dict[str, Any] = {"a": plain(10, **options), "b": plain(4, **options)}
    if streams:
        loaders["c"] = DataLoader(Shards((3, 5)), 2, collate_fn=pseudo_collate, **options)
    loader = CombinedLoader(loaders, mode)
    loader.set_seed(1)
    return loader


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("mode", ["shortest", "longest", "cycle"])
def test_loaders_in_step_and_resumed_at_every_batch(mode, streams):
    loader = combined(mode, streams)
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(list(loader))
    assert [len(each) for each in epochs] == [2 if mode == "shortest" else 5] * 2
    assert epochs[0] != epochs[1]
    for start in range(1, len(epochs[1]) + 1):
        killed = combined(mode, streams, num_workers=start % 3)
        killed.set_epoch(1)
        assert list(itertools.islice(killed, start)) == epochs[1][:start]
        again = combined(mode, streams)
        again.load_state_dict(killed.state_dict())
        again.set_epoch(1)
        again.set_start(start)
        assert list(again) == epochs[1][start:]
        if not streams:
            again.set_epoch(1)
            again.set_start(start)  # without a state: from the lengths
            assert list(again) == epochs[1][start:]
    if mode == "cycle":
        passes = [sorted(i for batch in epochs[0][k : k + 2] for i in batch["b"][0]) for k in (0, 2)]
        assert passes == [[0, 1, 2, 3]] * 2
        assert epochs[0][:2] != epochs[0][2:4]
    if mode == "longest":
        assert ["b" in batch for batch in epochs[0]] == [True, True, False, False, False]
    assert loader.why_no_exact_resume() is None


def test_a_loop_takes_a_dict_of_loaders_in_step():
    loop = EpochBasedTrainLoop({"a": plain(4), "b": plain(4)}, 2)
    assert (loop.epoch_length, loop.dataloader.batch_size) == (2, 4)
    with pytest.raises(ValueError, match="different numbers of batches"):
        EpochBasedTrainLoop({"a": plain(4), "b": plain(8)}, 2)


# ------------------------------------------------------------------ workers that stay
class Scale:
    factor = 1

    def __init__(self) -> None:
        self.factor = 1

    def __call__(self, sample: Any) -> Any:
        return [sample[0] * self.factor]


def test_workers_that_stay_see_what_a_hook_changes():
    data = Data(Scale(), size=6)
    loader = DataLoader(data, 2, num_workers=2, persistent_workers=True, multiprocessing_context="fork", seed=0)
    assert [batch[0].tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    workers = loader._kept
    loader.set_epoch(1)
    assert [batch[0].tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert loader._kept is workers
    data.transforms[0].factor = 10
    loader.set_epoch(2)
    assert [batch[0].tolist() for batch in loader] == [[0, 10], [20, 30], [40, 50]]
    data.transforms.append(lambda sample: [sample[0] + 1])
    assert [batch[0].tolist() for batch in loader] == [[1, 11], [21, 31], [41, 51]]


# ------------------------------------------------------------------ exactness
_OF_THE_MODULE = np.random.default_rng(0)


def draw_from_the_module(sample: Any) -> Any:
    return [*sample, float(_OF_THE_MODULE.random())]


def test_reading_finds_what_no_look_finds():
    def make(data: Any) -> Any:
        return lambda: DataLoader(data(), 3, collate_fn=pseudo_collate, seed=0, multiprocessing_context="fork")

    assert check_batches(make(lambda: Data(InAttribute()))) == []
    assert check_batches(make(Shards)) == []
    found = check_batches(make(lambda: Data(draw_from_the_module)))
    assert found[0] == "batch[1][0] differs when batch 1 of epoch 1 is read again"
    counting = check_batches(make(Counting))
    assert counting[0] == "batch[1][0] differs when batch 1 of epoch 1 is read after the batches before it"


def test_the_command(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    monkeypatch.setattr(sys, "argv", ["lazyengine"])
    assert main(["check", "projects/digits/config.py", "--exact"]) == 0
    assert "nothing differed" in capsys.readouterr().out


# ------------------------------------------------------------------ fields of a batch
class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x: Any, attention_mask: Any = None) -> Any:
        return {"loss": self.layer(x).mean()}


class Detector(Net):
    def forward(self, samples: Any) -> Any:  # type: ignore[override]
        assert isinstance(samples, list)
        return {"loss": self.layer(torch.stack([sample["x"] for sample in samples])).mean()}


def step(model: Any, batch: Any) -> Any:
    return train_step(model, batch, OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)))


def test_forward_gets_the_fields_that_it_accepts(caplog):
    batch = {"x": torch.ones(3, 2), "sample_idx": torch.arange(3), "image_id": [1, 2, 3], "captions": ["a", "b", "c"]}
    with caplog.at_level(logging.INFO, "lazyengine.model.step"):
        assert "loss" in step(Net(), batch)
        assert "loss" in val_step(Net(), batch)
    assert [record.getMessage() for record in caplog.records] == [
        "Net forward does not accept sample_idx, image_id, captions: left out"
    ]
    with pytest.raises(TypeError, match=r"'attention_masks'\. Did you mean 'attention_mask'\?"):
        step(Net(), {"x": torch.ones(3, 2), "attention_masks": torch.ones(3)})
    model = Net()
    model.ignore_fields = ("attention_masks",)  # type: ignore[assignment]
    step(model, {"x": torch.ones(3, 2), "attention_masks": torch.ones(3)})


def test_a_batch_may_be_a_list_of_dicts():
    assert "loss" in step(Detector(), [{"x": torch.ones(2)}, {"x": torch.zeros(2)}])

"""When a run validates, on what, and what becomes of the metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lazyengine.dataset import DataLoader
from lazyengine.evaluator import ConfusionMatrix, DumpResults, Evaluator, MeanLoss
from lazyengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from lazyengine.logging import read_metrics
from lazyengine.model import LossAdapter
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop

from .toy import MeanError, ToyData, toy_runner


def test_positions_of_validations():
    def due(loop, last):
        return [position for position in range(1, last + 1) if loop.is_val_due(position, last)]

    assert due(EpochBasedTrainLoop([0], 5), 5) == [1, 2, 3, 4, 5]
    assert due(EpochBasedTrainLoop([0], 5, val_interval=2), 5) == [2, 4, 5]
    assert due(EpochBasedTrainLoop([0], 5, val_interval=0), 5) == []
    assert due(EpochBasedTrainLoop([0], 8, val_begin=5, val_interval=2), 8) == [6, 8]
    assert due(IterBasedTrainLoop([0], 10, val_interval=4), 10) == [4, 8, 10]
    dynamic = IterBasedTrainLoop([0], 20, val_interval=8, dynamic_intervals=[(16, 1), (10, 3)])
    assert due(dynamic, 20) == [8, 12, 15, 16, 17, 18, 19, 20]
    with pytest.raises(ValueError, match="val_interval=-1"):
        EpochBasedTrainLoop([0], 1, val_interval=-1)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_run_validates_there(tmp_path, by_epoch):
    runner = toy_runner(str(tmp_path), max_epochs=6, max_iters=None if by_epoch else 6)
    loop = runner.train_loop
    loop.val_begin, loop.val_interval, loop.dynamic_intervals = 2, 3, [(5, 1)]
    runner.train()
    steps = [record["step"] for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert steps == [(5 if by_epoch else 1) * position for position in (3, 5, 6)]


def two_loaders(**evaluators: Any) -> ValLoop:
    """The toy's data, and its first six points alone."""
    loaders = {"clean": DataLoader(ToyData(20), 4), "few": DataLoader(ToyData(6), 4)}
    return ValLoop(loaders, evaluators or {"clean": MeanError(), "few": [MeanError()]})


class Loaders(Hook):
    """Notes the loader and the number of each batch, and how often each point comes."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.points: list[str] = []

    def before_val_epoch(self, runner):
        self.points.append("before")

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.batches.append((runner.val_loop.loader_name, batch_idx))

    def after_val_epoch(self, runner, metrics=None):
        self.points.append(f"after {sorted(metrics)}")


def test_several_loaders_by_name_each_with_its_own_metrics(tmp_path):
    note = Loaders()
    best = CheckpointHook(interval=-1, save_best="few/error", rule="less")
    hooks: dict[str, Hook] = {"note": note, "checkpoint": best, "stop": EarlyStoppingHook("clean/error", rule="less")}
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks=hooks)
    runner._parts["val_loop"] = two_loaders()
    runner.train()
    assert note.batches[:7] == [*(("clean", i) for i in range(5)), ("few", 5), ("few", 6)]
    assert note.points == ["before", "after ['clean/error', 'few/error']"] * 2
    assert runner.num_batches("val") == 7
    values = [record for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert [(record["step"], {"clean/error", "few/error"} <= record.keys()) for record in values] == [
        (5, True),
        (10, True),
    ]
    assert best.best is not None
    assert best.best.scores["few/error"] == min(record["few/error"] for record in values)
    assert values[0]["clean/error"] != values[0]["few/error"]


def test_the_values_are_those_of_each_loader_alone(tmp_path):
    runner = toy_runner(str(tmp_path / "both"))
    runner._parts["val_loop"] = two_loaders()
    alone = toy_runner(str(tmp_path / "alone"))
    assert runner.val()["clean/error"] == alone.val()["error"]


def test_loaders_and_evaluators_must_have_the_same_names():
    with pytest.raises(ValueError, match=r"loaders are called \['clean', 'few'\], the evaluators \['clean'\]"):
        two_loaders(clean=MeanError())
    with pytest.raises(ValueError, match=r"the loaders are called \[''\], the evaluators \['a'\]"):
        TestLoop(DataLoader(ToyData(), 4), {"a": MeanError()})


def test_metrics_of_one_evaluation_must_not_write_the_same_file(tmp_path):
    """Only the predictions of the last loader would be left."""
    same = r"DumpResults and DumpResults both write '.*y.pt' · give each a file of its own"
    with pytest.raises(ValueError, match=same):
        two_loaders(clean=DumpResults("y.pt"), few=DumpResults("./y.pt"))
    with pytest.raises(ValueError, match=same):
        Evaluator([DumpResults(tmp_path / "y.pt", keys=["a"]), DumpResults(str(tmp_path / "y.pt"), keys=["b"])])
    with pytest.raises(ValueError, match="ConfusionMatrix and ConfusionMatrix both"):
        two_loaders(clean=ConfusionMatrix(2, picture="x.png"), few=ConfusionMatrix(2, picture="x.png"))
    two_loaders(clean=[DumpResults("clean.pt"), MeanError()], few=[DumpResults("few.pt"), MeanError()])


def test_an_error_names_the_loader_and_the_batch(tmp_path):
    class Broken(MeanError):
        def process(self, data_batch, data_samples):
            raise ZeroDivisionError("boom")

    runner = toy_runner(str(tmp_path))
    runner._parts["val_loop"] = two_loaders(clean=MeanError(), few=Broken())
    with pytest.raises(ZeroDivisionError) as caught:
        runner.val()
    assert any("in val batch 5 of 'few' on {x: float32[4, 4]" in note for note in caught.value.__notes__)


def test_the_validation_loss_is_a_metric_of_what_predict_returns(tmp_path):
    """And early stopping, or the best checkpoint, can follow it."""
    data = torch.utils.data.TensorDataset(torch.linspace(-1, 1, 24).reshape(12, 2), torch.arange(12.0).reshape(12, 1))
    model = LossAdapter(torch.nn.Linear(2, 1), torch.nn.MSELoss(), predict_loss=True)
    runner = toy_runner(str(tmp_path), hooks={"checkpoint": CheckpointHook(save_best="loss")})
    wrapper = type(runner.optim_wrapper)(torch.optim.SGD(model.parameters(), lr=0.01))
    parts = {"model": model, "optim_wrapper": wrapper, "param_schedulers": None}
    parts["val_loop"] = ValLoop(DataLoader(data, 5), Evaluator(MeanLoss()))
    parts["train_loop"] = EpochBasedTrainLoop(DataLoader(data, 4), 2)
    for name, part in parts.items():
        runner.__dict__.pop(name, None)
        runner._parts[name] = part
    runner.train()
    with torch.no_grad():
        expected = torch.nn.functional.mse_loss(model.network(data.tensors[0]), data.tensors[1])
    values = [record["loss"] for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert values[-1] == pytest.approx(expected.item())
    assert runner.hooks["checkpoint"].state_dict()["best"]["scores"] == {"loss": min(values)}

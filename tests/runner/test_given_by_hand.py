"""A runner that is built by hand from the wrong parts says which one, what it got and what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader
from lazyengine.errors import UsageTypeError
from lazyengine.evaluator import Accuracy, Evaluator
from lazyengine.model import BaseModel
from lazyengine.optim import LinearLR, OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from .toy import ToyData, ToyModel


def make(folder, loader=None, model=None, **parts):
    model = model or ToyModel()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1))
    loop = EpochBasedTrainLoop(loader or DataLoader(ToyData(), 4), max_epochs=1)
    return Runner(**{"model": model, "train_loop": loop, "optim_wrapper": wrapper, "work_dir": str(folder), **parts})


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (Accuracy(), "got <lazyengine.evaluator.classification.Accuracy object at "),
        ([Accuracy()], r"got \[<lazyengine.evaluator.classification.Accuracy object at "),
        (Evaluator(Accuracy()), "got <lazyengine.evaluator.evaluator.Evaluator object at "),
        (ValLoop, "got <class 'lazyengine.runner.loops.ValLoop'>"),
    ],
    ids=["metric", "metrics", "evaluator", "class"],
)
@pytest.mark.parametrize("name", ["val_loop", "test_loop"])
def test_what_is_no_loop(tmp_path, name, given, got):
    runner = make(tmp_path, **{name: given})
    with pytest.raises(UsageTypeError, match=rf"^{name}: {got}.*; expected a loop, as ValLoop\(loader, metrics\)"):
        runner.test()


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (L(LinearLR)(start_factor=0.1), r"LazyCall\(LinearLR\)\(start_factor=0.1\)"),  # pyright: ignore
        ([L(LinearLR)(start_factor=0.1)], r"LazyCall\(LinearLR\)\(start_factor=0.1\)"),  # pyright: ignore
        ([LinearLR], "<class 'lazyengine.optim.scheduler.decay.LinearLR'>"),
        ("linear", "'linear'"),
    ],
    ids=["node", "list of nodes", "class", "text"],
)
def test_what_is_no_scheduler(tmp_path, given, got):
    message = rf"^param_schedulers: expected a recipe or a scheduler, got {got} · nodes are built with a whole config"
    with pytest.raises(UsageTypeError, match=message + r".* by hand, give schedulers, as LinearLR\(optimizer"):
        make(tmp_path, param_schedulers=given).train()


class Normalised(BaseModel):
    def __init__(self, norm):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 2), norm)

    def forward(self, x, y, index, mode="tensor"):
        return {"loss": self.net(x).square().mean()}


@pytest.mark.parametrize(("number", "where"), [(5, "iteration 1"), (9, "iteration 2"), (1, "iteration 0")])
def test_batch_norm_on_a_batch_of_one(tmp_path, number, where):
    """The last batch of 5 samples, of 9, and the only one."""
    runner = make(tmp_path, DataLoader(ToyData(number), 4), Normalised(nn.BatchNorm1d(2)))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size") as got:
        runner.train()
    notes = " ".join(getattr(got.value, "__notes__", ()))
    assert f"in training {where} " in notes
    assert "{x: float32[1, 4]" in notes
    assert "BatchNorm cannot train on a batch of 1: raise batch_size, or leave an incomplete last batch" in notes


def test_a_norm_without_statistics_of_the_batch_trains_on_a_batch_of_one(tmp_path):
    make(tmp_path, DataLoader(ToyData(5), 4), Normalised(nn.LayerNorm(2))).train()

"""Buffers that are not finite any more, as BatchNorm's statistics of a bad batch, are named before they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lazyengine.hooks import Hook
from lazyengine.optim import NonFiniteError, OptimWrapper, OptimWrapperDict

from .toy import ToyModel, toy_runner

WARNING = "of the model is not finite"


class Spoils(ToyModel):
    """Reads one batch whose statistics are not finite; the loss may hide it."""

    value, hides, num_steps = float("nan"), True, 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("largest", torch.tensor(torch.inf))

    def forward(self, x, y, index, mode="tensor"):
        if mode == "loss":
            self.num_steps += 1
            if self.num_steps == 4:
                x = torch.cat([x, torch.full((1, 4), self.value)])
                y = torch.cat([y, y[:1]])
                if self.hides:
                    self.net(x)
                    x, y = x[:-1], y[:-1]
        return super().forward(x, y, index, mode)


def spoiled(folder: Path, value: float, hides: bool, nonfinite: str, **options: Any) -> Any:
    runner = toy_runner(str(folder), **options)
    model: Any = Spoils()
    model.value, model.hides = value, hides
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01), nonfinite=nonfinite)
    runner._parts |= {"model": model, "optim_wrapper": wrapper, "param_schedulers": None}
    return runner


def text_of(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*/*.log")))


@pytest.mark.parametrize("loop", [{"max_epochs": 3}, {"max_iters": 15, "val_interval": 5}])
@pytest.mark.parametrize(
    ("value", "names"), [(float("nan"), "net.1.running_mean, net.1.running_var"), (1e25, "net.1.running_var")]
)
def test_a_batch_whose_loss_hides_it_is_said_once(tmp_path, loop, value, names):
    """Statistics that are NaN, or a variance beyond the largest number; masks and extremes are meant."""
    runner = spoiled(tmp_path, value, True, "skip", **loop)
    runner.train()
    text = text_of(tmp_path)
    assert text.count(WARNING) == 1
    assert f"{names} {WARNING}" in text
    assert text.index(WARNING) < text.index("[2]" if "max_epochs" in loop else "[10/15]")
    again = spoiled(tmp_path, 0.0, True, "raise", resume=True, **loop)
    again.train()
    again.val()
    assert text_of(tmp_path).count(WARNING) == 2  # once for each start


@pytest.mark.parametrize("nonfinite", ["raise", "skip", "ignore"])
def test_each_policy(tmp_path, nonfinite):
    runner = spoiled(tmp_path, float("nan"), False, nonfinite, max_epochs=2)
    if nonfinite == "raise":
        with pytest.raises(NonFiniteError) as caught:
            runner.train()
        assert any(
            "net.1.running_mean, net.1.running_var of the model is not finite since" in n
            for n in caught.value.__notes__
        )
        return
    runner.train()
    assert (WARNING in text_of(tmp_path)) is (nonfinite == "ignore")
    assert runner.model.net[1].running_mean.isfinite().all() == (nonfinite == "skip")


def test_a_check_that_is_read_late_leaves_none(tmp_path):
    runner = spoiled(tmp_path, float("nan"), False, "skip", max_epochs=2)
    wrapper = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.01, fused=True), nonfinite="skip")
    wrapper._is_as_on_accelerator = True  # the check is read one update later
    runner._parts["optim_wrapper"] = wrapper
    runner.train()
    assert "Skipped the update" in text_of(tmp_path)
    assert WARNING not in text_of(tmp_path)


class Evaluates(Hook):
    """Validates and saves right behind the bad batch, before the next update reads the check."""

    evaluates = True

    def __init__(self, how: str) -> None:
        self.how = how

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 3:
            runner.val() if self.how == "val" else runner.save_checkpoint("here.pth")


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("how", ["val", "save"])
def test_between_a_bad_batch_and_the_check(tmp_path, how, joint, monkeypatch):
    monkeypatch.setattr(OptimWrapper, "_is_as_on_accelerator", True)
    runner = spoiled(tmp_path, float("nan"), False, "skip", max_epochs=2, hooks={"hook": Evaluates(how)})
    parts = {"first": runner.model.net[:2], "last": runner.model.net[2:]} if joint else {"": runner.model}
    wrappers = {
        name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.01, fused=True), nonfinite="skip")
        for name, part in parts.items()
    }
    runner._parts["optim_wrapper"] = OptimWrapperDict(**wrappers) if joint else wrappers[""]
    runner.train()
    assert text_of(tmp_path).count("Skipped the update") == 1
    saved = torch.load(tmp_path / "here.pth", weights_only=False)["state_dict"] if how == "save" else {}
    assert all(value.isfinite().all() for key, value in saved.items() if "running" in key)
    assert WARNING not in text_of(tmp_path)


def test_a_bad_batch_at_the_end_of_an_epoch_stops_before_its_validation(tmp_path):
    runner = spoiled(tmp_path, float("nan"), False, "raise", max_epochs=2, val_interval=1)
    runner.train_loop.limit = runner.train_loop.epoch_length = 4
    wrapper = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.01, fused=True))
    wrapper._is_as_on_accelerator = True
    runner._parts["optim_wrapper"] = wrapper
    runner.hooks["checkpoint"].interval = -1
    with pytest.raises(NonFiniteError, match=r"the loss is nan.*at iteration 3") as caught:
        runner.train()
    assert any("lazyengine replay" in note for note in caught.value.__notes__)
    assert "Epoch(val)" not in text_of(tmp_path)

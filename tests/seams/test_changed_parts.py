"""Row 11: the module that trains is the one that is asked, compiled or with parts that came later."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lazyengine import _torch
from lazyengine.config import LazyCall as L
from lazyengine.errors import UsageError
from lazyengine.hooks import EMAHook, Hook
from lazyengine.model import ModelSetup
from lazyengine.runner import Runner

from ..runner.toy import ToyModel, toy_runner
from .test_train_again import LOOPS, equal

COMPILED = [True, False]  # by what torch has inside, or by the public way


@pytest.mark.seam(11, "compiled by hand", "epoch", "iteration")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at it
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("private", COMPILED)
def test_a_compiled_model_trains_and_evaluates_as_the_model_does(tmp_path, loop, private, monkeypatch):
    if not private:
        monkeypatch.setattr(_torch, "PRIVATE", False)
        monkeypatch.setattr(nn.Module, "compile", lambda self: None)  # which would ask for a C compiler
    plain = toy_runner(str(tmp_path / "plain"), hooks={"ema": EMAHook()}, **loop)
    plain.train()
    runner = toy_runner(str(tmp_path / "compiled"), hooks={"ema": EMAHook()}, **loop)
    model = runner.model
    runner._parts["model"] = torch.compile(model, backend="eager")
    del runner.model
    runner.train()
    assert runner.model is model
    assert (model._compiled_call_impl is not None) is private
    assert equal(plain, runner)
    assert runner.val() == plain.val()


@pytest.mark.seam(11, "wrapped by hand")
@pytest.mark.parametrize("given", [nn.DataParallel(ToyModel()), L(ToyModel)()])
def test_what_is_not_the_model_is_refused(tmp_path, given):
    with pytest.raises(UsageError, match=r"give the model itself|which only a whole config builds"):
        Runner(given, work_dir=str(tmp_path)).setup()


CHANGES = {
    "replaced": (lambda model: model.net.__setitem__(3, nn.Linear(8, 1)), "net.3.bias, net.3.weight should train"),
    "weight norm": (lambda model: parametrizations.weight_norm(model.net[3]), r"original0, .*original1 should train"),
    "unfrozen": (lambda model: model.net[0].requires_grad_(True), "net.0.bias, net.0.weight should train"),
    "pruned": (lambda model: prune.l1_unstructured(model.net[3], "weight", amount=0.5), None),
    "removed": (lambda model: model.net.__setitem__(1, nn.Identity()), None),
}


class Changes(Hook):
    """Changes the model once, at a point."""

    def __init__(self, point: str, change) -> None:
        self.change, self.is_done = change, False
        setattr(self, point, self.act)

    def act(self, runner, **_) -> None:
        if not self.is_done:
            self.is_done = True
            self.change(runner.model)


@pytest.mark.seam(11, "replaced layer", "weight norm", "own unfreezing", "pruning", "epoch", "iteration")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("point", ["before_train", "after_train_iter"])
@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_no_optimizer_holds_are_named(tmp_path, loop, point, change):
    act, message = CHANGES[change]
    runner = toy_runner(str(tmp_path), hooks={"changes": Changes(point, act)}, **loop)
    runner._parts["optim_wrapper"].optimizer.param_groups[0]["params"][:2] = []
    runner.model_setup = ModelSetup(freeze=["net.0"], freeze_mode="train")
    runner.train()
    text = next(tmp_path.glob("*/*.log")).read_text()
    assert text.count("should train") == (message is not None)
    if message is not None:
        assert re.search(message, text)


@pytest.mark.seam(11, "train() again")
def test_a_head_that_a_notebook_replaces_is_named(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner.train()
    CHANGES["replaced"][0](runner.model)
    runner.train_loop.max_epochs = 2
    runner.train()
    (log,) = tmp_path.glob("*/*.log")
    assert "net.3.bias, net.3.weight should train" in log.read_text()


@pytest.mark.seam(11, "left out from the start")
def test_parts_that_the_optimizer_leaves_out_are_meant(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner._parts["optim_wrapper"].optimizer.param_groups[0]["params"][:2] = []
    runner.train()
    assert "should train" not in next(tmp_path.glob("*/*.log")).read_text()

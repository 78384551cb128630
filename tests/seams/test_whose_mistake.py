"""Row 13: a mistake of the user is told from a defect of the engine by its type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lazyengine.cli import train
from lazyengine.errors import UsageError
from lazyengine.runner import EpochBasedTrainLoop, Runner
from tests.imports import imports_from

CONFIG = """
from torch import nn
from torch.optim import SGD

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader
from lazyengine.model import LossAdapter
from lazyengine.optim import OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner

from .parts import points

model = L(LossAdapter)(network=L(nn.Linear)(in_features=2, out_features=1), loss_fn=L(nn.MSELoss)())
optimizer = L(SGD)(params=L(param_groups)(model=model), lr=0.1)
train_loop = L(EpochBasedTrainLoop)(dataloader=L(DataLoader)(dataset=L(points)(n=8), batch_size=4), max_epochs=1)
optim_wrapper = L(OptimWrapper)(optimizer=optimizer)
runner = L(Runner)(model=model, train_loop=train_loop, optim_wrapper=optim_wrapper, work_dir="run")
"""
PARTS = """
import torch


def points(n, fault=None):
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1")
    if fault == "file":
        open("nothere.csv")
    if fault == "bug":
        return [][0]
    return [(torch.ones(2), torch.ones(1))] * n
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A project with one experiment, entered; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").touch()
    Path("parts.py").write_text(PARTS)
    Path("config.py").write_text(CONFIG)
    with imports_from(tmp_path):
        yield


MISTAKES = {
    "an argument of the engine": (["train_loop.max_epochs=0"], "max_epochs=0: expected at least 1"),
    "an argument of the user's own": (["train_loop.dataloader.dataset.n=0"], "n=0: expected at least 1"),
    "a file": (["+train_loop.dataloader.dataset.fault=file"], "nothere.csv"),
    "an argument of torch": (["optimizer.lr=-1"], "Invalid learning rate"),
    "a checkpoint that is not there": (["--resume", "nothere.pth"], "nothere.pth"),
}


@pytest.mark.seam(13, "engine", "own class", "torch", "file", "checkpoint")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, capsys):
    argv, text = MISTAKES[name]
    assert train.main(["--config", "config.py", *argv]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert "lazyengine/runner" not in err


WHERE = {
    "in a loop's constructor": (EpochBasedTrainLoop, "__init__"),
    "in the set-up": (Runner, "setup"),
    "before the first batch": (Runner, "prepare_model"),
    "in the loop": (EpochBasedTrainLoop, "run"),
}


@pytest.mark.seam(13, "constructor", "set-up", "loop")
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, KeyError, AttributeError])
def test_a_defect_of_the_engine_keeps_its_traceback(where, kind, monkeypatch):
    """Whatever its type, and however early: it is raised, so that the interpreter prints it and exits with 1."""
    cls, method = WHERE[where]
    code = f"def {method}(self, *args, **kwargs):\n    raise kind('a defect')\n"
    names = {"kind": kind}
    exec(compile(code, sys.modules[cls.__module__].__file__, "exec"), names)  # as if it stood in the engine's file
    monkeypatch.setattr(cls, method, names[method])
    with pytest.raises(kind, match="a defect"):
        train.main(["--config", "config.py"])


@pytest.mark.seam(13, "user code in the run")
def test_user_code_that_fails_in_building_keeps_its_traceback():
    with pytest.raises(IndexError):
        train.main(["--config", "config.py", "+train_loop.dataloader.dataset.fault=bug"])


@pytest.mark.seam(13, "by hand")
def test_what_is_refused_by_hand_is_still_an_error_of_the_usual_type():
    with pytest.raises(ValueError, match="max_epochs=0") as error:
        EpochBasedTrainLoop([1], 0)
    assert isinstance(error.value, UsageError)

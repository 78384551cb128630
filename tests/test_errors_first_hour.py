"""The errors of a newcomer's first hour, one by one: the exit code, and that the message says what to do.

A mistake in the config or the command line ends with a few lines and exit code 2; a run that fails keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lazyengine.cli import show, train
from tests.imports import imports_from

PARTS = """
import torch
from torch import nn
from lazyengine.dataset import BaseDataset
from lazyengine.model import BaseModel


class Points(BaseDataset):
    def __init__(self, n=8, file=None):
        self.n, self.file = n, file
        super().__init__()

    def load_data_list(self):
        if self.file is not None:
            open(self.file)
        return [{"x": [i / 8, 1.0], "label": i % 2} for i in range(self.n)]

    def prepare_data(self, idx):
        record = self.get_data_info(idx)
        return {"x": torch.tensor(record["x"]), "label": record["label"]}


class Net(BaseModel):
    def __init__(self, width=4, fault=None):
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: expected at least 1")
        self.net = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
        self.fault = fault

    def forward(self, x, label, mode="tensor"):
        scores = self.net(x)
        if self.fault == "labels":
            label = torch.cat([label, label])
        if self.fault == "memory":
            torch.empty(2**50)
        if self.fault == "nonfinite":
            scores = scores / 0
        if mode == "loss":
            loss = nn.functional.cross_entropy(scores, label)
            return {"cost": loss} if self.fault == "unnamed" else {"loss": loss}
        return {"scores": scores, "label": label} if mode == "predict" else scores
"""
CONFIG = """
from torch.optim import SGD

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader
from lazyengine.evaluator import Accuracy
from lazyengine.hooks import CheckpointHook, LoggerHook
from lazyengine.optim import OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from .parts import Net, Points

model = L(Net)(width=4, fault=None)
optimizer = L(SGD)(params=L(param_groups)(model=model), lr=0.1)
dataset = L(Points)(n=8)
train_loop = L(EpochBasedTrainLoop)(dataloader=L(DataLoader)(dataset=dataset, batch_size=4), max_epochs=1)
val_loop = L(ValLoop)(dataloader=L(DataLoader)(dataset=dataset, batch_size=4), evaluator=L(Accuracy)())
hooks = {"logger": L(LoggerHook)(interval=1), "checkpoint": L(CheckpointHook)(interval=1)}
runner = L(Runner)(
    model=model, train_loop=train_loop, val_loop=val_loop, optim_wrapper=L(OptimWrapper)(optimizer=optimizer),
    hooks=hooks, device="cpu", work_dir="run",
)
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


def ask(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the command, which must end with exit code 2, and return the lines of the error."""
    assert train.main(["--config", "config.py", *argv]) == 2
    return capsys.readouterr().err


def fail(*argv: str) -> str:
    """Run the command, which must raise (exit code 1), and return the error's message and notes."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what the test looks at
        train.main(["--config", "config.py", *argv])
    return "\n".join([f"{type(caught.value).__name__}: {caught.value}", *getattr(caught.value, "__notes__", ())])


def test_the_experiment_itself_runs():
    assert train.main(["--config", "config.py"]) == 0
    assert Path("run/epoch_1.pth").is_file()


# ------------------------------------------------------------------------------------------------ the command line
MISTAKES = {
    "wrong folder": (["--config", "projects/x/config.py"], ["'projects/x/config.py' does not exist", "no folder"]),
    "misspelt file": (["--config", "confg.py"], ["'confg.py' does not exist", "Did you mean 'config.py'?"]),
    "misspelt key": (["optimizer.lrr=1"], ["optimizer is SGD", "config.py:14", "Did you mean 'lr'?", "Nothing was"]),
    "misspelt top-level name": (["optimzer.lr=1"], ["optimzer", "Did you mean 'optimizer'?"]),
    "no equals sign": (["optimizer.lr"], ["path=value"]),
    "wrong type": (["optimizer.lr=fast"], ["optimizer.lr (now 0.1) accepts", "'fast'"]),
    "misspelt class": (["optimizer._target_=torch.optim.SDG"], ["SDG", "SGD"]),
    "out of range": (["train_loop.max_epochs=0"], ["max_epochs=0: expected at least 1", "train_loop", "config.py:16"]),
    "out of range, own class": (["model.width=0"], ["width=0", "parts.py", "while building", "config.py:13"]),
    "no optimizer": (["~runner.optim_wrapper"], ["cannot train without optim_wrapper"]),
    "empty dataset": (["dataset.n=0"], ["the dataset (Points) is empty", "config.py:16"]),
    "no data file": (["+dataset.file=nothere.csv"], ["No such file", "nothere.csv", "while building dataset"]),
    "no checkpoint to resume": (["--resume", "nothere.pth"], ["no checkpoint there", "nothere.pth"]),
    "no weights": (["--checkpoint", "nothere.pth"], ["no checkpoint there", "nothere.pth"]),
    "no best yet": (["--checkpoint", "best"], ["no best checkpoint in run", "--work-dir"]),
    "not a checkpoint": (["--checkpoint", "config.py"], ["config.py", "from torch.optim import SGD"]),
    "unusable run folder": (["runner.work_dir=parts.py"], ["parts.py", "set work_dir to a writable folder"]),
    "unknown device": (["runner.device=gpu"], ["device='gpu'", "'cuda:1'"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_with_a_message_and_exit_code_2(name, capsys):
    argv, expected = MISTAKES[name]
    err = ask(capsys, *argv)
    assert all(part in err for part in expected), err
    assert "lazyengine/runner/runner.py" not in err  # the engine's own frames help nobody here
    assert len(err.splitlines()) < 16


def test_an_unknown_option_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--config", "config.py", "--resme"])
    assert stop.value.code == 2
    assert "--resme" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(capsys):
    assert "has no CUDA device" in ask(capsys, "runner.device=cuda")


def test_an_override_behind_resume_is_no_path(capsys):
    assert train.main(["--config", "config.py"]) == 0
    assert train.main(["--config", "config.py", "--resume", "train_loop.max_epochs=2", "hooks.logger.interval=2"]) == 0
    assert Path("run/epoch_2.pth").is_file()
    assert "resumed from run/epoch_1.pth" in capsys.readouterr().out
    assert "lr=0.1.pth" in ask(capsys, "--resume", "runs/lr=0.1.pth")  # a path all the same


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_too_few_gpus(capsys):
    assert "from 0" in ask(capsys, "runner.device='cuda:99'")


# ------------------------------------------------------------------------------------------------ the config file
BROKEN = {
    "broken import": ("import no_such_package", ["broken.py", "line 2", "import no_such_package", "No module named"]),
    "misspelt import": ("from .parts import Nett", ["broken.py", "Nett", "parts"]),
    "syntax": ("x = (", ["broken.py", "line 2", "never closed"]),
    "own code": ("x = 1 / 0", ["line 2", "1 / 0", "ZeroDivisionError"]),
    "misspelt argument": ("optimizer.lrr = 1", ["SGD", "'lrr'", "Did you mean 'lr'?", "broken.py:2"]),
    "misspelt node": ("optimzer.lr = 1", ["optimzer", "line 2"]),
    "no runner": ("del runner", ["no `runner`", "optimizer"]),
    "required": ("from lazyengine.config import REQUIRED; optimizer.lr = REQUIRED", ["optimizer", "lr"]),
    "class for an object": ("hooks['logger'] = LoggerHook", ["hooks['logger']", "expected a Hook"]),
    "hook for hooks": ("runner.hooks = hooks['logger']", ["hooks: expected a dict or a list", "LoggerHook"]),
    "bare optimizer": ("runner.optim_wrapper = optimizer", ["optim_wrapper", "bare SGD", "OptimWrapper(optimizer="]),
    "second model": (
        "from lazyengine.config import clone; optimizer.params.model = clone(model)",
        ["parameters are not the model's", "the very node"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_shows_its_line(name, capsys):
    line, expected = BROKEN[name]
    Path("broken.py").write_text(f"from .config import *\n{line}\n")
    err = ask(capsys, "--config", "broken.py")
    assert all(part in err for part in expected), err
    assert "lazyengine/config/loader.py" not in err


@pytest.mark.parametrize("name", ["broken import", "own code", "syntax"])
def test_printing_a_broken_config_shows_its_line(name, capsys):
    line, expected = BROKEN[name]
    Path("broken.py").write_text(f"from .config import *\n{line}\n")
    assert show.main(["broken.py"]) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in expected), err


# ------------------------------------------------------------------------------------------------ the run itself
FAILURES = {
    "wrong shape of labels": ("labels", ["training iteration 0", "float32[4, 2]", "label: int64[4]"]),
    "out of memory": ("memory", ["lower batch_size", "accumulative_counts", "training iteration 0"]),
    "not a number": ("nonfinite", ["NonFiniteError", "loss"]),
    "no entry called loss": ("unnamed", ["cost", "loss", "training iteration 0"]),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_run_keeps_its_traceback_and_says_where(name):
    fault, expected = FAILURES[name]
    message = fail(f"model.fault={fault}")
    assert all(part in message for part in expected), message


def test_a_misspelt_metric_lists_what_there_is(capsys):
    message = ask(capsys, "+hooks.checkpoint.save_best=accuracy/top2")
    assert "accuracy/top2" in message
    assert "accuracy/top1" in message


def test_evaluating_other_weights_lists_what_does_not_fit(capsys):
    assert train.main(["--config", "config.py"]) == 0
    err = ask(capsys, "--eval-only", "--checkpoint", "latest", "model.width=8")
    assert "net.0.weight" in err
    assert "(4, 2)" in err
    assert "(8, 2)" in err

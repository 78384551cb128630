"""The loop of the page on loops of one's own: seeded, killed and resumed exactly; and loops that lack something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lazyengine.runner
from lazyengine.hooks import CheckpointHook, default_hooks
from lazyengine.optim import OptimWrapper
from lazyengine.runner import BaseTrainLoop, Runner

from ..runner.toy import StopAt, ToyModel


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    text = (Path(lazyengine.runner.__file__).parent / "LOOPS.md").read_text()
    names: dict[str, Any] = {"__name__": "page"}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    return names


def hooks_with(**hooks: Any) -> dict[str, Any]:
    return {**default_hooks(), "checkpoint": CheckpointHook(interval=5, by_epoch=False), **hooks}


@pytest.mark.parametrize("killed_at", [8, 13])
def test_rollouts_go_on_exactly(tmp_path, page, killed_at):
    straight = page["build"](str(tmp_path / "straight"), hooks=hooks_with())
    straight.train()
    with pytest.raises(InterruptedError):
        page["build"](str(tmp_path / "killed"), hooks=hooks_with(stop=StopAt(killed_at))).train()
    again = page["build"](str(tmp_path / "killed"), hooks=hooks_with(), resume=True, seed=0)
    again.train()
    assert all(map(torch.equal, straight.model.parameters(), again.model.parameters()))
    assert torch.equal(straight.train_loop.places, again.train_loop.places)
    assert straight.num_iters_completed == 20
    other = page["build"](str(tmp_path / "other"), hooks=hooks_with(), seed=1)
    other.train()
    assert not torch.equal(straight.train_loop.places, other.train_loop.places)


class Unfinished(BaseTrainLoop):
    def __init__(self) -> None:
        self.max_iters = 3


class Counting(BaseTrainLoop):
    max_epochs = None

    def run(self, runner: Any) -> None:
        raise NotImplementedError


class Foreign:
    def run(self, runner: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "lack"),
    [
        (
            Unfinished,
            r"Unfinished lacks position \(call super.*, run\(runner\), which trains, max_epochs .*, epoch_length",
        ),
        (Counting, r"Counting lacks max_iters \(iterations to train\), epoch_length \("),
        (Foreign, "Foreign lacks the base class BaseTrainLoop"),
    ],
)
def test_what_a_loop_lacks_is_named_at_the_start(tmp_path, kind, lack):
    model = ToyModel()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match=lack):
        Runner(model, train_loop=kind(), optim_wrapper=wrapper, work_dir=str(tmp_path)).train()

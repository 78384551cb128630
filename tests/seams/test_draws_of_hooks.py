"""Row 10: what hooks draw at any point is a function of the position. Row 20: hooks have names."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.hooks import HOOK_POINTS, CheckpointHook, EMAHook, Hook

from ..runner.toy import StopAt, toy_runner

LOOPS = [
    pytest.param({"max_epochs": 3}, id="epoch"),
    pytest.param({"max_iters": 15, "val_interval": 5}, id="iteration"),
]


class Draws(Hook):
    """Draws from every stream at every point, and keeps what it drew by point and iteration."""

    def __init__(self) -> None:
        self.drawn: dict[tuple[str, int, int, int], tuple[float, float, float]] = {}

    def draw(self, runner, point: str, batch: int) -> None:
        key = (point, runner.epoch, runner.num_iters_completed, batch)
        self.drawn[key] = torch.rand(1).item(), float(np.random.rand()), random.random()


for _point in HOOK_POINTS:
    if _point != "after_load_checkpoint":

        def _method(
            self, runner, batch_idx=-1, data_batch=None, outputs=None, metrics=None, checkpoint=None, _p=_point
        ):
            self.draw(runner, _p, batch_idx)

        setattr(Draws, _point, _method)


class Counts(Hook):
    """Counts epochs and draws a number for each, as a schedule of one's own does."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def before_train_epoch(self, runner):
        self.epochs.append(torch.rand(1).item())

    def state_dict(self):
        return {"epochs": list(self.epochs)}

    def load_state_dict(self, state_dict):
        self.epochs = list(state_dict["epochs"])


@pytest.mark.seam(10, "epoch", "iteration", "resume", "every hook point")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("at", [3, 5, 7, 10, 12])
def test_draws_at_every_point_are_those_of_the_uninterrupted_run(tmp_path, loop, at):
    def build(folder, *more):
        hooks = {"checkpoint": CheckpointHook(interval=1, by_epoch=False), "draws": Draws(), "counts": Counts()}
        return toy_runner(str(folder), hooks={**hooks, **dict(more)}, resume=True, **loop)

    whole = build(tmp_path / "whole")
    whole.train()
    killed = build(tmp_path / "killed", ("kill", StopAt(at)))
    with pytest.raises(InterruptedError):
        killed.train()
    resumed = build(tmp_path / "killed")
    resumed.train()
    expected, drawn = whole.hooks["draws"].drawn, resumed.hooks["draws"].drawn
    # What a start calls again draws the same numbers as at the first time: once a run, and once an epoch.
    first = {(p, e): value for (p, e, _, _), value in reversed(expected.items())}
    for (point, epoch, iteration, batch), value in drawn.items():
        if point in ("before_run", "before_train"):
            assert value == first[point, 0], point
        elif point == "before_train_epoch":
            assert value == first[point, epoch if "max_epochs" in loop else 0] or "max_iters" in loop
        else:
            assert value == expected[point, epoch, iteration, batch], (point, epoch, iteration)
    begins = {"before_run", "before_train", "before_train_epoch"}
    assert {point for point, *_ in drawn} >= begins | {"after_train_epoch", "before_val", "after_val", "after_run"}
    assert resumed.hooks["counts"].epochs == whole.hooks["counts"].epochs
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])


@pytest.mark.seam(10, "epoch", "Ctrl-C", "is_resuming_epoch")
def test_a_repeated_call_says_so(tmp_path):
    seen = []

    class Spy(Hook):
        def before_train_epoch(self, runner):
            seen.append(runner.is_resuming_epoch)

    class Interrupt(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.num_iters_completed == 7:
                raise KeyboardInterrupt

    runner = toy_runner(str(tmp_path), hooks={"spy": Spy(), "interrupt": Interrupt()})
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    runner.train()
    assert seen == [False, False, True, False]


@pytest.mark.seam(20, "list", "resume")
def test_hooks_of_one_class_that_keep_a_state_need_names(tmp_path):
    def build(*hooks):
        runner = toy_runner(str(tmp_path))
        runner._parts["hooks"] = list(hooks)
        return runner

    with pytest.raises(UsageError, match=r"the list has several CheckpointHook.*name them: hooks="):
        build(CheckpointHook(), CheckpointHook(by_epoch=False)).hooks  # noqa: B018
    hooks = build(Hook(), Hook(), CheckpointHook()).hooks
    assert list(hooks.keys()) == ["Hook", "Hook_2", "CheckpointHook"]


@pytest.mark.seam(20, "container")
def test_hooks_are_a_container_of_hooks(tmp_path):
    hooks = toy_runner(str(tmp_path)).hooks
    assert all(isinstance(hook, Hook) for hook in hooks)
    assert hooks["checkpoint"] in hooks
    assert "checkpoint" in hooks
    assert dict(hooks.items()) == {name: hooks[name] for name in hooks.keys()}  # noqa: SIM118
    with pytest.raises(KeyError, match="no hook 'chekpoint'"):
        hooks["chekpoint"]


class Looks(Hook):
    """Looks at the weights at the points of a validation."""

    def __init__(self, priority: str) -> None:
        self.priority, self.seen = priority, []

    def look(self, runner) -> None:
        self.seen.append(runner.model.net[0].weight.detach().clone())

    def before_val(self, runner):
        self.look(runner)

    def before_val_epoch(self, runner):
        self.look(runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.look(runner)

    def after_val_epoch(self, runner, metrics=None):
        self.look(runner)

    def after_val(self, runner):
        self.look(runner)


@pytest.mark.seam(20, "EMA", "epoch", "iteration")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("priority", ["HIGHEST", "LOWEST"])
def test_who_looks_in_a_validation_sees_the_weights_that_are_evaluated(tmp_path, loop, priority):
    hooks = {"ema": EMAHook(momentum=0.1), "looks": Looks(priority)}
    runner = toy_runner(str(tmp_path), hooks=hooks, **loop)
    runner.train()
    seen = runner.hooks["looks"].seen
    assert len(seen) % 9 == 0
    for i in range(0, len(seen), 9):
        assert all(torch.equal(seen[i], weight) for weight in seen[i : i + 9])
    assert torch.equal(seen[-1], runner.hooks["ema"].ema_model.module.net[0].weight)
    assert not torch.equal(seen[-1], runner.model.net[0].weight)

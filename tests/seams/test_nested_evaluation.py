"""Row 6: testing within training disturbs nothing. Row 5: an evaluation computes as training does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lazyengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook
from lazyengine.optim import AmpOptimWrapper, OptimWrapperDict, ReduceOnPlateauLR
from lazyengine.runner import TestLoop as EvalLoop
from lazyengine.runner import ValLoop

from ..runner.toy import MeanError, ToyData, toy_runner

HOW = {
    "runner.test": lambda runner: runner.test(),
    "runner.val": lambda runner: runner.val(),
    "test_loop.run": lambda runner: runner.test_loop.run(runner),
    "val_loop.run": lambda runner: runner.val_loop.run(runner),
}


class Evaluates(Hook):
    """Evaluates at a point, and draws from every stream afterwards."""

    def __init__(self, point: str, how: str | None) -> None:
        self.how, self.drawn = how, []
        setattr(self, point, self.act)

    def act(self, runner, **kwargs: Any) -> None:
        if self.how is not None:
            assert set(HOW[self.how](runner)) == {"error"}
        self.drawn.append(torch.rand(1).item())


def trained(folder, how: str | None, point: str, loop: dict[str, Any]):
    hooks = {
        "checkpoint": CheckpointHook(save_best="error", rule="less", max_keep_ckpts=2),
        "early": EarlyStoppingHook("error", rule="less", patience=2),
        "ema": EMAHook(momentum=0.3),
        "evaluates": Evaluates(point, how),
    }
    runner = toy_runner(str(folder), hooks=hooks, **loop)
    data = ToyData(12)
    runner.test_loop = EvalLoop(torch.utils.data.DataLoader(data, 4), MeanError())
    runner._parts["test_loop"] = runner.test_loop
    runner.param_schedulers = [ReduceOnPlateauLR(runner.optim_wrapper, "error", rule="less", patience=0, factor=0.5)]
    runner.train()
    return runner


@pytest.mark.seam(6, "epoch", "iteration", "EMA", "best", "early stopping", "plateau")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("point", ["after_train_epoch", "after_train_iter", "after_val_epoch", "before_train"])
@pytest.mark.parametrize(
    "loop", [pytest.param({"max_epochs": 3}, id="epoch"), pytest.param({"max_iters": 12, "val_interval": 4}, id="iter")]
)
def test_a_nested_evaluation_changes_nothing_of_training(tmp_path, how, point, loop):
    if point == "after_val_epoch" and "val" in how:
        pytest.skip("would call itself")
    plain = trained(tmp_path / "plain", None, point, loop)
    nested = trained(tmp_path / "nested", how, point, loop)
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, nested.model.state_dict()[key]), key
    assert plain.hooks["evaluates"].drawn == nested.hooks["evaluates"].drawn
    for name in ("early", "checkpoint"):
        assert plain.hooks[name].state_dict() == nested.hooks[name].state_dict()
    assert plain.num_iters_completed == nested.num_iters_completed
    assert plain.param_schedulers[0].state_dict() == nested.param_schedulers[0].state_dict()
    files = [sorted(p.name for p in (tmp_path / run).glob("*.pth")) for run in ("plain", "nested")]
    assert files[0] == files[1]
    assert any(name.startswith("best_error") for name in files[0])


class Within(Hook):
    """Evaluates at a point between two batches of a validation, and notes what validations find."""

    def __init__(self, point: str, how: str | None) -> None:
        self.how, self.found = how, []
        setattr(self, point, self.act)

    def act(self, runner, batch_idx, **_: Any) -> None:
        if self.how is not None and runner.is_training and batch_idx == 1:
            assert set(HOW[self.how](runner)) in ({"error"}, {"a/error", "b/error"})

    def after_val_epoch(self, runner, metrics=None):
        if runner.is_training:
            self.found.append(metrics)


@pytest.mark.seam(6, "within a validation", "shared metrics", "several loaders", "epoch", "iteration", "EMA")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("point", ["before_val_iter", "after_val_iter"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "loop", [pytest.param({"max_epochs": 2}, id="epoch"), pytest.param({"max_iters": 8, "val_interval": 4}, id="iter")]
)
def test_an_evaluation_within_a_validation_has_its_own_results(tmp_path, how, point, several, loop):
    def validated(how):
        runner = toy_runner(str(tmp_path / str(how)), hooks={"ema": EMAHook(), "within": Within(point, how)}, **loop)
        loader, evaluator = runner._parts["val_loop"].dataloader, runner._parts["val_loop"].evaluator
        if several:
            loaders = {"a": loader, "b": torch.utils.data.DataLoader(ToyData(8), 4)}
            runner._parts["val_loop"] = ValLoop(loaders, {"a": evaluator, "b": MeanError()})
        runner._parts["test_loop"] = EvalLoop(torch.utils.data.DataLoader(ToyData(12), 4), evaluator)
        runner.train()
        assert runner.val_loop.loader_name == ("b" if several else "")
        return runner.hooks["within"].found

    plain = validated(None)
    assert len(plain) == 2
    found = validated(how)
    assert [each.get("error", each.get("a/error")) for each in found] == [
        each.get("error", each.get("a/error")) for each in plain
    ]


@pytest.mark.seam(17, "torch's loader", "workers that stay", "within a validation")
def test_a_loader_that_can_be_read_once_at_a_time_gives_no_part_of_the_data(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1, hooks={"within": Within("after_val_iter", "runner.val")})
    loader = torch.utils.data.DataLoader(ToyData(), 4, num_workers=1, persistent_workers=True)
    runner._parts["val_loop"] = ValLoop(loader, MeanError())
    with pytest.raises(RuntimeError, match=r"gave 2 of 5 batches.*persistent_workers=False"):
        runner.train()


@pytest.mark.seam(7, "trained in a validation")
def test_another_runner_may_train_in_a_validation(tmp_path):
    class Probes(Hook):
        def after_val_epoch(self, runner, metrics=None):
            if not (tmp_path / "probe").exists():
                toy_runner(str(tmp_path / "probe"), max_epochs=1).train()

    plain = toy_runner(str(tmp_path / "plain"))
    plain.train()
    runner = toy_runner(str(tmp_path / "probed"), hooks={"probes": Probes()})
    runner.train()
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[key]), key


class Dtypes(Hook):
    """Notes the dtype that an evaluation computes in."""

    def __init__(self) -> None:
        self.seen: list[torch.dtype] = []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(runner.model.net[0](data_batch["x"]).dtype)


def amp_runner(folder, wrap, **kwargs):
    runner = toy_runner(str(folder), max_epochs=1, hooks={"dtypes": Dtypes()}, **kwargs)
    runner._parts["param_schedulers"] = None
    runner.optim_wrapper = runner._parts["optim_wrapper"] = wrap(
        torch.optim.SGD(runner.model.parameters(), lr=0.01, momentum=0.9)
    )
    return runner


class Several(OptimWrapperDict):
    """Several wrappers, of which the model's own train_step uses the first."""


WRAPPERS = {
    "single": lambda optimizer: AmpOptimWrapper(optimizer, dtype="bfloat16"),
    "several": lambda optimizer: OptimWrapperDict(net=AmpOptimWrapper(optimizer, dtype="bfloat16")),
}


@pytest.mark.seam(5, "single", "several", "AMP", "val alone", "from a checkpoint")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_entrance_evaluates_in_the_precision_of_training(tmp_path, wrapper):
    runner = amp_runner(tmp_path, WRAPPERS[wrapper])
    runner.train()
    within = list(runner.hooks["dtypes"].seen)
    runner.val()
    assert set(runner.hooks["dtypes"].seen) == set(within) == {torch.bfloat16}
    assert torch.load(tmp_path / "epoch_1.pth", weights_only=True)["meta"]["precision"]["dtype"] == "bfloat16"

    alone = toy_runner(str(tmp_path / "alone"), hooks={"dtypes": Dtypes()}, load_from=str(tmp_path / "epoch_1.pth"))
    alone._parts["optim_wrapper"] = None
    alone.__dict__.pop("optim_wrapper", None)
    alone.val()
    assert set(alone.hooks["dtypes"].seen) == {torch.bfloat16}


@pytest.mark.seam(5, "explicit", "single", "several")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_loop_may_say_its_precision(tmp_path, wrapper):
    runner = amp_runner(tmp_path, WRAPPERS[wrapper])
    data = ToyData()
    runner.val_loop = ValLoop(torch.utils.data.DataLoader(data, 4), MeanError(), precision="float32")
    runner.train()
    assert set(runner.hooks["dtypes"].seen) == {torch.float32}
    with pytest.raises(ValueError, match="precision='half'"):
        ValLoop([], MeanError(), precision="half")

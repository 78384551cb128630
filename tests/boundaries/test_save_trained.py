"""`Runner(save="trained")`: what is frozen is not saved, and a resume, an evaluation and an average are as with it."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from lazyengine.checkpoint import CheckpointError, publish_checkpoint, read_checkpoint, save_checkpoint
from lazyengine.cli.checkpoint import main
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.hooks import EMAHook, Hook, default_hooks
from lazyengine.model import BaseModel, ExponentialMovingAverage, ExternalModule, ModelSetup
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..runner.toy import MeanError, StopAt, ToyData

FROZEN = {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}


class Net(BaseModel):
    """A backbone that is frozen and whose batch norm goes on counting, a head, and a teacher."""

    def __init__(self, seed: int = 0, teacher: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(()))
        if teacher:
            self.teacher = ExternalModule(nn.Linear(4, 1))

    def forward(self, x, y, index, mode="tensor"):
        out = self.head(self.backbone(x).relu()).squeeze(1)
        if mode == "loss":
            self.seen += len(x)
            aim = self.teacher(x).squeeze(1) if hasattr(self, "teacher") else y
            return {"loss": (out - aim).square().mean()}
        return {"error": (out - y).abs()}


class Unfreeze(Hook):
    """Trains the backbone's bias in iterations 2 to 4, in the midst of an epoch."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        bias = runner.model.backbone[0].bias
        bias.requires_grad_(2 <= runner.iter < 4)
        bias.grad = None


class MoveTeacher(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.model.teacher.weight.data.mul_(0.9)


def build(work_dir: Any, *hooks: Hook, seed: int = 0, teacher: bool = False, save: Any = "trained", **options: Any):
    model, data = Net(seed, teacher), ToyData()
    loader = DataLoader(data, 4, sampler=DefaultSampler(data, shuffle=True))
    named = {f"own{place}": hook for place, hook in enumerate(hooks)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Runner(
        model,
        train_loop=EpochBasedTrainLoop(loader, 3),
        val_loop=ValLoop(DataLoader(data, 4), MeanError()),
        optim_wrapper=OptimWrapper(optimizer),
        hooks={**default_hooks(), **named},
        model_setup=ModelSetup(freeze="backbone", freeze_mode="train"),
        work_dir=str(work_dir),
        save=save,
        **options,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("killed_at", [7, 11])
def test_a_killed_run_ends_as_one_that_saved_all(tmp_path, ema, killed_at):
    hooks = [EMAHook(ema_type=ExponentialMovingAverage, momentum=0.1)] if ema else []
    straight = build(tmp_path / "all", *hooks, save="all")
    straight.train()
    with pytest.raises(InterruptedError):
        build(tmp_path / "some", StopAt(killed_at), *(EMAHook(momentum=0.1) for _ in hooks)).train()
    again = build(tmp_path / "some", *(EMAHook(momentum=0.1) for _ in hooks), resume=True)
    again.train()
    assert same(straight.model, again.model)
    whole, part = (read_checkpoint(str(tmp_path / name / "epoch_3.pth")) for name in ("all", "some"))
    for state in ("state_dict", "ema_state_dict") if ema else ("state_dict",):
        assert whole[state].keys() - part[state].keys() == FROZEN
        assert all(torch.equal(value, whole[state][name]) for name, value in part[state].items())
    assert {"seen", "backbone.1.running_mean"} <= part["state_dict"].keys()  # buffers change
    assert part["meta"]["frozen"].keys() == FROZEN


def test_an_evaluation_has_the_frozen_weights_of_load_from(tmp_path):
    save_checkpoint({"state_dict": {f"old.{k}": v for k, v in Net(5).state_dict().items()}}, str(tmp_path / "base.pth"))
    base = {"path": str(tmp_path / "base.pth"), "revise_keys": [(r"^old\.", "")]}
    run = build(tmp_path / "run", load_from=base)
    run.train()
    metrics = run.val()
    published = publish_checkpoint(str(tmp_path / "run/epoch_3.pth"), ["state_dict"])
    for path in ("latest", published):
        fresh = build(tmp_path / "run", load_from=base)
        fresh.set_checkpoint(path, strict=True)
        assert fresh.val() == metrics
    other = build(tmp_path / "run")  # has its constructor's
    other.set_checkpoint("latest", strict=True)
    with pytest.raises(CheckpointError, match=r"2 of 4 differ \(backbone.0.weight, .*load_from"):
        other.val()


def run_rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        straight = build(f"{folder}/all", save="all", launcher="none")
        straight.train()
        with pytest.raises(InterruptedError):
            build(f"{folder}/some", StopAt(4), launcher="none").train()
        again = build(f"{folder}/some", resume=True, launcher="none")
        again.train()
        assert same(straight.model, again.model)
        evaluated = build(f"{folder}/some", launcher="none")
        evaluated.set_checkpoint("latest", strict=True)
        assert evaluated.val() == again.val()
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_resume_to_the_bit(tmp_path):
    spawn(run_rank, (str(tmp_path),), nprocs=2)
    assert FROZEN.isdisjoint(read_checkpoint(str(tmp_path / "some/epoch_3.pth"))["state_dict"])


def test_commands_write_whole_files_or_none(tmp_path, capsys):
    run = build(tmp_path / "run")
    run.train()
    whole = build(tmp_path / "all", save="all")
    whole.train()
    part, out = str(tmp_path / "run/epoch_3.pth"), str(tmp_path / "out.pth")
    commands = (["export", part, out], ["export", part, out, "--prefix", "backbone"], ["average", part, "-o", out])
    for command in commands:
        assert main(command) == 1
        assert "leaves out the frozen weights backbone.0.weight" in capsys.readouterr().err
        assert not os.path.exists(out)
    assert main(["export", part, out, "--prefix", "head"]) == 0  # is whole
    save_checkpoint({"state_dict": whole.model.state_dict()}, str(tmp_path / "base.pth"))
    for command in commands:
        assert main([*command, "--base", str(tmp_path / "base.pth")]) == 0
        expected = whole.model.backbone if "--prefix" in command else whole.model
        state = read_checkpoint(out)["state_dict"]
        assert state.keys() == expected.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in expected.state_dict().items())
    assert main(["export", part, out, "--base", part]) == 1
    save_checkpoint({"state_dict": Net(5).state_dict()}, str(tmp_path / "other.pth"))
    assert main(["average", part, "-o", out, "--base", str(tmp_path / "other.pth")]) == 1
    assert "are not those with which it was trained" in capsys.readouterr().err


def test_a_resume_with_other_frozen_weights_is_refused(tmp_path):
    build(tmp_path).train()
    with pytest.raises(CheckpointError, match=r"not those with which it was trained"):
        build(tmp_path, seed=1, resume=True).train()


def test_what_was_ever_trained_is_saved(tmp_path):
    straight = build(tmp_path / "all", Unfreeze(), save="all")
    straight.train()
    assert not torch.equal(straight.model.backbone[0].bias, Net().backbone[0].bias)
    with pytest.raises(InterruptedError):
        build(tmp_path / "some", Unfreeze(), StopAt(7)).train()
    names = read_checkpoint(str(tmp_path / "some/epoch_1.pth"))["state_dict"].keys()
    assert "backbone.0.bias" in names
    assert "backbone.0.weight" not in names
    again = build(tmp_path / "some", Unfreeze(), resume=True)
    again.train()
    assert same(straight.model, again.model)
    assert "backbone.0.bias" in read_checkpoint(str(tmp_path / "some/epoch_3.pth"))["state_dict"]


@pytest.mark.parametrize("first", ["all", "trained"])
def test_a_resume_may_save_the_other_way(tmp_path, first):
    straight = build(tmp_path / "straight", save="all")
    straight.train()
    with pytest.raises(InterruptedError):
        build(tmp_path / "run", StopAt(7), save=first).train()
    again = build(tmp_path / "run", save="trained" if first == "all" else "all", resume=True)
    again.train()
    assert same(straight.model, again.model)
    names = read_checkpoint(str(tmp_path / "run/epoch_3.pth"))["state_dict"].keys()
    assert FROZEN.isdisjoint(names) == (first == "all")


def test_a_teacher_belongs_to_nobody(tmp_path):
    run = build(tmp_path, EMAHook(momentum=0.1), teacher=True, save="all")
    run.train()
    checkpoint = read_checkpoint(str(tmp_path / "epoch_3.pth"))
    assert not [key for name in ("state_dict", "ema_state_dict") for key in checkpoint[name] if "teacher" in key]
    assert checkpoint["meta"]["external"].keys() == {"teacher.weight", "teacher.bias"}
    assert len(run.optim_wrapper.param_groups[0]["params"]) == len(list(Net().parameters()))
    average = ExponentialMovingAverage(run.model, 0.1)
    assert average.module.teacher is run.model.teacher  # nothing of it is kept twice
    assert run.model.to(torch.float64).teacher.weight.dtype == torch.float64  # it moves with the model
    evaluated = build(tmp_path, teacher=True, save="all")
    evaluated.set_checkpoint("latest", strict=True)
    evaluated.val()
    with pytest.raises(CheckpointError, match=r"do not belong to the model.*teacher.weight"):
        build(tmp_path, EMAHook(momentum=0.1), teacher=True, save="all", seed=3, resume=True).train()
    with pytest.raises(RuntimeError, match=r"teacher.weight changed while training"):
        build(tmp_path / "moved", MoveTeacher(), teacher=True).train()


def test_a_value_of_save_is_refused():
    with pytest.raises(ValueError, match="save='some': expected 'all' or 'trained'"):
        Runner(Net(), save="some")  # type: ignore[arg-type]

"""What a resume must bring back besides weights: draws of hooks, accumulations of several optimizers, best files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler
from torch.utils.data import DataLoader as TorchLoader

from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader, DefaultSampler, LengthBucketBatchSampler, WeightedSampler
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, default_hooks
from lazyengine.model import BaseModel
from lazyengine.optim import LinearLR, OptimWrapper, OptimWrapperDict
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop

from .toy import MeanError, StopAt, ToyData, ToyModel, toy_runner


class Draws(Hook):
    """Changes the model by random numbers of all three libraries at one point."""

    def __init__(self, point: str) -> None:
        setattr(self, point, self._draw)

    @torch.no_grad()
    def _draw(self, runner, *args, **kwargs):
        runner.model.net[0].bias.add_(0.01 * (random.random() + np.random.rand() + torch.rand(()).item()))


def saving() -> CheckpointHook:
    return CheckpointHook(interval=1, by_epoch=False)


def assert_same_weights(a: Runner, b: Runner) -> None:
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize(
    ("point", "by_epoch"), [("before_train_iter", False), ("after_train_iter", False), ("before_train_epoch", True)]
)
def test_random_numbers_of_hooks_are_the_same_after_a_resume(tmp_path, point, by_epoch):
    def run(name, resume=False, **hooks):
        hooks = {"draws": Draws(point), "checkpoint": CheckpointHook(by_epoch=by_epoch), **hooks}
        runner = toy_runner(str(tmp_path / name), hooks=hooks, resume=resume)
        runner.train()
        return runner

    whole = run("whole")
    with pytest.raises(InterruptedError):
        run("cut", stop=StopAt(7))
    assert_same_weights(run("cut", resume=True), whole)


def test_an_average_that_is_not_kept_any_more_is_not_trained_on(tmp_path, capsys):
    hooks = {"ema": EMAHook(momentum=0.1), "checkpoint": saving()}
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path), hooks={**hooks, "stop": StopAt(7)}).train()
    resumed = toy_runner(str(tmp_path), hooks={"checkpoint": saving()}, resume=True)
    resumed.train()
    whole = toy_runner(str(tmp_path / "whole"), hooks={"ema": EMAHook(momentum=0.1), "checkpoint": saving()})
    whole.train()
    assert_same_weights(resumed, whole)
    assert "there is no EMAHook any more: training goes on from the weights themselves" in capsys.readouterr().out


class Rarely(ToyModel):
    """Calls the optimizer in every other iteration only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def train_step(self, data, optim_wrapper, forward=None):
        loss = self(**data, mode="loss")["loss"]
        if int(self.calls) % 2 == 0:
            optim_wrapper.update_params(loss)
        self.calls += 1
        return {"loss": loss.detach()}


class Pair(BaseModel):
    """Two regressions; the second one's optimizer is called from the second iteration on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, y, index, mode="tensor"):
        return {"error": (self.first(x).squeeze(1) - y).abs()}

    def train_step(self, data, optim_wrapper, forward=None):
        losses = {n: (getattr(self, n)(data["x"]).squeeze(1) - data["y"]).square().mean() for n in ("first", "second")}
        optim_wrapper["first"].update_params(losses["first"])
        if int(self.calls) > 0:
            optim_wrapper["second"].update_params(losses["second"])
        self.calls += 1
        return {"loss": losses["first"].detach()}


def by_hand(work_dir, model_class, accumulative_counts, hooks=None, **options) -> Runner:
    """A run of 11 iterations whose model steps its optimizers itself."""
    torch.manual_seed(0)
    model = model_class()
    if model_class is Pair:
        wrapper = OptimWrapperDict(
            **{
                name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), 0.1), accumulative_counts=2)
                for name in ("first", "second")
            }
        )
    else:
        wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()), accumulative_counts=accumulative_counts)
    return Runner(
        model,
        train_loop=IterBasedTrainLoop(DataLoader(ToyData(), 4, shuffle=True), 11),
        optim_wrapper=wrapper,
        hooks={**default_hooks(), "checkpoint": saving(), **(hooks or {})},
        work_dir=str(work_dir),
        **options,
    )


@pytest.mark.filterwarnings("ignore")
def test_an_accumulation_goes_on_where_it_was_when_not_every_iteration_takes_part(tmp_path):
    whole = by_hand(tmp_path / "whole", Rarely, 3)
    whole.train()
    with pytest.raises(InterruptedError):
        by_hand(tmp_path / "cut", Rarely, 3, hooks={"stop": StopAt(8)}).train()
    resumed = by_hand(tmp_path / "cut", Rarely, 3, resume=True)
    resumed.train()
    assert resumed.optim_wrapper.inner_count == whole.optim_wrapper.inner_count == 6
    assert_same_weights(resumed, whole)


def test_optimizers_that_never_stand_at_a_step_together_are_saved_and_resumed(tmp_path):
    whole = by_hand(tmp_path / "whole", Pair, 2)
    whole.train()
    assert len(list((tmp_path / "whole").glob("iter_*.pth"))) == 11
    with pytest.raises(InterruptedError):
        by_hand(tmp_path / "cut", Pair, 2, hooks={"stop": StopAt(6)}).train()
    resumed = by_hand(tmp_path / "cut", Pair, 2, resume=True)
    resumed.train()
    assert_same_weights(resumed, whole)


class TwoErrors(MeanError):
    """Two metrics that are both best in the first two validations."""

    num_calls = 0

    def compute_metrics(self, results):
        self.num_calls += 1
        return {"error": 9.0 if self.num_calls != 2 else 8.0, "other": 19.0 if self.num_calls != 2 else 18.0}


def best_of_both() -> CheckpointHook:
    return CheckpointHook(interval=1, save_best=["error", "other"], rule="less")


def test_the_second_best_file_of_a_validation_is_written_after_a_kill_between_them(tmp_path, monkeypatch):
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks={"checkpoint": best_of_both()})
    runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), TwoErrors())
    save = runner.save_checkpoint

    def killed_after_the_first(name, **kwargs):
        save(name, **kwargs)
        if name == "best_error_epoch_1.pth":
            raise InterruptedError

    monkeypatch.setattr(runner, "save_checkpoint", killed_after_the_first)
    with pytest.raises(InterruptedError):
        runner.train()
    assert not (tmp_path / "best_other_epoch_1.pth").exists()
    again = toy_runner(str(tmp_path), max_epochs=1, hooks={"checkpoint": best_of_both()}, resume=True)
    again.train()
    first, second = (read_checkpoint(tmp_path / f"best_{name}_epoch_1.pth") for name in ("error", "other"))
    assert all(torch.equal(a, b) for a, b in zip(first["state_dict"].values(), second["state_dict"].values()))
    assert second["hooks"]["checkpoint"]["best_names"]["other"] == "best_other_epoch_1.pth"


def test_the_former_best_file_stays_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    fsync = os.fsync

    def full(descriptor):
        if ".best_error_epoch_2" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    hook = CheckpointHook(interval=1, save_best="error", rule="less")
    runner = toy_runner(str(tmp_path), max_epochs=3, hooks={"checkpoint": hook})
    runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), TwoErrors())
    runner.train()
    assert (tmp_path / "epoch_3.pth").exists()
    assert (tmp_path / "best_error_epoch_1.pth").exists()
    assert not (tmp_path / "best_error_epoch_2.pth").exists()


def test_a_validation_that_was_interrupted_leaves_nothing_to_the_next(tmp_path):
    class Once(Hook):
        is_done = False

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if not self.is_done:
                self.is_done = True
                raise KeyboardInterrupt

    expected = toy_runner(str(tmp_path / "a")).val()
    runner = toy_runner(str(tmp_path / "b"), hooks={"once": Once()})
    with pytest.raises(KeyboardInterrupt):
        runner.val()
    assert runner.val() == expected


def test_options_that_the_user_changes_with_a_resume_are_in_force_and_recorded(tmp_path, capsys):
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path), hooks={"checkpoint": saving(), "stop": StopAt(3)}).train()
    resumed = toy_runner(str(tmp_path), hooks={"checkpoint": saving()}, resume=True)
    resumed._parts["optim_wrapper"].optimizer.param_groups[0]["weight_decay"] = 0.5
    resumed.train()
    assert "group 0: weight_decay=0.5 (was 0.01) is in force from here" in capsys.readouterr().out
    assert resumed.optim_wrapper.param_groups[0]["weight_decay"] == 0.5
    (change,) = json.loads((tmp_path / "run.json").read_text())["starts"][-1]["changes"]
    assert (change["path"], change["was"], change["is"]) == ("optimizer.param_groups[0].weight_decay", 0.01, 0.5)
    assert (change["effect"], change["from_iter"]) == ("in force", 3)


@pytest.mark.parametrize("with_schedules", [True, False])
def test_a_rate_that_the_user_changes_is_that_of_a_run_that_had_it_from_the_start(tmp_path, with_schedules):
    def build(folder, lr, **options):
        runner = toy_runner(str(folder), hooks={"checkpoint": saving(), **options.pop("hooks", {})}, **options)
        optimizer = torch.optim.AdamW(runner.model.parameters(), lr=lr)
        runner.optim_wrapper = runner._parts["optim_wrapper"] = OptimWrapper(optimizer)
        chain = [LinearLR(optimizer, start_factor=0.1, end=4, by_epoch=False)] if with_schedules else None
        runner._parts["param_schedulers"] = chain
        return runner

    with pytest.raises(InterruptedError):
        build(tmp_path / "run", 0.01, hooks={"stop": StopAt(4)}).train()
    resumed = build(tmp_path / "run", 0.05, resume=True)
    resumed.train()
    whole = build(tmp_path / "whole", 0.05)
    whole.train()
    assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()
    assert resumed.optim_wrapper.get_lr()["lr"][0] == pytest.approx(0.05)


def test_a_tilde_is_the_home_folder_for_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    runner = toy_runner("~/run", max_epochs=1)
    runner.train()
    assert not (tmp_path / "~").exists()
    assert (tmp_path / "home" / "run" / "epoch_1.pth").exists()
    assert (tmp_path / "home" / "run" / runner.timestamp / "metrics.jsonl").exists()


def test_the_state_of_another_optimizer_is_refused():
    model = ToyModel()
    saved = OptimWrapper(torch.optim.AdamW(model.parameters())).state_dict()
    with pytest.raises(ValueError, match="the saved state is that of AdamW, and this optimizer is Adam: resume with"):
        OptimWrapper(torch.optim.Adam(model.parameters())).load_state_dict(saved)


def test_a_run_that_a_hook_interrupted_goes_on_in_the_same_process(tmp_path):
    whole = toy_runner(str(tmp_path / "whole"))
    whole.train()
    runner = toy_runner(str(tmp_path / "cut"), hooks={"stop": StopAt(7)})
    with pytest.raises(InterruptedError):
        runner.train()
    runner.train()
    assert (runner.iter, runner.optim_wrapper.num_optimizer_steps) == (15, 15)
    assert_same_weights(runner, whole)


def test_beginning_anew_where_another_run_has_saved_is_told(tmp_path, capsys):
    toy_runner(str(tmp_path), max_epochs=1).train()
    assert "of an earlier run" not in capsys.readouterr().out
    toy_runner(str(tmp_path), max_epochs=1).train()
    assert "holds the checkpoints of an earlier run, and this one begins anew" in capsys.readouterr().out


def test_schedules_and_the_average_of_several_optimizers_follow_each_its_own(tmp_path):
    ema = EMAHook(momentum=0.1)
    runner = by_hand(tmp_path, Pair, 2, hooks={"ema": ema})
    wrappers = runner._parts["optim_wrapper"]
    runner._parts["param_schedulers"] = {
        name: [LinearLR(wrapper.optimizer, start_factor=0.5, end=50, by_epoch=False)]
        for name, wrapper in wrappers.items()
    }
    runner.train()
    # The first is called in 11 of the iterations, two of which make a step: what is left over is a step as well.
    assert [wrapper.num_optimizer_steps for wrapper in wrappers.values()] == [6, 5]
    assert [runner.param_schedulers[name][0].last_step for name in ("first", "second")] == [6, 5]
    assert ema.ema_model.steps == 10  # both of the last iteration are one update


def test_a_pass_of_another_length_is_refused(tmp_path):
    with pytest.raises(InterruptedError):
        by_hand(tmp_path, Rarely, 1, hooks={"stop": StopAt(3)}).train()
    longer = by_hand(tmp_path, Rarely, 1, resume=True)
    longer.train_loop = IterBasedTrainLoop(DataLoader(ToyData(24), 4, shuffle=True), 11)
    with pytest.raises(RuntimeError, match="at batch 3 of epoch 0, whose length was 5, but an epoch now has 6 batches"):
        longer.train()


def test_a_best_file_that_is_not_there_is_not_published(tmp_path, capsys):
    def hook():
        return CheckpointHook(save_best="error", rule="less", published_keys=["meta", "state_dict"])

    runner = toy_runner(str(tmp_path / "a"), max_epochs=3, hooks={"checkpoint": hook(), "stop": StopAt(12)})
    runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), TwoErrors())
    with pytest.raises(InterruptedError):
        runner.train()
    path = str(tmp_path / "a" / "epoch_2.pth")
    again = toy_runner(str(tmp_path / "b"), max_epochs=3, hooks={"checkpoint": hook()}, resume=path)
    again._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), Worse())
    again.train()
    assert "best_error_epoch_1.pth is not there, and so not published" in capsys.readouterr().out
    assert len(list((tmp_path / "b").glob("epoch_3-*.pth"))) == 1


class Worse(TwoErrors):
    """Never the best."""

    def compute_metrics(self, results):
        return {"error": 99.0, "other": 99.0}


def test_whatever_fails_at_the_end_of_a_run_the_rest_is_done(tmp_path):
    class Closing(Hook):
        def close(self):
            raise ZeroDivisionError

    hooks = {"closing": Closing(), "checkpoint": CheckpointHook(async_save=True)}
    runner = toy_runner(str(tmp_path), max_epochs=1, hooks=hooks)
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert (tmp_path / "epoch_1.pth").exists()
    assert (tmp_path / runner.timestamp / "metrics.jsonl").exists()


def test_a_loop_without_epochs_says_after_which_iteration_it_goes_on(tmp_path):
    toy_runner(str(tmp_path), max_iters=6).train()
    resumed = toy_runner(str(tmp_path), max_iters=8, resume=True)
    resumed.train()
    assert "  begins     after iteration 6\n" in Path(resumed.folder.log_file).read_text()


def trained(folder: Path, loop, **options) -> ToyModel:
    torch.manual_seed(0)
    model = ToyModel()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.01))
    Runner(model, train_loop=loop, optim_wrapper=wrapper, work_dir=str(folder), **options).train()
    return model


@pytest.mark.parametrize(("sampler", "limit", "at"), [(None, None, 5), (DefaultSampler, None, 10), (None, 3, 6)])
def test_behind_a_pass_by_iterations_a_loader_that_cannot_begin_in_the_middle_goes_on(tmp_path, sampler, limit, at):
    def run(folder, max_iters, **options):
        data = ToyData()
        loader = TorchLoader(data, 4, sampler=sampler and sampler(data), shuffle=None if sampler else True)
        return trained(
            folder, IterBasedTrainLoop(loader, max_iters, val_interval=0, limit=limit), **options
        ).state_dict()

    expected = run(tmp_path / "whole", 12)
    run(tmp_path / "part", at)
    found = run(tmp_path / "part", 12, resume=True)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def _torchs(data: ToyData, kind: str):
    if kind == "sampler":
        return TorchLoader(data, 4, sampler=DefaultSampler(data))
    if kind == "batch sampler":
        return TorchLoader(data, batch_sampler=LengthBucketBatchSampler([1 + i % 3 for i in range(20)], 4))
    return TorchLoader(
        data, batch_sampler=BatchSampler(WeightedSampler(data, [1 + i % 2 for i in range(20)]), 4, False)
    )


@pytest.mark.parametrize("kind", ["sampler", "batch sampler", "sampler of a batch sampler"])
def test_a_sampler_of_ours_in_torchs_loader_has_the_seed_of_the_run(tmp_path, kind):
    def run(folder, max_epochs, **options):
        return trained(folder, EpochBasedTrainLoop(_torchs(ToyData(), kind), max_epochs), **options).batches

    expected = run(tmp_path / "whole", 4)
    first = run(tmp_path / "part", 2)
    assert first + run(tmp_path / "part", 4, resume=True) == expected
    assert run(tmp_path / "other", 4, seed=1) != expected

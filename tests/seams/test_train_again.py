"""Rows 7, 8 and 9: the running runner is current, training again continues, signals are answered soon."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path

import pytest
import torch

from lazyengine.config import LazyCall as L
from lazyengine.config import instantiate
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, ParamSchedulerHook
from lazyengine.logging import MessageHub, MMLogger, print_log
from lazyengine.optim import CosineAnnealingLR, OptimWrapper, OptimWrapperDict, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner

from ..runner.toy import ToyData, ToyModel, toy_runner

LOOPS = [
    pytest.param({"max_epochs": 3}, id="epoch"),
    pytest.param({"max_iters": 15, "val_interval": 5}, id="iteration"),
]


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Python's own handler, which a process in the background of a shell does not have."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


class SendAt(Hook):
    """Sends a signal to this process at an iteration, as Ctrl-C or a scheduler does."""

    def __init__(self, iteration: int, number: int, times: int = 1) -> None:
        self.iteration, self.number, self.times = iteration, number, times

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def equal(a, b) -> bool:
    states = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.seam(8, "epoch", "iteration", "accumulation", "auto_scale_lr", "Ctrl-C")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("accumulative_counts", [1, 2])
def test_training_goes_on_after_ctrl_c(tmp_path, loop, accumulative_counts, capfd):
    options = {"accumulative_counts": accumulative_counts, **loop}
    whole = toy_runner(str(tmp_path / "whole"), **options)
    whole.train()
    runner = toy_runner(str(tmp_path / "again"), hooks={"ctrl_c": SendAt(6, signal.SIGINT)}, **options)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert "Ctrl-C again stops now" in capfd.readouterr().err
    assert runner.num_iters_completed in (7, 8)  # with accumulation, at the next optimizer step
    (interrupted,) = runner.folder.read()["starts"]
    runner.train()
    assert runner.num_iters_completed == 15
    (start,) = runner.folder.read()["starts"]
    assert (interrupted["ended"]["how"], start["ended"]["how"]) == ("stopped", "finished")
    assert start["code"] == interrupted["code"] is not None  # which a resume compares
    assert equal(whole, runner)
    assert [s.state_dict() for s in whole.param_schedulers] == [s.state_dict() for s in runner.param_schedulers]
    assert whole.optim_wrapper.num_optimizer_steps == runner.optim_wrapper.num_optimizer_steps
    runner.train()  # nothing is left
    assert equal(whole, runner)


class FailsOnce(Hook):
    """Fails once, before all other hooks of a point or, of `backward` and `step`, within the third iteration."""

    priority = 0

    def __init__(self, place: str, error: type[BaseException] = ValueError) -> None:
        self.place, self.error, self.is_due = place, error, True

    def fail(self, *args, **kwargs):
        if self.is_due:
            self.is_due = False
            raise self.error("no memory")

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2 and self.is_due and self.place == "step":
            for wrapper in runner.optim_wrapper.named().values():
                wrapper.optimizer.register_step_pre_hook(self.fail)
        elif runner.iter == 2 and self.is_due and self.place == "backward":
            next(runner.model.parameters()).register_hook(self.fail)  # the last one that gets a gradient

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.place == "after_train_iter" and runner.iter == 2:
            self.fail()

    def after_train_epoch(self, runner):
        if self.place == "after_train_epoch":
            self.fail()

    def after_val_epoch(self, runner, metrics=None):
        if self.place == "after_val_epoch":
            self.fail()

    def after_val(self, runner):
        if self.place == "after_val":
            self.fail()


AVERAGED = {"ema": EMAHook(momentum=0.2), "checkpoint": CheckpointHook(save_best="error", rule="less", interval=1)}


@pytest.mark.seam(8, "epoch", "iteration", "exception", "hooks", "EMA", "best")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("backward", ValueError),
        ("backward", KeyboardInterrupt),
        ("step", ValueError),
        ("after_train_iter", ValueError),
        ("after_train_iter", KeyboardInterrupt),
        ("after_train_epoch", ValueError),
        ("after_val_epoch", ValueError),
        ("after_val", ValueError),
    ],
)
def test_training_goes_on_after_an_exception(tmp_path, loop, place, error):
    """Gradients of a step that failed are not added to those of its repetition, and no hook lacks an iteration."""
    runs = []
    for name, hook in (("whole", Hook()), ("again", FailsOnce(place, error))):
        runs.append(toy_runner(str(tmp_path / name), hooks={**copy.deepcopy(AVERAGED), "fails": hook}, **loop))
        runs[-1].model.net[1].momentum = 0.0  # its statistics would move once more with the repeated pass
    whole, runner = runs
    whole.train()
    with pytest.raises(error, match="no memory"):
        runner.train()
    runner.train()
    weights = [[*each.model.parameters(), *each.hooks["ema"].ema_model.parameters()] for each in runs]
    assert all(map(torch.equal, *weights))
    assert [s.state_dict() for s in whole.param_schedulers] == [s.state_dict() for s in runner.param_schedulers]
    files = [sorted(path.name for path in (tmp_path / name).glob("*.pth")) for name in ("whole", "again")]
    assert files[0] == files[1]
    assert whole.hooks["checkpoint"].best.scores == runner.hooks["checkpoint"].best.scores


class FailsIn(ToyModel):
    """Its third step fails once: in the forward pass behind BatchNorm, or behind the optimizer's step."""

    num_steps, place = 0, ""

    def train_step(self, data, optim_wrapper):
        self.num_steps += 1
        is_due = self.num_steps == 3
        handle = self.net[3].register_forward_pre_hook(self.fail) if is_due and self.place == "forward" else None
        try:
            losses = super().train_step(data, optim_wrapper)
        finally:
            if handle is not None:
                handle.remove()
        if is_due and self.place == "behind":
            self.fail()
        return losses

    def fail(self, *_):
        raise ValueError("no memory")


def runner_that_fails(folder, place, nonfinite):
    model = FailsIn()
    runner = toy_runner(str(folder), hooks={"fails": FailsOnce(place)})
    model.load_state_dict(runner.model.state_dict())
    model.place = place
    runner.model = model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    runner._parts |= {"optim_wrapper": OptimWrapper(optimizer, nonfinite=nonfinite), "param_schedulers": None}
    return runner


@pytest.mark.seam(8, "exception", "BatchNorm", "nonfinite")
@pytest.mark.parametrize("place", ["forward", "backward", "step", "behind"])
@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_what_moves_twice_in_a_repetition_is_said(tmp_path, place, nonfinite):
    """Where the buffers are kept, the run is that without the exception, but behind a step."""
    whole = runner_that_fails(tmp_path / "whole", "", nonfinite)
    whole.train()
    runner = runner_that_fails(tmp_path / "again", place, nonfinite)
    with pytest.raises(ValueError, match="no memory"):
        runner.train()
    runner.train()
    text = text_of(tmp_path / "again")
    is_exact = nonfinite == "skip" and place != "behind"
    assert equal(whole, runner) is is_exact
    assert text.count("iteration 2 was run again after an exception") == (not is_exact)
    assert ("the weights of the optimizer and " in text) is (place == "behind")
    assert ("net.1.running_mean, net.1.running_var, net.1.num_batches_tracked" in text) is not is_exact
    assert "run again" not in text_of(tmp_path / "whole")


@pytest.mark.seam(8, "exception", "accumulation", "several optimizers")
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("place", ["backward", "step"])
def test_an_accumulation_that_an_exception_ended_stays_in_step(tmp_path, place, several):
    hooks = {"fails": FailsOnce(place)}
    runner = toy_runner(str(tmp_path), accumulative_counts=3, hooks=hooks, max_iters=15, val_interval=5)
    wrapper = runner._parts["optim_wrapper"]
    if several:
        runner._parts |= {"optim_wrapper": OptimWrapperDict(net=wrapper), "param_schedulers": None}
    with pytest.raises(ValueError, match="no memory"):
        runner.train()
    assert all(parameter.grad is None for parameter in runner.model.parameters())
    assert "its gradients so far are lost" in text_of(tmp_path)
    runner.train()
    assert runner.num_iters_completed == 15
    assert wrapper.num_optimizer_steps == 5
    assert wrapper.at_step_boundary


@pytest.mark.seam(8, "epoch", "recipes", "auto_scale_lr")
def test_recipes_are_built_and_rates_scaled_once(tmp_path):
    def build(name, **hooks):
        model, data = L(ToyModel)(), L(ToyData)()
        optimizer = L(torch.optim.SGD)(params=L(param_groups)(model=model), lr=0.01)
        return instantiate(
            L(Runner)(
                model=model,
                train_loop=L(EpochBasedTrainLoop)(dataloader=L(DataLoader)(dataset=data, batch_size=4), max_epochs=3),
                optim_wrapper=L(OptimWrapper)(optimizer=optimizer),
                param_schedulers=[L(CosineAnnealingLR)(T_max=15, by_epoch=False)],
                hooks={"step": ParamSchedulerHook(), **hooks},
                auto_scale_lr=2,
                work_dir=str(tmp_path / name),
            )
        )

    whole = build("whole")
    whole.train()
    runner = build("again", ctrl_c=SendAt(6, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    runner.train()
    assert runner.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()
    assert equal(whole, runner)


def prolong(runner):
    if runner.max_epochs is None:
        runner.train_loop.max_iters = 20
    else:
        runner.train_loop.max_epochs = 4


class Prolongs(Hook):
    """Prolongs training while it runs."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 5:
            prolong(runner)


@pytest.mark.seam(8, "prolonged", "accumulation", "epoch", "iteration", "by a hook", "several optimizers")
@pytest.mark.parametrize("loop", [{"max_epochs": 2}, {"max_iters": 10, "val_interval": 5}])
@pytest.mark.parametrize("how", ["by hand", "by a hook"])
@pytest.mark.parametrize("several", [False, True])
def test_training_may_be_prolonged(tmp_path, loop, how, several):
    runner = toy_runner(
        str(tmp_path), accumulative_counts=3, hooks={"hook": Prolongs()} if how == "by a hook" else {}, **loop
    )
    if several:
        runner._parts["optim_wrapper"] = OptimWrapperDict(net=runner._parts["optim_wrapper"])
        runner._parts["param_schedulers"] = None
    runner.train()
    if how == "by hand":
        assert (runner.num_iters_completed, runner.optim_wrapper.num_optimizer_steps) == (10, 4)
        prolong(runner)
        runner.train()
    assert runner.num_iters_completed == 20
    assert runner.optim_wrapper.num_optimizer_steps == (8 if how == "by hand" else 7)  # the tenth was a step alone
    assert runner.optim_wrapper.at_step_boundary


@pytest.mark.seam(8, "other data", "epoch", "iteration")
@pytest.mark.parametrize("loop", [{"max_epochs": 1}, {"max_iters": 5, "val_interval": 5}])
def test_the_data_may_be_others_the_next_time(tmp_path, loop):
    runner = toy_runner(str(tmp_path), **loop)
    runner.train()
    data = ToyData(12)
    runner.train_loop.dataloader = DataLoader(data, 4, sampler=DefaultSampler(data, shuffle=True, seed=None))
    if runner.max_epochs is None:
        runner.train_loop.max_iters = 8
    else:
        runner.train_loop.max_epochs = 2
    runner.train()
    assert (runner.num_iters_completed, runner.max_iters, runner.train_loop.epoch_length) == (8, 8, 3)
    assert sorted(index for batch in runner.model.batches[5:] for index in batch) == list(range(12))


@pytest.mark.seam(8, "epoch", "second Ctrl-C")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"ctrl_c": SendAt(6, signal.SIGINT, times=2)})
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.num_iters_completed == 6


@pytest.mark.seam(8, "epoch", "before the first iteration")
def test_before_the_first_iteration_ctrl_c_stops_at_once(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"ctrl_c": SendAt(0, signal.SIGINT)})
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.num_iters_completed == 0


@pytest.mark.seam(8, "epoch", "command line")
def test_ctrl_c_may_save_and_exit(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"ctrl_c": SendAt(6, signal.SIGINT)})
    runner.interrupt_saves = True
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 130
    whole = toy_runner(str(tmp_path / "whole"))
    whole.train()
    resumed = toy_runner(str(tmp_path), resume=True)
    resumed.train()
    assert equal(whole, resumed)


class StopInVal(Hook):
    """Sends a signal at a batch of a validation and counts the batches of each validation."""

    def __init__(self, number: int, validation: int = 2, batch: int = 1) -> None:
        self.number, self.at, self.counts = number, (validation, batch), []

    def before_val_epoch(self, runner):
        self.counts.append(0)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.counts[-1] += 1
        if (len(self.counts), batch_idx) == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.seam(9, "epoch", "iteration", "SIGTERM", "SIGUSR1", "SIGINT")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_in_a_validation_is_answered_between_two_batches(tmp_path, loop, number):
    best = {"checkpoint": CheckpointHook(save_best="error", rule="less")}
    whole = toy_runner(str(tmp_path / "whole"), hooks=best, **loop)
    whole.train()
    hooks = {"checkpoint": CheckpointHook(save_best="error", rule="less"), "stop": StopInVal(number)}
    killed = toy_runner(str(tmp_path / "killed"), hooks=hooks, **loop)
    killed.interrupt_saves = True
    with pytest.raises(SystemExit) as stop:
        killed.train()
    assert stop.value.code == (130 if number == signal.SIGINT else 143)
    assert killed.hooks["stop"].counts == [5, 2]
    assert killed.num_iters_completed == 10
    hooks = {"checkpoint": CheckpointHook(save_best="error", rule="less"), "stop": StopInVal(number, 99)}
    resumed = toy_runner(str(tmp_path / "killed"), hooks=hooks, resume=True, **loop)
    resumed.train()
    assert resumed.hooks["stop"].counts == [5, 5]  # the one that was cut off, and the last
    assert equal(whole, resumed)
    assert whole.hooks["checkpoint"].best.scores == resumed.hooks["checkpoint"].best.scores


class Talk(Hook):
    """Logs through the current logger, and lets another runner train meanwhile."""

    def __init__(self, name: str, other=None) -> None:
        self.name, self.other = name, other

    def after_train_epoch(self, runner):
        print_log(f"{self.name} speaks", "current")
        if self.other is not None:
            self.other.train()
        print_log(f"{self.name} spoke", "current")
        MessageHub.get_current_instance().update_info("speaker", self.name)


def text_of(folder: Path) -> str:
    return next(folder.glob("*/*.log")).read_text()


@pytest.mark.seam(7, "nested runner", "clipping", "log", "hub")
def test_each_runner_writes_into_its_own_log_and_hub(tmp_path):
    def build(name, other=None):
        runner = toy_runner(str(tmp_path / name), max_epochs=1, hooks={"talk": Talk(name, other)})
        wrapper = type(runner.optim_wrapper)(
            torch.optim.SGD(runner.model.parameters(), lr=0.01), clip_grad={"max_norm": 0.5 if other else 5.0}
        )
        runner.optim_wrapper, runner._parts["param_schedulers"] = wrapper, None
        return runner

    inner = build("inner")
    inner.setup()  # made first, or last: neither counts
    outer = build("outer", inner)
    outer.train()
    assert "inner" not in text_of(tmp_path / "outer").replace("inner/", "")
    assert "inner speaks" in text_of(tmp_path / "inner")
    assert "inner spoke" in text_of(tmp_path / "inner")
    assert "outer spoke" in text_of(tmp_path / "outer")
    assert "outer sp" not in text_of(tmp_path / "inner")
    assert (outer.message_hub.get_info("speaker"), inner.message_hub.get_info("speaker")) == ("outer", "inner")
    norms = [runner.message_hub.get_scalar("train/grad_norm").data[1].sum() for runner in (outer, inner)]
    assert all(norm == 5 for norm in norms)  # five updates each


@pytest.mark.seam(7, "many runs", "val")
def test_runs_leave_no_files_open(tmp_path):
    def run(i: int) -> None:
        runner = toy_runner(str(tmp_path / str(i)), max_epochs=1)
        runner.train()
        runner.val()

    run(0)
    num_open = len(os.listdir("/proc/self/fd"))
    instances = len(MMLogger._instances), len(MessageHub._instances)
    for i in range(1, 8):
        run(i)
    assert len(os.listdir("/proc/self/fd")) == num_open
    assert (len(MMLogger._instances), len(MessageHub._instances)) == instances

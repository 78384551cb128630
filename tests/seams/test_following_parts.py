"""Row 2: a part that acts through another one is refused where that one is missing, or never acts."""

from __future__ import annotations

import re

import pytest

from lazyengine.dataset import DataLoader
from lazyengine.errors import UsageError
from lazyengine.hooks import (
    CheckpointHook,
    EarlyStoppingHook,
    EMAHook,
    Hook,
    LoggerHook,
    ParamSchedulerHook,
    UnfreezeHook,
)
from lazyengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, OptimWrapperDict, ReduceOnPlateauLR
from lazyengine.runner import ValLoop

from ..runner.toy import MeanError, ToyData, toy_runner

LOOPS = [pytest.param({}, id="epoch"), pytest.param({"max_iters": 10, "val_interval": 5}, id="iteration")]


def with_hooks(tmp_path, hooks, **kwargs):
    """Return a runner with these hooks and no others."""
    runner = toy_runner(str(tmp_path), **kwargs)
    runner._parts["hooks"] = hooks
    return runner


@pytest.mark.seam(2, "epoch", "iteration", "single")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("hooks", [{}, {"checkpoint": CheckpointHook()}, [CheckpointHook()]])
def test_schedules_that_nothing_steps_are_refused(tmp_path, loop, hooks):
    runner = with_hooks(tmp_path, hooks, **loop)
    with pytest.raises(UsageError, match=r"nothing steps CosineAnnealingLR, LinearLR.*Add ParamSchedulerHook\(\)") as e:
        runner.train()
    assert isinstance(e.value, ValueError)
    assert runner.num_iters_completed == 0


@pytest.mark.seam(2, "epoch", "several")
def test_of_several_optimizers_too(tmp_path):
    runner = toy_runner(str(tmp_path))
    wrapper = runner.optim_wrapper
    runner._parts["hooks"] = {}
    runner.optim_wrapper = OptimWrapperDict(net=wrapper)
    runner._parts["param_schedulers"] = {"net": [LinearLR(wrapper.optimizer, end=4, by_epoch=False)]}
    with pytest.raises(UsageError, match="nothing steps LinearLR"):
        runner.train()


@pytest.mark.seam(2, "epoch", "single")
def test_a_hook_that_says_so_may_step_them(tmp_path):
    class Own(Hook):
        steps_schedulers = True

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            for scheduler in runner.param_schedulers:
                scheduler.step()

    runner = with_hooks(tmp_path, {"own": Own()}, max_epochs=1)
    runner.train()
    assert runner.param_schedulers[0].state_dict()["_global_step"] == 5


FOLLOWERS = {
    "best": (lambda: {"checkpoint": CheckpointHook(save_best="error")}, r"CheckpointHook \(.*best error"),
    "early": (lambda: {"early": EarlyStoppingHook("error")}, r"EarlyStoppingHook \(watches error"),
}


@pytest.mark.seam(2, "epoch", "iteration", "no val_loop", "val_interval=0")
@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["no loop", "never due", "begins too late"])
def test_what_follows_a_metric_without_a_validation_is_refused(tmp_path, follower, loop, how):
    make, message = FOLLOWERS[follower]
    runner = with_hooks(tmp_path, {**make(), "step": ParamSchedulerHook()}, **loop)
    if how == "no loop":
        runner._parts["val_loop"] = None
        runner.__dict__.pop("val_loop", None)
    elif how == "never due":
        runner.train_loop.val_interval = 0
    else:
        runner.train_loop.val_begin = 1000
    with pytest.raises(UsageError, match=message + ".*nothing ever validates"):
        runner.train()


@pytest.mark.seam(2, "epoch", "iteration", "plateau")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_plateau_without_a_validation_is_refused(tmp_path, loop):
    runner = toy_runner(str(tmp_path), **loop)
    runner._parts["val_loop"] = None
    runner._parts["param_schedulers"] = [ReduceOnPlateauLR(runner.optim_wrapper, monitor="loss")]
    with pytest.raises(UsageError, match="ReduceOnPlateauLR follows a metric"):
        runner.train()


@pytest.mark.seam(2, "epoch", "own hook")
def test_a_hook_that_evaluates_by_itself_counts(tmp_path):
    class Validates(Hook):
        evaluates = True

    hooks = {"early": EarlyStoppingHook("error"), "own": Validates(), "step": ParamSchedulerHook()}
    runner = with_hooks(tmp_path, hooks, max_epochs=1)
    runner._parts["val_loop"] = None
    runner.train()
    assert runner.num_iters_completed == 5


@pytest.mark.seam(2, "epoch", "log")
def test_the_automatic_best_is_one_line_and_a_run_that_saves_nothing_is_warned_of(tmp_path):
    runner = with_hooks(tmp_path, {"checkpoint": CheckpointHook(save_best="auto"), "step": ParamSchedulerHook()})
    runner._parts["val_loop"] = None
    runner.train()
    text = next(tmp_path.glob("*/*.log")).read_text()
    assert text.count("save_best='auto' of CheckpointHook: nothing validates") == 1
    other = tmp_path / "other"
    runner = with_hooks(other, {"step": ParamSchedulerHook()}, max_epochs=1)
    runner.train()
    assert "no hook saves a checkpoint" in next(other.glob("*/*.log")).read_text()


@pytest.mark.seam(2, "epoch", "iteration", "single")
@pytest.mark.parametrize("loop", LOOPS)
def test_schedules_that_two_hooks_step_are_refused(tmp_path, loop):
    runner = with_hooks(tmp_path, {"first": ParamSchedulerHook(), "second": ParamSchedulerHook()}, **loop)
    with pytest.raises(UsageError, match="first, second each step all schedulers, 2 times"):
        runner.train()
    runner = with_hooks(tmp_path / "none", {"first": ParamSchedulerHook(), "second": ParamSchedulerHook()}, **loop)
    runner._parts["param_schedulers"] = None
    runner.train()


def log_of(runner):
    with open(runner.folder.log_file) as file:
        return file.read()


@pytest.mark.seam(2, "epoch", "single")
def test_an_accumulation_beyond_the_run_is_said(tmp_path):
    for counts, is_said in ((3, False), (5, False), (6, True)):
        runner = toy_runner(str(tmp_path / str(counts)), max_epochs=1, accumulative_counts=counts)
        runner.train()
        assert ("the optimizer steps once, at the end" in log_of(runner)) == is_said


@pytest.mark.seam(2, "epoch", "single")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda o: CosineAnnealingLR(o, T_max=500, by_epoch=False), "after 5 steps: T_max=500"),
        (lambda o: MultiStepLR(o, milestones=[1, 80]), "after 1 epochs: milestones=[1, 80]"),
        (lambda o: LinearLR(o, end=500), "after 1 epochs: end=500"),
        (lambda o: CosineAnnealingLR(o, T_max=5, begin=2, by_epoch=False), ""),
        (lambda o: LinearLR(o, end=5, by_epoch=False), ""),
    ],
)
def test_a_schedule_that_the_run_cuts_off_is_said(tmp_path, make, said):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner._parts["param_schedulers"] = [make(runner.optim_wrapper.optimizer)]
    runner.train()
    text = log_of(runner)
    assert said in text
    assert ("has not come to its end" in text) == bool(said)


@pytest.mark.seam(2, "epoch", "single")
def test_samples_that_a_validation_leaves_out_are_said_once(tmp_path):
    for n, is_said in ((10, 1), (8, 0)):
        runner = toy_runner(str(tmp_path / str(n)), max_epochs=2)
        runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(n), 4, drop_last=True), MeanError())
        runner.train()
        assert log_of(runner).count("the val loader leaves 2 of 10 samples out of the metrics") == is_said


@pytest.mark.seam(2, "single")
def test_metrics_of_two_loaders_by_one_name_are_refused(tmp_path):
    runner = toy_runner(str(tmp_path))
    loaders = {name: DataLoader(ToyData(8), 4) for name in ("a", "a/b")}
    runner._parts["val_loop"] = ValLoop(loaders, {"a": MeanError(prefix="b"), "a/b": MeanError()})
    with pytest.raises(UsageError, match=r"\['a/b/error'\] of the loader 'a/b'"):
        runner.val()


@pytest.mark.parametrize("names", [["first", "second"], ["ema", "of_the_head", "slow"]])
def test_several_averages_are_refused_whose_checkpoints_nothing_could_go_on_from(tmp_path, names):
    runner = toy_runner(str(tmp_path), hooks={name: EMAHook(momentum=0.1) for name in names}, max_epochs=1)
    with pytest.raises(UsageError, match=f"hooks: .*{names[0]}.* each exchange their average into the model"):
        runner.train()


class Failing(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise ZeroDivisionError


KEEPING = {
    "hooks['ema']": lambda: EMAHook(momentum=0.1),
    "hooks['early']": lambda: EarlyStoppingHook("error", rule="greater", patience=1),
    "hooks['checkpoint']": lambda: CheckpointHook(save_best="error", rule="less"),
    "hooks['unfreeze']": lambda: UnfreezeHook(1, ["net.0"]),
}


@pytest.mark.parametrize("name", KEEPING)
def test_a_hook_that_keeps_what_it_found_in_one_runner_is_refused_in_the_next(tmp_path, name):
    hooks = {name[7:-2]: KEEPING[name](), "step": ParamSchedulerHook(), "logger": LoggerHook()}
    untrained = with_hooks(tmp_path / "a", hooks, max_epochs=2)
    untrained._parts["optim_wrapper"] = None
    with pytest.raises(UsageError, match="without optim_wrapper"):
        untrained.train()
    with pytest.raises(ZeroDivisionError):  # before its first iteration is done
        with_hooks(tmp_path / "failed", {**hooks, "failing": Failing()}, max_epochs=2).train()
    with_hooks(tmp_path / "b", hooks, max_epochs=2).train()
    with pytest.raises(UsageError, match=re.escape(name) + ".* has trained in another runner"):
        with_hooks(tmp_path / "c", hooks, max_epochs=2).train()
    if name != "hooks['checkpoint']":
        return
    resumed = with_hooks(tmp_path / "b", hooks, max_epochs=3, resume=True)  # which has its state from the file
    resumed.train()
    assert resumed.epoch == 3


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_has_come_to_its_end_in_another_runner_is_refused(tmp_path, loop):
    first = toy_runner(str(tmp_path / "a"), **loop)
    first.train()
    first.train()  # of the same runner: nothing is left
    second = toy_runner(str(tmp_path / "b"), **loop)
    second._parts["train_loop"] = first.train_loop
    with pytest.raises(UsageError, match=r"train_loop: this .*TrainLoop has trained in another runner"):
        second.train()
    assert not list((tmp_path / "b").glob("*.pth"))

"""What the hooks write down while a run goes on: runtime information, times, log lines, learning rates, epochs."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lazyengine.dataset import DataLoader
from lazyengine.hooks import CheckpointHook, Hook, LoggerHook, iter_timer_hook
from lazyengine.logging import read_metrics
from lazyengine.optim import OptimWrapper, OptimWrapperDict, ReduceOnPlateauLR, StepLR
from lazyengine.runner import ValLoop

from ..runner.toy import MeanError, StopAt, ToyData, ToyModel, toy_runner


class Note(Hook):
    """Notes something at a point, after all others."""

    priority = "LOWEST"

    def __init__(self, point: str, what) -> None:
        self.seen: list[Any] = []
        setattr(self, point, lambda runner, *args, **kwargs: self.seen.append(what(runner)))


def optimizer_of(runner):
    """The optimizer at the learning rate of 0.01, freed from the toy's own schedulers."""
    for group in runner.optim_wrapper.param_groups:
        group["lr"] = group["initial_lr"] = 0.01
    return runner.optim_wrapper


def log_of(runner) -> str:
    return Path(runner.log_dir, f"{runner.timestamp}.log").read_text()


def test_the_stage_comes_back_after_a_validation_nested_in_training(tmp_path):
    points = ("before_train_iter", "before_val_iter", "after_train_epoch", "before_train_epoch", "after_run")
    notes = {point: Note(point, lambda runner: runner.message_hub.get_info("loop_stage")) for point in points}
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks=dict(notes))
    runner.train()
    assert {point: set(note.seen) for point, note in notes.items()} == {
        "before_train_iter": {"train"},
        "before_val_iter": {"val"},
        "after_train_epoch": {"train"},
        "before_train_epoch": {"train"},
        "after_run": {None},
    }


def test_runtime_information_and_scalars_of_a_run(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=2, experiment_name="toy", seed=3)
    runner.train()
    hub = runner.message_hub
    info = {key: hub.get_info(key) for key in ("experiment_name", "seed", "epoch", "iter", "max_epochs", "max_iters")}
    assert info == {"experiment_name": "toy", "seed": 3, "epoch": 1, "iter": 9, "max_epochs": 2, "max_iters": 10}
    assert hub.get_info("dataset_meta") == {"name": "toy"}
    counts = {key: len(buffer) for key, buffer in hub.log_scalars.items() if "time" not in key}
    assert counts == {"train/lr": 10, "train/loss": 10, "val/error": 2}


def test_metrics_that_are_no_scalars_are_kept_as_information(tmp_path):
    runner = toy_runner(str(tmp_path))
    runner.setup()
    runner.call_hook("after_val_epoch", metrics={"matrix": [[1, 2]], "error": 0.5})
    assert runner.message_hub.get_info("val/matrix") == [[1, 2]]
    assert runner.message_hub.get_scalar("val/error").current() == 0.5


def test_eta_is_the_mean_time_of_this_start_times_the_iterations_left(tmp_path, monkeypatch):
    """A clock that moves on by a second whenever it is read: twice in an iteration."""
    clock = iter(range(10_000))
    monkeypatch.setattr(iter_timer_hook.time, "perf_counter", lambda: next(clock))
    note = Note("after_train_iter", lambda runner: runner.message_hub.get_info("eta"))
    # Only the timer reads this clock: the logger and the bar are left out.
    runner = toy_runner(str(tmp_path), max_epochs=2, val_interval=0, hooks={"note": note})
    for name in ("logger", "progress_bar"):
        runner._parts["hooks"].pop(name)
    runner.train()
    assert note.seen == [2 * (10 - done) for done in range(1, 11)]
    values = [runner.message_hub.get_scalar(f"train/{name}").data[0].tolist() for name in ("time", "data_time")]
    assert values == [[2] * 10, [1] * 10]


def test_a_validation_is_no_part_of_the_next_iterations_time(tmp_path, monkeypatch):
    class Slow(Hook):
        def after_val_epoch(self, runner, metrics=None):
            clock[0] += 1000

    clock = [0.0]
    monkeypatch.setattr(iter_timer_hook.time, "perf_counter", lambda: clock[0])
    runner = toy_runner(str(tmp_path), max_iters=6, val_interval=2, hooks={"slow": Slow()})
    runner.train()
    assert runner.message_hub.get_scalar("train/time").data[0].tolist() == [0.0] * 6


@pytest.mark.parametrize(("ignore_last", "steps"), [(True, [3, 8]), (False, [3, 5, 8, 10])])
def test_lines_are_counted_within_the_epoch(tmp_path, ignore_last, steps):
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks={"logger": LoggerHook(3, ignore_last=ignore_last)})
    runner.train()
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records if r["mode"] == "train"] == steps
    assert [(r["step"], r["epoch"]) for r in records if r["mode"] == "val"] == [(5, 1), (10, 2)]
    assert re.findall(r"Epoch\(train\)\s*(\[\d\]\[\d/5\])", log_of(runner))[0] == "[1][3/5]"


def test_lines_are_counted_through_in_a_loop_of_iterations(tmp_path):
    runner = toy_runner(str(tmp_path), max_iters=12, val_interval=6, hooks={"logger": LoggerHook(4)})
    runner.train()
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records if r["mode"] == "train"] == [4, 8, 12]
    assert [r["step"] for r in records if r["mode"] == "val"] == [6, 12]


def test_the_final_table_sums_the_run_up(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=2)
    runner.train()
    table = log_of(runner).rpartition("done\n")[2]
    assert str(tmp_path) in table
    assert re.search(r"trained +2 epochs, 10 iterations", table)
    assert re.search(rf"val/error \(epoch 2\) +{runner.message_hub.get_scalar('val/error').current():.4f}\n", table)


@pytest.mark.parametrize("length", [{"max_iters": 6, "val_interval": 2}, {"max_epochs": 1}])
def test_an_evaluation_says_how_many_iterations_its_weights_are_old(tmp_path, length):
    toy_runner(str(tmp_path), **length).train()
    done = 6 if "max_iters" in length else 5
    (weights,) = [path for path in tmp_path.glob("*.pth") if path.name in (f"iter_{done}.pth", "epoch_1.pth")]
    runner = toy_runner(str(tmp_path), **length)
    runner.val(str(weights))
    table = log_of(runner).rpartition("done\n")[2]
    assert re.search(rf"trained +{done} iterations\n", table)


@pytest.mark.seam(2, "plateau", "epoch", "iteration")
def test_schedulers_step_by_iteration_by_epoch_and_by_metric(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=3)
    optimizer = optimizer_of(runner)
    runner._parts["param_schedulers"] = [
        StepLR(optimizer, 1, gamma=0.5),
        ReduceOnPlateauLR(
            optimizer, monitor="error", rule="less", factor=0.1, threshold=100.0, threshold_rule="abs", patience=0
        ),
    ]
    runner.train()
    # Halved after each epoch; after the second and third validation, which improve too little, also a tenth.
    lrs = runner.message_hub.get_scalar("train/lr").data[0]
    assert lrs.tolist() == pytest.approx([0.01] * 5 + [0.005] * 5 + [0.00025] * 5)


@pytest.mark.seam(3, "accumulation", "schedule")
def test_schedulers_of_an_accumulating_optimizer_count_its_steps(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1, accumulative_counts=2)
    runner._parts["param_schedulers"] = StepLR(optimizer_of(runner), 1, gamma=0.5, by_epoch=False)
    runner.train()
    assert runner.message_hub.get_scalar("train/lr").data[0].tolist() == [0.01, 0.01, 0.005, 0.005, 0.0025]


def test_several_optimizers_have_learning_rates_of_their_own(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    parts = {"first": runner.model.net[0], "last": runner.model.net[3]}
    optimizers = {
        name: torch.optim.SGD(parts[name].parameters(), lr=lr) for name, lr in (("first", 0.1), ("last", 0.2))
    }
    runner._parts["optim_wrapper"] = OptimWrapperDict(**{name: OptimWrapper(o) for name, o in optimizers.items()})
    runner._parts["param_schedulers"] = None
    runner.setup()
    runner.hooks["runtime_info"].before_train(runner)
    runner.hooks["runtime_info"].after_train_iter(runner, 0)
    hub = runner.message_hub
    assert [hub.get_scalar(f"train/{name}.lr").current() for name in parts] == [0.1, 0.2]


def test_every_epoch_has_an_order_of_its_own(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=2)
    runner.train()
    first, second = runner.model.batches[:5], runner.model.batches[5:]
    assert sorted(i for batch in first for i in batch) == list(range(20))
    assert sorted(i for batch in second for i in batch) == list(range(20))
    assert first != second


def test_learning_rates_of_groups_that_differ_are_recorded_by_group(tmp_path):
    runner = toy_runner(str(tmp_path))
    runner.setup()
    first, last = runner.model.net[0], runner.model.net[3]
    groups = [{"params": first.parameters(), "lr": 0.1}, {"params": last.parameters(), "lr": 0.2}]
    runner._parts["optim_wrapper"] = OptimWrapper(torch.optim.SGD(groups, lr=0.1))
    runner.hooks["runtime_info"].before_train(runner)
    runner.hooks["runtime_info"].after_train_iter(runner, 0)
    hub = runner.message_hub
    assert (hub.get_scalar("train/lr").current(), hub.get_scalar("train/lr.1").current()) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("outputs", "error", "said"),
    [
        ({"loss": 1.0, "per_class": torch.zeros(3)}, TypeError, "of which 'per_class' cannot be logged"),
        (torch.zeros(3), AttributeError, "train_step returned tensor([0., 0., 0.]), and no dict"),
    ],
)
def test_what_cannot_be_logged_of_a_step_is_named(tmp_path, outputs, error, said):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner.model.train_step = lambda data, optim_wrapper: outputs
    with pytest.raises(error) as raised:
        runner.train()
    assert any(said in note for note in raised.value.__notes__)


class SetsRates(Hook):
    """A warm-up of one's own, as hooks of other projects have it."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for group in runner.optim_wrapper.param_groups:
            group["lr"] = 0.1 * (runner.iter + 1)


@pytest.mark.parametrize("accumulative_counts", [1, 2])
@pytest.mark.parametrize("priority", [0, 50, 100])
def test_the_rate_that_an_iteration_has_used_is_recorded_whoever_has_set_it(tmp_path, priority, accumulative_counts):
    hooks = {"rates": SetsRates(priority=priority), "logger": LoggerHook(interval=1)}
    runner = toy_runner(str(tmp_path), max_epochs=1, hooks=hooks, accumulative_counts=accumulative_counts)
    runner.train()
    expected = pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert runner.message_hub.get_scalar("train/lr").data[0].tolist() == expected
    assert [record["lr"] for record in read_metrics(tmp_path) if "lr" in record] == expected


class NowAndThen(MeanError):
    """Values that not every evaluation has."""

    number = 0

    def compute_metrics(self, results):
        self.number += 1
        values = {1: {"rare": 1.0, "precision": 0.5}, 2: {"precision": None}, 3: {"rare": 3.0}}
        return {**super().compute_metrics(results), **values.get(self.number, {})}


@pytest.mark.parametrize("loggers", [1, 2])
def test_a_value_that_an_evaluation_did_not_have_is_not_recorded_for_it(tmp_path, loggers):
    def records(folder, kill=None, **kwargs):
        hooks: dict[str, Hook] = {f"logger{i or ''}": LoggerHook() for i in range(loggers)}
        if kill:
            hooks["kill"] = StopAt(kill)
        runner = toy_runner(str(folder), max_epochs=4, hooks=hooks, **kwargs)
        metric = NowAndThen()
        metric.number = 2 if "resume" in kwargs else 0  # the third, before which epoch_3.pth was saved, is repeated
        runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), metric)
        with contextlib.suppress(InterruptedError):
            runner.train()
        found = [r for r in read_metrics(folder) if r["mode"] == "val"]
        return [{name: r[name] for name in ("rare", "precision") if name in r} for r in found[::loggers]]

    expected = [{"rare": 1.0, "precision": 0.5}, {}, {"rare": 3.0}, {}]
    assert records(tmp_path / "whole") == expected
    records(tmp_path / "killed", kill=17)
    assert records(tmp_path / "killed", resume=True) == expected


class TwoLosses(ToyModel):
    """A second loss that ends some time."""

    def train_step(self, data, optim_wrapper):
        outputs = super().train_step(data, optim_wrapper)
        return {**outputs, "aux": 1.0} if len(self.batches) in (1, 6) else outputs


def test_a_loss_that_training_has_no_more_is_in_no_later_line(tmp_path):
    def aux(folder, kill=(), **kwargs):
        hooks: dict[str, Hook] = {"logger": LoggerHook(interval=3), "checkpoint": CheckpointHook(1, by_epoch=False)}
        if kill:
            hooks["kill"] = StopAt(*kill)
        runner = toy_runner(str(folder), max_iters=15, hooks=hooks, **kwargs)
        runner.model.__class__ = TwoLosses
        if "resume" in kwargs:
            runner.model.batches = [[]] * 7
        with contextlib.suppress(InterruptedError):
            runner.train()
        return [r["step"] for r in read_metrics(folder) if "aux" in r]

    assert aux(tmp_path / "whole") == [3, 6]
    aux(tmp_path / "killed", kill=[7])
    assert aux(tmp_path / "killed", resume=True) == [3, 6]

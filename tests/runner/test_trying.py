"""Trying an experiment: a few batches of everything, one batch again and again, a validation before training."""

from __future__ import annotations

import json
import os

import pytest
import torch

from lazyengine.dataset import DataLoader
from lazyengine.evaluator import DumpResults, Evaluator, load_results
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.logging import read_metrics
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop

from .toy import MeanError, StopAt, ToyData, toy_runner


def trained(folder, change=lambda loop: None, **options):
    """Train the toy after a change of its loop; return its runner."""
    runner = toy_runner(str(folder), **options)
    change(runner.train_loop)
    runner.train()
    return runner


def limit_to_two(loop):
    loop.limit, loop.epoch_length = 2, 2


def set_sanity(loop):
    loop.sanity_val = 2


def set_val_begin(loop):
    loop.val_begin = 0


def overfit_on_two(loop):
    loop.overfit = 2


def assert_same_weights(a, b):
    for key, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[key]), key


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("name", ["limit", "overfit"])
def test_a_number_below_one_is_refused(name, number):
    for make in (lambda **o: EpochBasedTrainLoop([0], 1, **o), lambda **o: IterBasedTrainLoop([0], 1, **o)):
        with pytest.raises(ValueError, match=f"{name}={number}: expected a number of batches, at least 1"):
            make(**{name: number})
    with pytest.raises(ValueError, match="sanity_val=-1"):
        EpochBasedTrainLoop([0], 1, sanity_val=-1)
    with pytest.raises(ValueError, match="limit=0"):
        ValLoop([0], MeanError(), limit=0)


def test_a_limit_shortens_the_epoch_for_everyone():
    assert EpochBasedTrainLoop(range(5), 3, limit=2).max_iters == 6
    assert EpochBasedTrainLoop(range(5), 3, limit=9).max_iters == 15
    assert IterBasedTrainLoop(range(5), 3, limit=2).epoch_length == 2
    assert IterBasedTrainLoop(iter(range(5)), 3, limit=2).epoch_length == 2  # a stream, whose passes are begun anew


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("max_iters", [None, 6])
def test_a_limited_run_takes_the_first_batches_of_each_pass(tmp_path, max_iters, num_workers):
    whole = trained(tmp_path / "whole").model.batches
    short = trained(tmp_path / "short", limit_to_two, max_iters=max_iters, num_workers=num_workers).model.batches
    assert short == [*whole[0:2], *whole[5:7], *whole[10:12]]


@pytest.mark.parametrize("max_iters", [None, 6])
@pytest.mark.parametrize("change", [limit_to_two, overfit_on_two])
def test_a_limited_run_resumes_to_the_bit(tmp_path, change, max_iters):
    expected = trained(tmp_path / "whole", change, max_iters=max_iters)
    hooks = {"checkpoint": CheckpointHook(interval=1, by_epoch=False)}
    with pytest.raises(InterruptedError):
        trained(tmp_path / "cut", change, max_iters=max_iters, hooks={**hooks, "stop": StopAt(3)})
    resumed = trained(tmp_path / "cut", change, max_iters=max_iters, hooks=hooks, resume=True)
    assert_same_weights(expected, resumed)


def test_a_limited_validation_shows_its_length_and_counts_what_it_saw(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner.val_loop.limit = 2
    seen = []

    class Count(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(len(outputs["error"]))

    runner._parts["hooks"]["count"] = Count()
    runner.train()
    assert seen == [4, 4]
    assert runner.num_batches("val") == 2
    log = (tmp_path / runner.timestamp / f"{runner.timestamp}.log").read_text()
    assert "[1][2/2]" in log


def test_overfitting_repeats_the_first_batches_as_they_were(tmp_path):
    runner = trained(tmp_path, overfit_on_two, max_epochs=2)
    first, second = runner.model.batches[:2]
    assert runner.model.batches == [first, second, first, second, first] * 2


@pytest.mark.parametrize("max_iters", [None, 6])
@pytest.mark.parametrize(("change", "exact_resume"), [(set_sanity, True), (set_sanity, False), (set_val_begin, True)])
def test_a_validation_before_training_leaves_its_bits(tmp_path, change, max_iters, exact_resume):
    options = {"max_iters": max_iters, "exact_resume": exact_resume}
    assert_same_weights(trained(tmp_path / "a", **options), trained(tmp_path / "b", change, **options))


def test_a_sanity_validation_records_nothing_and_calls_no_hook(tmp_path):
    calls = []

    class Note(Hook):
        def before_val(self, runner):
            calls.append(runner.iter)

    runner = trained(tmp_path, set_sanity, hooks={"note": Note(), "checkpoint": CheckpointHook(save_best="error")})
    assert calls == [5, 10, 15]
    assert [record["step"] for record in read_metrics(tmp_path) if record["mode"] == "val"] == [5, 10, 15]
    assert not [name for name in os.listdir(tmp_path) if "best" in name and "epoch_0" in name]
    assert "sanity_val: 2 batches" in (tmp_path / runner.timestamp / f"{runner.timestamp}.log").read_text()


def test_a_sanity_validation_finds_a_mistake_before_the_first_iteration(tmp_path):
    class Broken(MeanError):
        def compute_metrics(self, results):
            raise ZeroDivisionError("nobody thought of this")

    runner = toy_runner(str(tmp_path))
    runner.val_loop.evaluators = {"": Evaluator([Broken()])}
    set_sanity(runner.train_loop)
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert runner.iter == 0


def test_a_sanity_validation_writes_no_file_of_a_metric(tmp_path):
    """Predictions of two batches would stand in the place of a whole evaluation's, if training ended before one."""
    path = tmp_path / "y.jsonl"
    path.write_text("of another run\n")

    class Look(Hook):
        def before_train_epoch(self, runner):
            seen.append(path.read_text())

    seen = []
    runner = toy_runner(str(tmp_path / "run"), max_epochs=1, hooks={"look": Look()})
    runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), [MeanError(), DumpResults(path)])
    set_sanity(runner.train_loop)
    runner.train()
    assert seen == ["of another run\n"]
    assert len(load_results(path)) == 20


def test_a_resumed_run_does_not_try_its_validation_again(tmp_path):
    trained(tmp_path, set_sanity, max_epochs=1)
    runner = trained(tmp_path, set_sanity, max_epochs=2, resume=True)
    assert "sanity_val" not in (tmp_path / runner.timestamp / f"{runner.timestamp}.log").read_text()


def test_val_begin_zero_is_recorded_at_step_zero(tmp_path):
    trained(tmp_path, set_val_begin, hooks={"checkpoint": CheckpointHook(save_best="error", rule="less")})
    records = [record for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert [record["step"] for record in records] == [0, 5, 10, 15]
    assert json.dumps(records)  # plain values


def test_several_validation_loaders_are_all_tried(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    loop = ValLoop(
        {"a": DataLoader(ToyData(20), 4), "b": DataLoader(ToyData(6), 4)}, {"a": MeanError(), "b": MeanError()}
    )
    runner.__dict__["val_loop"] = loop
    set_sanity(runner.train_loop)
    runner.train()
    assert runner.num_batches("val") == 7

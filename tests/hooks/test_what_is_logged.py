"""The log shows training: short epochs, every kind of number, every learning rate, evaluations at their own step."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lazyengine.evaluator import BaseMetric
from lazyengine.hooks import Hook, IterTimerHook, LoggerHook, RuntimeInfoHook, iter_timer_hook
from lazyengine.logging import MessageHub, MMLogger, read_metrics
from lazyengine.optim import OptimWrapper, OptimWrapperDict
from lazyengine.runner import ValLoop

from ..runner.toy import ToyModel, toy_runner


class At(Hook):
    """Does something at a point, after or before all others."""

    def __init__(self, point: str, what, priority: str = "LOWEST") -> None:
        self.priority = priority
        setattr(self, point, lambda runner, *args, **kwargs: what(runner))


def log_of(runner) -> str:
    return Path(runner.log_dir, f"{runner.timestamp}.log").read_text()


def steps_of(folder, mode: str) -> list[int]:
    return [record["step"] for record in read_metrics(folder) if record["mode"] == mode]


# ---------------------------------------------------------------- short epochs, short trainings


@pytest.mark.seam(18, "short epoch", "ignore_last")
@pytest.mark.parametrize("ignore_last", [True, False])
@pytest.mark.parametrize(
    ("interval", "with_ignored", "with_all"),
    [(10, [5, 10], [5, 10]), (5, [5, 10], [5, 10]), (4, [4, 9], [4, 5, 9, 10])],
)
def test_an_epoch_shorter_than_the_interval_has_a_line_at_its_end(
    tmp_path, interval, with_ignored, with_all, ignore_last
):
    logger = LoggerHook(interval, ignore_last=ignore_last)
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks={"logger": logger})
    runner.train()
    assert steps_of(tmp_path, "train") == (with_ignored if ignore_last else with_all)
    assert logger.last_values["loss"] > 0


@pytest.mark.seam(18, "iteration")
@pytest.mark.parametrize(("max_iters", "steps"), [(3, [3]), (7, [7]), (10, [10]), (12, [10])])
def test_a_training_by_iterations_that_ends_before_a_line_is_due_has_one(tmp_path, max_iters, steps):
    runner = toy_runner(str(tmp_path), max_iters=max_iters, val_interval=0)
    runner.train()
    assert steps_of(tmp_path, "train") == steps
    assert f"Iter(train) [{str(steps[-1]).rjust(len(str(max_iters)))}/{max_iters}]" in log_of(runner)


@pytest.mark.seam(18, "stopped early")
def test_so_has_one_that_is_stopped_early(tmp_path):
    def stop(runner):
        runner.train_loop.stop_training = runner.iter + 1 == 4

    runner = toy_runner(str(tmp_path), max_iters=50, val_interval=0, hooks={"stop": At("after_train_iter", stop)})
    runner.train()
    assert steps_of(tmp_path, "train") == [4]


@pytest.mark.parametrize(
    ("point", "resumed"), [("before_train_iter", 4), ("after_train_iter", 4), ("after_val_epoch", 4)]
)
def test_so_has_one_that_is_stopped_in_its_last_iteration_and_resumed(tmp_path, point, resumed):
    def stop(runner):
        if runner.train_loop.position.iter >= resumed - (point == "before_train_iter"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        toy_runner(str(tmp_path), max_iters=4, val_interval=4, hooks={"stop": At(point, stop, "HIGHEST")}).train()
    toy_runner(str(tmp_path), max_iters=4, val_interval=4, resume=True).train()
    assert steps_of(tmp_path, "train") == [4]


# ---------------------------------------------------------------- numbers of all kinds

KINDS = {
    "float32": np.float32(0.25),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "array": np.array([0.25]),
    "matrix": np.array([[0.25]]),
    "tensor": torch.tensor(0.25),
    "one_element": torch.tensor([[3]]),
    "half": torch.tensor(0.25, dtype=torch.bfloat16),
}


class Kinds(BaseMetric):
    default_prefix = None

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples["error"].tolist())

    def compute_metrics(self, results):
        return dict(KINDS)


@pytest.mark.seam(18, "kinds of numbers", "table", "TensorBoard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_of_every_kind_of_number_are_in_every_record(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner._parts["val_loop"] = ValLoop(runner._parts["val_loop"].dataloader, Kinds())
    runner.train()
    expected = {name: float(value.item()) for name, value in KINDS.items()}
    (record,) = [record for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert {name: record[name] for name in KINDS} == expected
    assert {name: runner.message_hub.get_scalar(f"val/{name}").current() for name in KINDS} == expected
    events = EventAccumulator(str(Path(runner.log_dir, "tensorboard"))).Reload()
    assert {name: events.Scalars(f"val/{name}")[0].value for name in KINDS} == expected
    line, table = log_of(runner).rpartition("done\n")[::2]
    for name, value in expected.items():
        assert f"  {name}: {value:.4f}" in line or f"  {name}: {value:.0f}  " in line
        assert any(row.split() == [f"val/{name}", "(epoch", "1)", f"{value:.4f}"] for row in table.splitlines())


@pytest.mark.seam(18, "numbers of NumPy beside the loss", "epoch", "iteration")
@pytest.mark.parametrize("loop", [{"max_epochs": 1}, {"max_iters": 5}])
@pytest.mark.parametrize("number", [np.float32(1.5), np.int64(3), np.float64(2.5)])
def test_a_number_of_numpy_beside_the_loss_is_recorded(tmp_path, loop, number):
    class Beside(ToyModel):
        def forward(self, x, y, index, mode="tensor"):
            output = super().forward(x, y, index, mode)
            return {**output, "beside": number} if mode == "loss" else output

    runner = toy_runner(str(tmp_path), **loop)
    runner.model.__class__ = Beside
    runner.train()
    assert {record["beside"] for record in read_metrics(tmp_path) if "beside" in record} == {float(number)}


# ---------------------------------------------------------------- learning rates


def groups_of(model: ToyModel, *lrs: Any) -> list[dict[str, Any]]:
    return [{"params": part.parameters(), "lr": lr} for part, lr in zip((model.net[0], model.net[3]), lrs)]


def run_with_lrs(tmp_path, lrs_by_iter: list[tuple[float, float]], tensor: bool, several: bool):
    """Train with the rates of two groups, set before each iteration; returns the records by step."""

    def set_rates(runner):
        for i, group in enumerate(optimizer.param_groups):
            value = lrs_by_iter[runner.iter][i]
            if tensor:
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    hooks: dict[str, Hook] = {"set": At("before_train_iter", set_rates, "HIGHEST"), "logger": LoggerHook(1)}
    runner = toy_runner(str(tmp_path), max_iters=len(lrs_by_iter), val_interval=0, hooks=hooks)
    lrs = [torch.tensor(lr) if tensor else lr for lr in lrs_by_iter[0]]
    optimizer = torch.optim.AdamW(groups_of(runner.model, *lrs), foreach=not tensor, capturable=False)
    wrapper = OptimWrapper(optimizer)
    runner._parts["optim_wrapper"] = OptimWrapperDict(main=wrapper) if several else wrapper
    runner._parts["param_schedulers"] = None
    if several:
        runner.model.train_step = lambda data, wrappers: ToyModel.train_step(runner.model, data, wrappers["main"])
    runner.train()
    return [record for record in read_metrics(tmp_path) if record["mode"] == "train"]


@pytest.mark.seam(18, "groups", "several optimizers", "tensors")
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_the_rate_of_a_group_is_recorded_whenever_it_changes(tmp_path, tensor, several):
    rates = [(0.5, 0.5), (0.5, 0.25), (0.125, 0.125), (0.125, 0.125), (0.125, 0.5)]
    records = run_with_lrs(tmp_path, rates, tensor, several)
    name = "main.lr" if several else "lr"
    assert [record[name] for record in records] == [first for first, _ in rates]
    seen = [record.get(f"{name}.1") for record in records]
    assert seen[1:] == [second for _, second in rates[1:]]
    assert seen[0] in (None, 0.5)


# ---------------------------------------------------------------- evaluations within training


@pytest.mark.seam(18, "evaluation by a hook", "epoch", "iteration")
@pytest.mark.parametrize("by_iter", [False, True])
@pytest.mark.parametrize("priority", ["VERY_HIGH", "LOWEST"])
def test_an_evaluation_in_mid_epoch_stands_at_its_own_step(tmp_path, by_iter, priority):
    def evaluate(runner):
        if runner.iter + 1 in (2, 7):
            runner.val_loop.run(runner)

    hooks = {"evaluate": At("after_train_iter", evaluate, priority), "logger": LoggerHook(1)}
    length: dict[str, int] = {"max_iters": 10} if by_iter else {"max_epochs": 2}
    runner = toy_runner(str(tmp_path), val_interval=5 if by_iter else 1, hooks=hooks, **length)
    runner.train()
    assert steps_of(tmp_path, "val") == [2, 5, 7, 10]
    assert steps_of(tmp_path, "train") == list(range(1, 11))


class Failing(ValLoop):
    """Fails in its second batch."""

    def run_iter(self, runner, batch_idx, data_batch):
        super().run_iter(runner, batch_idx, data_batch)
        if batch_idx == 1:
            raise InterruptedError("evaluation")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("point", ["after_train_iter", "before_train_iter", "after_train_epoch"])
def test_an_evaluation_by_a_hook_leaves_stage_and_eta_of_training(tmp_path, fails, point):
    seen = []

    def evaluate(runner):
        before = runner.message_hub.get_info("loop_stage"), runner.message_hub.get_info("eta")
        loop = (Failing if fails else ValLoop)(runner.val_loop.dataloader, runner.val_loop.evaluators[""])
        with contextlib.suppress(InterruptedError):
            loop.run(runner)
        seen.append(before == (runner.message_hub.get_info("loop_stage"), runner.message_hub.get_info("eta")))

    runner = toy_runner(str(tmp_path), max_epochs=1, hooks={"evaluate": At(point, evaluate)})
    runner.train()
    assert seen
    assert all(seen)
    assert runner.message_hub.get_info("loop_stage") is None


@pytest.mark.parametrize("priority", ["VERY_HIGH", "LOWEST"])
def test_an_evaluation_by_a_hook_is_no_part_of_the_times_of_training(tmp_path, monkeypatch, priority):
    clock = [0.0]

    def evaluate(runner):
        runner.val_loop.run(runner)

    def work(runner):
        clock[0] += 1.0

    def slow(runner):
        clock[0] += 1000.0

    hooks = {
        "evaluate": At("after_train_iter", evaluate, priority),
        "work": At("before_train_iter", work),
        "slow": At("after_val_epoch", slow),
    }
    monkeypatch.setattr(iter_timer_hook.time, "perf_counter", lambda: clock[0])
    runner = toy_runner(str(tmp_path), max_epochs=1, hooks=hooks)
    runner.train()
    hub = runner.message_hub
    assert hub.get_scalar("train/time").data[0].tolist() == [1.0] * 5
    assert hub.get_scalar("train/data_time").data[0].tolist() == [0.0] * 5


def test_a_second_start_shows_nothing_of_the_first(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner.train()
    runner.hooks["logger"].last_values["loss"] = "old"
    runner.call_hook("before_run")
    runner.call_hook("before_train")
    assert runner.hooks["logger"].last_values == {}
    runner.call_hook("after_run")
    assert "val/error" not in log_of(runner).rpartition("done\n")[2]
    assert runner.message_hub.get_info("loop_stage") == "train"
    runner.logger.close()  # no run was there to do it


class Stream:
    """A loader that does not know how many batches it has."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.seam(18, "loader without a length")
def test_an_evaluation_over_a_loader_without_a_length_has_no_eta_and_does_not_fail(tmp_path):
    runner = toy_runner(str(tmp_path))
    val_loop = runner._parts["val_loop"]
    batches = list(val_loop.dataloader)
    val_loop.dataloader = Stream(batches)
    assert runner.val()["error"] > 0
    assert runner.message_hub.get_info("eta") is None


# ---------------------------------------------------------------- hooks that are left out


@pytest.mark.seam(18, "hooks left out")
@pytest.mark.parametrize(
    ("left_out", "kind"), [("runtime_info", RuntimeInfoHook), ("timer", IterTimerHook), (None, None)]
)
def test_what_is_not_recorded_is_said(tmp_path, left_out, kind):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner._parts["hooks"].pop(left_out, None)
    runner.train()
    said = [line for line in log_of(runner).splitlines() if "among the hooks" in line]
    assert len(said) == (left_out is not None)
    if kind is not None:
        assert kind.__name__ in said[0]
    assert steps_of(tmp_path, "train") == [5]


def test_the_newest_runner_does_not_get_what_another_one_records(tmp_path):
    """As the running runner does it: it enters its own."""
    first = toy_runner(str(tmp_path / "first"), max_epochs=1)
    first.setup()
    second = toy_runner(str(tmp_path / "second"), max_epochs=1)
    second.setup()
    with first.logger.as_current(), first.message_hub.as_current():
        assert MMLogger.get_current_instance() is first.logger
        assert MessageHub.get_current_instance() is first.message_hub
    assert MMLogger.get_current_instance() is second.logger

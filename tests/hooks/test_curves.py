"""One run in several starts: its curve is one in every backend."""

from __future__ import annotations

import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lazyengine.hooks import CheckpointHook, EarlyStoppingHook, Hook, LoggerHook
from lazyengine.logging import read_metrics
from lazyengine.optim import ReduceOnPlateauLR
from lazyengine.runner import Runner
from lazyengine.runs.reading import MEASURED, PLACE

from ..runner.toy import toy_runner


class Die(Hook):
    """Ends the process, as far as the run can tell, at a point of iteration `iteration`."""

    priority = "LOWEST"

    def __init__(self, iteration: int, point: str = "after_train_iter") -> None:
        self.iteration = iteration
        setattr(self, point, self._die)

    def _die(self, runner, batch_idx=None, data_batch=None, outputs=None, metrics=None):
        if runner.iter + (metrics is None and outputs is not None) >= self.iteration:
            raise InterruptedError("killed")


def start(folder, *, die: Hook | None = None, **kwargs) -> Runner:
    """One start of a run of 5 epochs of 5 iterations, which logs every iteration."""
    hooks = {"logger": LoggerHook(interval=1), "checkpoint": CheckpointHook()}
    hooks.update({"die": die} if die else {})
    runner = toy_runner(str(folder), max_epochs=5, hooks=hooks, resume=True, **kwargs)
    if die is None:
        runner.train()
    else:
        with pytest.raises(InterruptedError):
            runner.train()
    return runner


def curves_of(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, whose starts write in one folder."""
    (events,) = [os.path.join(root, "tensorboard") for root, names, _ in os.walk(folder) if "tensorboard" in names]
    accumulator = EventAccumulator(events).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in ("train/loss", "train/lr", "val/error")
    }


def measured_left_out(records):
    kept = ({k: v for k, v in each.items() if k.rpartition("/")[2] not in MEASURED} for each in records)
    return [each for each in kept if each.keys() - PLACE]


def test_a_run_resumed_three_times_has_one_continuous_curve_in_every_backend(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start(whole)
    start(cut, die=Die(8))  # in the second epoch: begins again after 5
    start(cut, die=Die(15, "after_val_epoch"))  # with the validation of the third epoch recorded: it is repeated
    start(cut, die=Die(21))  # early in the fifth epoch: begins again after 20
    start(cut)
    expected = curves_of(whole)
    assert [step for step, _ in expected["train/loss"]] == list(range(1, 26))
    assert [step for step, _ in expected["val/error"]] == [5, 10, 15, 20, 25]
    assert curves_of(cut) == expected
    a, b = (measured_left_out(read_metrics(folder)) for folder in (whole, cut))
    by_position = sorted(b, key=lambda record: (record["step"], record["mode"]))
    assert by_position == sorted(a, key=lambda record: (record["step"], record["mode"]))
    assert sum(record["mode"] == "val" for record in b) == 5


def test_a_run_resumed_from_its_best_checkpoint_repeats_no_validation(tmp_path):
    """The best is saved within a validation whose metric hooks have already taken."""

    def run(folder, **kwargs):
        hooks: dict[str, Hook] = {
            "stop": EarlyStoppingHook("error", rule="less", patience=2),
            "checkpoint": CheckpointHook(save_best="error", rule="less"),
        }
        runner = toy_runner(str(folder), max_epochs=4, hooks=hooks, **kwargs)
        runner._parts["param_schedulers"].append(
            ReduceOnPlateauLR(runner._parts["optim_wrapper"], monitor="error", rule="less", factor=0.5, patience=0)
        )
        runner.train()
        return runner

    whole = run(tmp_path / "whole")
    best = sorted((tmp_path / "whole").glob("best_*.pth"))[-1]
    resumed = run(tmp_path / "resumed", resume=str(best))
    for key in ("val/error", "train/lr"):
        assert (
            resumed.message_hub.get_scalar(key).data[0].tolist() == whole.message_hub.get_scalar(key).data[0].tolist()
        )
    assert resumed.hooks["stop"].state_dict() == whole.hooks["stop"].state_dict()

"""When training stops early, and that a resumed run stops there too."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lazyengine.errors import UsageError
from lazyengine.hooks import CheckpointHook, EarlyStoppingHook, Hook

from ..runner.toy import toy_runner


def stop_after(values: list[float], **kwargs: Any) -> tuple[int | None, str | None]:
    """Show metrics one by one; return how many it took to stop, and why."""
    hook = EarlyStoppingHook("acc", **kwargs)
    runner: Any = SimpleNamespace(is_training=True, train_loop=SimpleNamespace(stop_training=False))
    runner.logger = SimpleNamespace(info=lambda *args: None, warning=lambda *args: None)
    for number, value in enumerate(values, 1):
        hook.after_val_epoch(runner, {"m/acc": value})
        if runner.train_loop.stop_training:
            return number, hook.reason
    return None, hook.reason


def test_patience_counts_validations_without_an_improvement():
    assert stop_after([0.1, 0.2, 0.2, 0.1, 0.2], patience=2) == (
        4,
        "acc has not been better than 0.2 for 2 validations",
    )
    assert stop_after([0.1, 0.2, 0.1, 0.3, 0.2], patience=2)[0] is None


def test_min_delta_rule_threshold_and_finiteness():
    assert stop_after([0.10, 0.14, 0.16], min_delta=0.05, patience=1)[0] == 2
    assert stop_after([3.0, 2.0, 2.5], rule="less", patience=1)[0] == 3
    assert stop_after([0.5, 0.95], stopping_threshold=0.9)[0] == 2
    assert stop_after([5.0, 0.4], rule="less", stopping_threshold=0.5)[0] == 2
    assert stop_after([0.5, math.nan]) == (2, "acc is nan")
    assert stop_after([0.5, math.nan], check_finite=False)[0] is None


def test_a_missing_metric_is_a_warning_or_an_error():
    warnings = []
    logger = SimpleNamespace(warning=lambda *args: warnings.append(args))
    runner: Any = SimpleNamespace(is_training=True, logger=logger)
    EarlyStoppingHook("acc").after_val_epoch(runner, {"loss": 1.0})
    assert len(warnings) == 1
    with pytest.raises(ValueError, match="no metric is named 'acc'"):
        EarlyStoppingHook("acc", strict=True).after_val_epoch(runner, {"loss": 1.0})
    runner.is_training = False  # a validation alone stops nothing
    EarlyStoppingHook("acc", strict=True).after_val_epoch(runner, {"loss": 1.0})


@pytest.mark.seam(19, "early stopping")
def test_arguments_are_checked_when_they_are_given():
    with pytest.raises(ValueError, match="patience=-1"):
        EarlyStoppingHook("acc", patience=-1)
    with pytest.raises(ValueError, match="a greater or a smaller 'fid' better"):
        EarlyStoppingHook("fid")
    with pytest.raises(UsageError, match=r"'dice_loss' better\? It speaks for both"):
        EarlyStoppingHook("dice_loss")
    with pytest.raises(UsageError, match="rule='min' of 'acc'"):
        EarlyStoppingHook("acc", rule="min")  # type: ignore[arg-type]
    assert EarlyStoppingHook("acc").needs_validation


def test_values_that_are_not_finite_are_no_improvement_and_reach_no_threshold():
    assert stop_after([math.inf, 0.5, 0.6, 0.7], check_finite=False, patience=2) == (None, None)
    assert stop_after([math.inf, math.inf], check_finite=False, patience=2)[0] == 2
    assert stop_after([math.inf, 0.5], check_finite=False, stopping_threshold=0.9)[0] is None
    assert stop_after([-math.inf, 0.5], rule="less", check_finite=False, stopping_threshold=0.1)[0] is None


@pytest.mark.parametrize("by_epoch", [True, False])
def test_the_last_state_is_saved_also_when_the_end_comes_early(tmp_path, by_epoch):
    checkpoint = CheckpointHook(interval=4 if by_epoch else 100, by_epoch=by_epoch)
    stop = EarlyStoppingHook("error", rule="less", patience=2, min_delta=10.0)
    toy_runner(str(tmp_path), max_epochs=10, hooks={"stop": stop, "checkpoint": checkpoint}).train()
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_3.pth" if by_epoch else "iter_15.pth"]
    (path,) = tmp_path.glob("*.pth")
    resumed = toy_runner(
        str(tmp_path / "again"),
        max_epochs=10,
        hooks={"stop": EarlyStoppingHook("error", rule="less", patience=2, min_delta=10.0)},
        resume=str(path),
    )
    resumed.train()
    assert resumed.iter == 15


@pytest.mark.parametrize("max_iters", [None, 50])
def test_training_stops_and_a_resumed_run_stops_where_the_whole_one_did(tmp_path, max_iters):
    def run(folder, **kwargs):
        hooks: dict[str, Hook] = {"stop": EarlyStoppingHook("error", rule="less", patience=2, min_delta=10.0)}
        runner = toy_runner(
            str(folder), max_epochs=10, max_iters=max_iters, val_interval=5 if max_iters else 1, hooks=hooks, **kwargs
        )
        runner.train()
        return runner

    whole = run(tmp_path / "whole")
    assert (whole.iter, whole.hooks["stop"].state_dict()["wait_count"]) == (15, 2)
    if max_iters is None:
        resumed = run(tmp_path / "resumed", resume=str(tmp_path / "whole" / "epoch_2.pth"))
        assert resumed.iter == 15
        again = run(tmp_path / "whole", resume=True)  # after it has stopped: it stays so
        assert again.iter == 15
        assert (
            again.hooks["stop"].state_dict() == resumed.hooks["stop"].state_dict() == whole.hooks["stop"].state_dict()
        )


@pytest.mark.parametrize(
    ("then", "now", "goes_on"),
    [
        ({"patience": 2, "min_delta": 10.0}, {"patience": 4, "min_delta": 10.0}, True),
        ({"stopping_threshold": 10.0}, {"stopping_threshold": 0.01}, True),
        ({"stopping_threshold": 10.0}, {}, True),
        ({"patience": 4, "min_delta": 10.0}, {"patience": 2, "min_delta": 10.0}, False),
    ],
)
def test_a_run_that_had_stopped_goes_on_where_it_would_not_have(tmp_path, then, now, goes_on):
    def run(options, **kwargs):
        hooks = {"stop": EarlyStoppingHook("error", rule="less", **options), "checkpoint": CheckpointHook(100)}
        runner = toy_runner(str(tmp_path), max_epochs=8, hooks=hooks, **kwargs)
        runner.train()
        return runner

    stopped = run(then)
    assert stopped.epoch < 8
    resumed = run(now, resume=True)
    assert (resumed.epoch > stopped.epoch) is goes_on
    if "patience" in now:
        assert resumed.epoch == max(now["patience"] + 1, stopped.epoch)


@pytest.mark.parametrize("now", [{"monitor": "acc"}, {"monitor": "error", "rule": "greater"}, {"monitor": "error"}])
def test_a_best_score_of_another_metric_or_rule_is_not_compared_with(now):
    former = EarlyStoppingHook("error", rule="less")
    runner: Any = SimpleNamespace(is_training=True, train_loop=SimpleNamespace(stop_training=False))
    former.after_val_epoch(runner, {"error": 5.0})
    former.after_val_epoch(runner, {"error": 6.0})
    hook = EarlyStoppingHook(**{"rule": None if now["monitor"] == "acc" else "less", **now})
    hook.load_state_dict(former.state_dict())
    is_same = now == {"monitor": "error"}
    assert (hook.best_score, hook.wait_count) == ((5.0, 1) if is_same else (None, 0))

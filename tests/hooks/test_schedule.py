"""Which hook runs when, and what is refused."""

from __future__ import annotations

import pytest
import torch

from lazyengine.hooks import HOOK_POINTS, Hook, HookSchedule, Priority, default_hooks, get_priority
from lazyengine.runner import Runner

from ..runner.toy import toy_runner


def call(schedule: HookSchedule, point: str) -> None:
    """Call the hooks of a point as the runner does."""
    runner = Runner(torch.nn.Identity(), hooks=schedule)
    runner.call_hook(point)


class Recorder(Hook):
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def before_run(self, runner):
        self.calls.append(self.name)


def test_priority_decides_first_and_the_given_order_second():
    calls: list[str] = []
    hooks = [Recorder(name, calls) for name in "abcd"]
    for hook, priority in zip(hooks, ("LOWEST", 50, Priority.NORMAL, "very_high")):
        hook.priority = priority
    call(HookSchedule(hooks), "before_run")
    assert calls == ["d", "b", "c", "a"]


def test_only_overridden_points_are_called():
    class Everything(Hook):
        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
            pass

    schedule = HookSchedule([Hook(), Everything()])
    used = {point for point, methods in schedule.points.items() if methods}
    assert used == {"after_train_iter", "after_val_iter", "after_test_iter"}
    assert all(len(methods) <= 1 for methods in schedule.points.values())


def test_generic_form_receives_the_mode():
    seen = []

    class Modes(Hook):
        def _before_epoch(self, runner, mode="train"):
            seen.append(mode)

    schedule = HookSchedule([Modes()])
    for mode in ("train", "val", "test"):
        call(schedule, f"before_{mode}_epoch")
    assert seen == ["train", "val", "test"]


def test_misspelt_point_is_an_error_with_the_near_match():
    class Typo(Hook):
        def after_trainiter(self, runner):
            pass

    with pytest.raises(ValueError, match=r"after_trainiter .*test_schedule\.py.*Did you mean 'after_train_iter'"):
        HookSchedule([Typo()])


@pytest.mark.seam(20, "twice", "list")
def test_the_same_hook_twice_is_an_error_and_two_of_a_class_a_warning():
    hook = Hook()
    with pytest.raises(ValueError, match=r"given twice, as 'a' and 'b'"):
        HookSchedule({"a": hook, "b": hook})
    assert HookSchedule([Hook(), Hook()]).warnings() == ["Hook is there 2 times: Hook, Hook_2"]


def test_something_that_is_no_hook_is_refused():
    with pytest.raises(TypeError, match=r"hooks\['x'\]: expected a Hook, got str"):
        HookSchedule({"x": "LoggerHook"})


def test_an_exception_keeps_its_type_and_names_hook_and_point():
    class Broken(Hook):
        def before_run(self, runner):
            raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom") as caught:
        call(HookSchedule({"mine": Broken()}), "before_run")
    assert caught.value.__notes__ == ["raised in hook Broken.before_run (hooks['mine'])"]
    assert caught.traceback[-1].name == "before_run"


def test_unknown_priority():
    with pytest.raises(ValueError, match="hook priority 'URGENT': accepted are HIGHEST"):
        get_priority("URGENT")
    with pytest.raises(ValueError, match=r"hook priority 101: .* or 0 to 100"):
        get_priority(101)


def test_timeline_names_every_default_hook_with_its_interval_and_file():
    table = HookSchedule(default_hooks()).timeline()
    for name in ("RuntimeInfoHook", "IterTimerHook", "LoggerHook", "ParamSchedulerHook"):
        assert name in table
    rows = [line for line in table.splitlines() if "CheckpointHook" in line]
    assert any("every epoch" in row and "checkpoint_hook.py" in row for row in rows)


def test_the_timeline_is_read_in_120_columns_and_breaks_long_rows():
    lines = HookSchedule(default_hooks()).timeline().splitlines()
    assert lines[0] == "before_run              runtime_info > logger > progress_bar"
    assert max(map(len, lines)) <= 120
    assert len(lines) < 40
    many = HookSchedule({f"hook_number_{i}": Recorder("", []) for i in range(12)}).timeline(width=60).splitlines()
    rows = many[: many.index("")]
    assert all(len(row) <= 60 and row[24:].startswith("hook_number_") for row in rows)
    assert " ".join(row[24:] for row in rows).count("hook_number_") == 12


def test_orders_in_which_a_hook_misses_something_are_reported():
    assert HookSchedule(default_hooks()).warnings() == []
    hooks = default_hooks()
    hooks["logger"].priority = "HIGHEST"
    (warning, other) = HookSchedule(hooks).warnings()
    assert (
        "logger (priority 0) runs before runtime_info (priority 10) at before_run, before_train, after_train_iter"
        in warning
    )
    assert "give it a priority with a larger number" in warning
    assert "logger (priority 0) runs before timer (priority 50)" in other


def test_a_checkpoint_before_a_hook_whose_state_it_saves_is_reported():
    class Counter(Hook):
        priority = "LOWEST"

        def after_train_epoch(self, runner): ...

        def state_dict(self):
            return {"count": 1}

    (warning,) = HookSchedule({**default_hooks(), "counter": Counter()}).warnings()
    assert "checkpoint (priority 90) runs before counter (priority 100) at after_train_epoch" in warning
    Counter.priority = Priority.LOW
    assert HookSchedule({**default_hooks(), "counter": Counter()}).warnings() == []


def test_points_are_mmengines():
    assert {"before_run", "after_train_iter", "before_save_checkpoint", "after_test_epoch"} <= set(HOOK_POINTS)
    assert all(hasattr(Hook, point) for point in HOOK_POINTS)


def test_an_error_of_a_function_set_on_a_hook_object_is_that_error(tmp_path):
    def fails(runner, **kwargs):
        raise ZeroDivisionError("mine")

    hook = Hook()
    hook.after_train_iter = fails
    with pytest.raises(ZeroDivisionError, match="mine"):
        toy_runner(str(tmp_path), hooks={"own": hook}).train()


def test_two_hooks_that_save_have_no_order():
    (warning,) = HookSchedule({**default_hooks(), "best": type(default_hooks()["checkpoint"])()}).warnings()
    assert warning == "CheckpointHook is there 2 times: checkpoint, best"

"""Saves by time, and a run that stops before its time is over; the clock is the test's."""

from __future__ import annotations

import pytest

from lazyengine.hooks import CheckpointHook, Hook, checkpoint_hook
from lazyengine.runner import preemption

from ..runner.toy import toy_runner


class Ticking(Hook):
    """A clock that an iteration moves by ten seconds."""

    priority = "HIGHEST"

    def __init__(self):
        self.now = 100.0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.now += 10


@pytest.fixture
def clock(monkeypatch):
    ticking = Ticking()
    for module in (checkpoint_hook, preemption):
        monkeypatch.setattr(module, "now", lambda: ticking.now)
    return ticking


def names(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


class Seen(Hook):
    """What lies in the folder after each iteration."""

    priority = "LOWEST"

    def __init__(self, folder):
        self.folder, self.names = folder, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.names.append(names(self.folder))


def test_a_save_by_time_lies_there_until_the_next_save(tmp_path, clock):
    hooks = {"clock": clock, "seen": Seen(tmp_path), "checkpoint": CheckpointHook(every_s=20)}
    toy_runner(str(tmp_path), max_epochs=2, hooks=hooks).train()  # 5 iterations an epoch
    assert hooks["seen"].names[:4] == [[], ["iter_2.pth"], ["iter_2.pth"], ["iter_4.pth"]]
    assert hooks["seen"].names[6] == ["epoch_1.pth", "iter_7.pth"]
    assert names(tmp_path) == ["epoch_1.pth", "epoch_2.pth"]


def test_by_iteration_it_is_a_save_like_the_others(tmp_path, clock):
    hooks = {"clock": clock, "checkpoint": CheckpointHook(interval=100, by_epoch=False, every_s=30)}
    toy_runner(str(tmp_path), max_iters=10, hooks=hooks).train()
    assert names(tmp_path) == ["iter_10.pth", "iter_3.pth", "iter_6.pth", "iter_9.pth"]


@pytest.mark.parametrize(("options", "last"), [({}, "epoch_2.pth"), ({"save_last": False}, "preempted.pth")])
def test_a_run_that_is_stopped_at_its_very_end_ends_with_a_regular_checkpoint(tmp_path, options, last):
    class AtEnd(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.train_loop.position.iter == 10:
                runner.folder.on_request("stop")

    def made(**more):
        checkpoint = CheckpointHook(interval=-1 if options else 1, **options)
        return toy_runner(str(tmp_path), max_epochs=2, hooks={"checkpoint": checkpoint, "end": AtEnd()}, **more)

    with pytest.raises(SystemExit):
        made().train()
    assert "preempted.pth" in names(tmp_path)
    made(resume=True).train()
    assert (tmp_path / "last_checkpoint").read_text().strip() == last
    assert ("preempted.pth" in names(tmp_path)) == (last == "preempted.pth")


def test_a_run_saves_and_exits_when_its_time_is_over_and_goes_on(tmp_path, clock):
    with pytest.raises(SystemExit) as stopped:
        toy_runner(str(tmp_path), max_epochs=2, hooks={"clock": clock}, stop_after="1m10s").train()
    assert stopped.value.code == 143
    assert names(tmp_path) == ["epoch_1.pth", "preempted.pth"]
    again = toy_runner(str(tmp_path), max_epochs=2, hooks={"clock": clock}, stop_after=3600, resume=True)
    again.train()
    assert again.iter == 10
    assert "preempted.pth" not in names(tmp_path)


@pytest.mark.parametrize("value", ["3 hours", "h", "", 0, -5, "5x"])
def test_a_time_that_is_none_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="expected seconds, or a text such as '3h50m'"):
        toy_runner(str(tmp_path), stop_after=value)


@pytest.mark.parametrize("options", [{"every_s": 0}, {"give_up_after": 0}, {"every_s": -1.0}])
def test_counts_that_are_not_positive_are_refused(options):
    with pytest.raises(ValueError, match="expected a positive number"):
        CheckpointHook(**options)

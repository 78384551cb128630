"""SIGTERM, SIGUSR1 and SIGHUP: the whole job saves the same step, exits with 143, and goes on from there."""

from __future__ import annotations

import pytest

from lazyengine.checkpoint import read_checkpoint

from .conftest import end_of, visible


def signal(action: str, count: int = 5, point: str = "before_train_iter", **more) -> dict:
    return {"point": point, "count": count, "action": action, **more}


def check(lab, folder, fault, world=1, **spec):
    spec = {"checkpoint": {"by_epoch": True, "max_keep_ckpts": 1}, **spec}
    expected = lab.expect(world=world, **spec)
    assert lab.run(fault, work_dir=folder, world=world, **spec) == [143] * world, lab.log
    path = folder / "preempted.pth"
    assert f"saved {path}; exiting with code 143" in lab.log
    position = read_checkpoint(path)["meta"]["iter"]
    assert lab.resume(folder, world=world, **spec) == expected
    assert f"resumed from {path}" in lab.log
    assert "preempted.pth" not in visible(folder)
    return position


@pytest.mark.parametrize("name", ["TERM", "USR1", "HUP"])
def test_saves_at_the_next_boundary(lab, tmp_path, name):
    assert check(lab, tmp_path, signal(name)) == 5


def test_saves_at_an_optimizer_step(lab, tmp_path):
    assert check(lab, tmp_path, signal("TERM"), accumulate=4) == 8


@pytest.mark.parametrize("point", ["after_val_iter", "after_train_epoch"])
def test_around_the_validation(lab, tmp_path, point):
    check(lab, tmp_path, signal("TERM", 1, point))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_while_saving(lab, tmp_path, call, is_async):
    """The checkpoint at hand is finished first."""
    spec = {"checkpoint": {"interval": 1, "async_save": is_async, "save_best": None}}
    fault = {"call": call, "match": "iter_4.pth", "action": "TERM"}
    assert check(lab, tmp_path, fault, **spec) in (4, 5)
    assert "iter_4.pth" in visible(tmp_path)


def test_workers_outlive_a_signal_to_the_whole_group(lab, tmp_path):
    """Slurm and torchrun signal the workers of the loader too; the run still needs them to get to its boundary."""
    spec = {"num_workers": 1, "accumulate": 4}  # the fourth batch is read after the signal
    assert check(lab, tmp_path, signal("GROUP", 1), **spec) == 4


def test_the_second_signal_exits_at_once(lab, tmp_path):
    assert lab.run(signal("TWICE"), work_dir=tmp_path) == [143]
    assert "preempted.pth" not in visible(tmp_path)
    assert "iter_4.pth" in visible(tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_alone_gets_the_signal(lab, tmp_path, rank):
    """Here the ranks ask one another at every second step; both stop at the same one."""
    assert check(lab, tmp_path, signal("TERM", 2, rank=rank), world=2) == 4
    assert lab.run(signal("TERM", 2, rank=rank), world=2, work_dir=tmp_path / "again") == [143, 143]
    assert f"SIGTERM on rank {rank}: saved" in lab.log


def test_a_signal_in_the_last_steps_lets_the_run_end(lab, tmp_path):
    assert lab.run(signal("TERM", 12, rank=1), world=2, work_dir=tmp_path) == [0, 0]
    assert end_of(tmp_path) == lab.expect(world=2)

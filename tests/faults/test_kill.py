"""Killed with SIGKILL at one point after the other: resumed, the run ends with the same state, to the bit."""

from __future__ import annotations

import pytest

from .conftest import visible

RENAME = {"call": "os.replace", "action": "KILL"}


def kill(point: str, count: int) -> dict:
    return {"point": point, "count": count, "action": "KILL"}


def check(lab, folder, fault, resumed_with=None, **spec):
    """Kill a run, check what is visible, resume it, compare its end."""
    expected = lab.expect(**spec)
    assert lab.run(fault, work_dir=folder, **spec) == [-9], lab.log
    names = visible(folder)
    assert lab.resume(folder, **{**spec, **(resumed_with or {})}) == expected
    return names


@pytest.mark.parametrize("step", range(1, 13))
def test_after_each_step(lab, tmp_path, step):
    """A checkpoint every second step: what was trained after it is trained again."""
    check(lab, tmp_path, kill("after_train_iter", step), checkpoint={"interval": 2})
    assert ("beginning anew" in lab.log) == (step == 1)


@pytest.mark.parametrize("by_iter", [False, True])
def test_resumed_at_each_of_12_steps(lab, tmp_path, by_iter):
    expected = lab.expect(by_iter=by_iter)
    assert lab.run(work_dir=tmp_path / "all", by_iter=by_iter) == [0]
    for step in range(1, 12):
        path = str(tmp_path / "all" / f"iter_{step}.pth")
        assert lab.resume(tmp_path / str(step), resume=path, by_iter=by_iter) == expected, step
    path = str(tmp_path / "all" / "iter_12.pth")
    assert lab.run(work_dir=tmp_path / "12", resume=path, by_iter=by_iter) == [0]
    assert "12 iterations are done" in lab.log
    assert "saving iter_" not in lab.log


@pytest.mark.parametrize("by_iter", [False, True])
@pytest.mark.parametrize("kind", ["net", "gan", "ema"])
@pytest.mark.parametrize("is_val_random", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        kill("before_train_iter", 5),
        kill("after_train_epoch", 1),
        kill("before_val_epoch", 1),
        kill("after_val_iter", 1),
        kill("after_val_epoch", 1),
    ],
    ids=lambda fault: fault["point"],
)
def test_around_the_validation(lab, tmp_path, kind, fault, is_val_random, by_iter):
    if by_iter and fault["point"] == "after_train_epoch":
        fault = kill("after_train", 1)
    checkpoint = {"by_epoch": is_val_random and not by_iter}  # saved with the validation due, or in the last iteration
    check(lab, tmp_path, fault, kind=kind, is_val_random=is_val_random, by_iter=by_iter, checkpoint=checkpoint)


def test_stochastic_validation_does_not_change_the_training(lab):
    parts = ("state_dict", "optimizer", "param_schedulers", "train_loop")
    calm, random = lab.expect(is_val_random=False), lab.expect(is_val_random=True)
    assert [calm[part] for part in parts] == [random[part] for part in parts]
    assert calm["message_hub"] != random["message_hub"]


@pytest.mark.parametrize(
    "spec",
    [
        {"num_workers": 2},
        {"num_workers": 2, "persistent": True},
        {"num_workers": 2, "resumed_with": {"num_workers": 0}},
        {"num_workers": 0, "resumed_with": {"num_workers": 1, "persistent": True}},
    ],
    ids=["workers", "persistent", "saved_with_2_resumed_with_0", "saved_with_0_resumed_with_1"],
)
@pytest.mark.parametrize("step", [3, 8], ids=["epoch_1", "epoch_2"])
def test_with_workers(lab, tmp_path, spec, step):
    spec = dict(spec)
    expected = lab.expect()  # the number of workers changes nothing
    resumed_with = spec.pop("resumed_with", spec)
    assert lab.run(kill("after_train_iter", step), work_dir=tmp_path, **spec) == [-9]
    assert lab.resume(tmp_path, **resumed_with) == expected


@pytest.mark.parametrize("step", [5, 6, 7, 11])
@pytest.mark.parametrize("checkpoint", [{}, {"by_epoch": True}], ids=["by_iter", "by_epoch"])
def test_in_mid_accumulation(lab, tmp_path, step, checkpoint):
    """12 iterations in accumulations of 4; an epoch ends in the middle of one."""
    check(lab, tmp_path, kill("after_train_iter", step), accumulate=4, checkpoint=checkpoint)


def test_twice_in_a_row(lab, tmp_path):
    expected = lab.expect()
    assert lab.run(kill("after_train_iter", 3), work_dir=tmp_path) == [-9]
    assert lab.run(kill("after_train_iter", 4), work_dir=tmp_path, resume="auto") == [-9]
    assert lab.run(kill("before_train_iter", 1), work_dir=tmp_path, resume="auto") == [-9]
    assert lab.resume(tmp_path) == expected


SAVING = {
    "half_written": {"call": "os.write", "match": ".iter_5.pth", "first": 5, "action": "KILL"},
    "before_flush": {"call": "os.fsync", "match": ".iter_5.pth", "action": "KILL"},
    "before_rename": {**RENAME, "match": "iter_5.pth"},
    "between_data_and_pointer": {**RENAME, "match": "iter_5.pth", "when": "after"},
    "before_pointer": {**RENAME, "match": "last_checkpoint", "first": 6},
    "between_commit_and_prune": {"call": "os.remove", "match": "iter_4.pth", "action": "KILL"},
    "after_prune": {"call": "os.remove", "match": "iter_4.pth", "action": "KILL", "when": "after"},
}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("fault", SAVING.values(), ids=SAVING)
def test_while_saving_with_one_checkpoint_kept(lab, tmp_path, fault, is_async):
    """The one before is there until the new one is; what was not pruned is pruned after the resume."""
    spec = {"checkpoint": {"max_keep_ckpts": 1, "async_save": is_async, "save_best": None}}
    names = check(lab, tmp_path, fault, **spec)
    assert set(names) <= {"iter_4.pth", "iter_5.pth"}
    assert names
    assert visible(tmp_path) == ["iter_12.pth"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_deletion_after_the_last_save_is_done_by_the_resume(lab, tmp_path):
    spec = {"checkpoint": {"max_keep_ckpts": 1, "save_best": None}}
    assert lab.run({"call": "os.remove", "match": "iter_11.pth", "action": "KILL"}, work_dir=tmp_path, **spec) == [-9]
    assert visible(tmp_path) == ["iter_11.pth", "iter_12.pth"]
    assert lab.resume(tmp_path, **spec) == lab.expect(**spec)
    assert visible(tmp_path) == ["iter_12.pth"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_while_the_best_replaces_the_former_best(lab, tmp_path, when):
    """Error is best at the first validation or the second; in either case one best file is left."""
    spec = {"checkpoint": {"rule": "greater"}}
    fault = {"call": "os.remove", "match": "best_error_epoch_1.pth", "action": "KILL", "when": when}
    spec["checkpoint"]["by_epoch"] = True
    check(lab, tmp_path, fault, **spec)
    assert len([name for name in visible(tmp_path) if name.startswith("best_")]) == 1


def test_the_best_checkpoint_can_be_resumed(lab, tmp_path):
    expected = lab.expect(checkpoint={"by_epoch": True})
    assert lab.run(work_dir=tmp_path / "first", checkpoint={"by_epoch": True}) == [0]
    (best,) = (tmp_path / "first").glob("best_*.pth")
    before = visible(tmp_path / "first")
    ended = lab.resume(tmp_path / "second", resume=str(best), checkpoint={"by_epoch": True, "max_keep_ckpts": 1})
    del ended["hooks"], expected["hooks"]  # another number of checkpoints is kept
    assert ended == expected
    assert visible(tmp_path / "first") == before

"""A disk that is full, a folder that cannot be written to, a thread that fails."""

from __future__ import annotations

import pytest

from .conftest import visible


def full(name: str, times: int = 1) -> dict:
    return {"call": "os.fsync", "match": name, "action": "ENOSPC", "times": times}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_training_goes_on_after_one_failure(lab, tmp_path, is_async):
    spec = {"checkpoint": {"async_save": is_async, "max_keep_ckpts": 2, "save_best": None}}
    expected = lab.expect(**spec)
    assert lab.run(full(".iter_5.pth"), work_dir=tmp_path, **spec) == [0], lab.log
    assert "ERROR" in lab.log
    assert "no checkpoint was saved, training goes on: [Errno 28] No space left on device" in lab.log
    assert f"{tmp_path}/iter_5.pth" in lab.log
    assert visible(tmp_path) == ["iter_11.pth", "iter_12.pth"]
    assert lab.resume(tmp_path, **spec) == expected


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_training_stops_when_planned_saves_in_a_row_fail(lab, tmp_path, is_async):
    spec = {"checkpoint": {"async_save": is_async, "save_best": None, "give_up_after": 2}}
    expected = lab.expect(**spec)
    assert lab.run(full("iter_", 99) | {"first": 5}, work_dir=tmp_path, **spec) == [1]
    assert lab.log.count("no checkpoint was saved, training goes on") == 1
    assert "nothing could be written for 2 planned saves: training was stopped" in lab.log
    assert visible(tmp_path) == [f"iter_{step}.pth" for step in range(1, 5)]
    assert not list(tmp_path.glob(".*.tmp"))
    assert lab.resume(tmp_path, **spec) == expected


def test_a_disk_that_is_full_at_one_validation_stops_nothing(lab, tmp_path):
    """The best file and the regular one of one position are one failure."""
    spec = {"checkpoint": {"by_epoch": True, "give_up_after": 2}}
    assert lab.run(full("_1.pth", 2), work_dir=tmp_path, **spec) == [0], lab.log
    assert "a best checkpoint was not saved, training goes on" in lab.log
    assert "1 in a row; training stops at 2" in lab.log


def test_failures_with_a_success_between_them_do_not_stop(lab, tmp_path):
    assert lab.run(full(".iter_5.pth"), full(".iter_7.pth"), work_dir=tmp_path) == [0]
    assert lab.log.count("no checkpoint was saved, training goes on") == 2


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_last_save_that_fails_is_an_error(lab, tmp_path, is_async):
    """A run whose result is not on disk does not end with exit code 0."""
    spec = {"checkpoint": {"interval": 12, "async_save": is_async, "save_best": None}}
    assert lab.run(full(".iter_12.pth"), work_dir=tmp_path, **spec) == [1]
    assert "No space left on device" in lab.log.splitlines()[-2] + lab.log.splitlines()[-1]


def test_a_full_disk_when_the_pointer_is_written(lab, tmp_path):
    expected = lab.expect()
    assert lab.run(full(".last_checkpoint"), work_dir=tmp_path) == [0]
    assert lab.resume(tmp_path) == expected


@pytest.mark.parametrize("key", ["work_dir", "out_dir"])
def test_a_folder_that_cannot_be_made_is_an_error_before_training(lab, tmp_path, key):
    (tmp_path / "file").write_text("")
    spec = {"work_dir": tmp_path / "run", "checkpoint": {}}
    if key == "work_dir":
        spec["work_dir"] = tmp_path / "file" / "run"
    else:
        spec["checkpoint"]["out_dir"] = str(tmp_path / "file" / "run")
    point = {"point": "before_train_epoch", "count": 1, "action": "EXIT"}
    assert lab.run(point, **spec) == [1]
    assert "Not a directory" in lab.log
    assert "set work_dir to a writable folder" in lab.log


@pytest.mark.parametrize(("call", "match"), [("os.mkdir", "/run/20"), ("builtins.open", ".probe_")])
def test_a_read_only_folder_is_an_error_before_training(lab, tmp_path, call, match):
    """The file system answers as a read-only one does, since permissions do not stop every user."""
    point = {"point": "before_train_epoch", "count": 1, "action": "EXIT"}
    assert lab.run({"call": call, "match": match, "action": "EROFS"}, point, work_dir=tmp_path / "run") == [1]
    assert "Read-only file system" in lab.log
    assert "set work_dir to a writable folder" in lab.log


def test_an_error_of_the_writing_thread_surfaces_at_the_next_save(lab, tmp_path):
    spec = {"checkpoint": {"async_save": True, "save_best": None}}
    fault = {"call": "os.write", "match": ".iter_5.pth", "action": "ERROR"}
    assert lab.run(fault, work_dir=tmp_path, **spec) == [1]
    assert "RuntimeError: injected" in lab.log
    assert "in the background" in lab.log
    assert "iteration 6" not in lab.log
    assert lab.resume(tmp_path, **spec) == lab.expect(**spec)


def test_a_failed_deletion_warns(lab, tmp_path):
    fault = {"call": "os.remove", "match": "iter_4.pth", "action": "EACCES"}
    assert lab.run(fault, work_dir=tmp_path, checkpoint={"max_keep_ckpts": 1, "save_best": None}) == [0]
    assert "could not delete the old checkpoint" in lab.log
    assert visible(tmp_path) == ["iter_12.pth"]  # tried again after the next save

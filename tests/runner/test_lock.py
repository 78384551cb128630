"""One training at a time: who holds a folder, and whose lock is taken over."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from lazyengine.checkpoint import saving
from lazyengine.cli import command
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.runner import lock
from lazyengine.runner.folder import RunFolder
from lazyengine.runner.lock import FolderBusyError, FolderLock

from .toy import toy_runner


def write(folder, **owner):
    """Write a lock of somebody else."""
    (folder / lock.NAME).write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "count": 0, **owner}))


def test_a_second_owner_is_refused_and_the_name_of_the_first_is_said(tmp_path):
    first = FolderLock(str(tmp_path))
    assert first.acquire() is None
    with pytest.raises(FolderBusyError, match=f"process {os.getpid()} on .* trains in it"):
        FolderLock(str(tmp_path)).acquire()
    first.release()
    assert not (tmp_path / lock.NAME).exists()


def test_a_dead_owner_of_this_host_is_taken_over_at_once(tmp_path):
    mine = FolderLock(str(tmp_path))
    write(tmp_path, host=mine._own["host"], pid=os.getpid(), started="before the process number was given out again")
    former = mine.acquire()
    assert former is not None
    assert former.startswith(f"process {os.getpid()} on ")
    mine.check()
    mine.release()


@pytest.mark.parametrize("difference_s", [0, 3600, -3600])
@pytest.mark.parametrize("lives", [True, False])
def test_of_another_host_the_counter_decides_and_no_clock(tmp_path, monkeypatch, lives, difference_s):
    """Whatever the time of the file and this host's own time are."""
    now = time.time
    monkeypatch.setattr(lock, "SILENT_S", 0.01)
    monkeypatch.setattr(time, "time", lambda: now() + difference_s)
    write(tmp_path)
    os.utime(tmp_path / lock.NAME, (now() - difference_s, now() - difference_s))
    mine = FolderLock(str(tmp_path))
    wait = mine._ended.wait

    def beat(timeout):
        if lives:
            write(tmp_path, count=1)
        return wait(timeout)

    monkeypatch.setattr(mine._ended, "wait", beat)
    if lives:
        with pytest.raises(FolderBusyError, match="process 1 on elsewhere"):
            mine.acquire()
    else:
        monkeypatch.setattr(lock, "BEAT_S", 60.0)
        assert mine.acquire() == "process 1 on elsewhere"
        mine.release()


def test_an_owner_that_stood_still_writes_nothing_more(tmp_path):
    mine = FolderLock(str(tmp_path))
    mine.acquire()
    write(tmp_path)  # taken over meanwhile
    with pytest.raises(FolderBusyError, match="was taken over by process 1 on elsewhere"):
        mine.check()
    mine.release()
    assert (tmp_path / lock.NAME).exists()  # it is the other one's


def test_a_busy_folder_is_exit_code_75_and_stays_as_it_is(tmp_path, capsys):
    runner = toy_runner(str(tmp_path), max_epochs=1)
    holder = FolderLock(str(tmp_path))
    holder.acquire()
    content = json.loads((tmp_path / lock.NAME).read_text())
    with pytest.raises(FolderBusyError) as busy:
        runner.train()
    assert command.refuse(busy.value) == 75
    assert "trains in it" in capsys.readouterr().err
    assert json.loads((tmp_path / lock.NAME).read_text()) == content
    assert not list(tmp_path.glob("*.pth"))
    assert not (tmp_path / "config.py").exists()


def test_the_folder_is_held_until_the_last_checkpoint_of_a_thread_is_written(tmp_path, monkeypatch):
    """A writer that is only as fast as it has to be: it goes on when somebody waits for it."""
    writer = saving.CheckpointWriter
    go, write, wait, leave = threading.Event(), writer._run, writer.wait, RunFolder.leave
    there: list[bool] = []

    def slow(*args):
        go.wait(60)
        go.clear()
        write(*args)

    def wait_for_it(self):
        go.set()
        wait(self)

    def note(self):
        there.append((tmp_path / "epoch_1.pth").exists())
        leave(self)

    monkeypatch.setattr(writer, "_run", slow)
    monkeypatch.setattr(writer, "wait", wait_for_it)
    monkeypatch.setattr(RunFolder, "leave", note)
    toy_runner(str(tmp_path), max_epochs=1, hooks={"checkpoint": CheckpointHook(async_save=True)}).train()
    assert there == [True]


def test_a_second_training_in_the_folder_from_the_same_process_is_refused(tmp_path):
    class Inner(Hook):
        def after_train_epoch(self, runner):
            with pytest.raises(FolderBusyError, match=f"process {os.getpid()} on .* trains in it"):
                toy_runner(str(tmp_path)).train()

    toy_runner(str(tmp_path), max_epochs=1, hooks={"inner": Inner()}).train()
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1

"""Files are whole or absent, whatever happens to the writer; background saves lose nothing."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lazyengine.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    find_latest_checkpoint,
    mark_latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)


def _state(value=0.0, size=1000):
    return {"state_dict": {"w": torch.full((size,), value)}, "meta": {"iter": int(value)}}


def test_file_is_torchs_own_format(tmp_path):
    state = {"w": torch.randn(100, 30), "v": torch.arange(7), "n": {"lr": 0.1}}
    save_checkpoint(state, tmp_path / "new" / "ours.pth")  # makes the folder
    for options in [{}, {"mmap": True}, {"weights_only": False}]:
        loaded = torch.load(tmp_path / "new" / "ours.pth", **options)
        assert torch.equal(loaded["w"], state["w"])
        assert torch.equal(loaded["v"], state["v"])
        assert loaded["n"] == {"lr": 0.1}
    assert loaded["w"].data_ptr() % 4 == 0
    reader = torch._C.PyTorchFileReader(str(tmp_path / "new" / "ours.pth"))
    torch.save(state, tmp_path / "theirs.pth")
    theirs = torch._C.PyTorchFileReader(str(tmp_path / "theirs.pth"))
    assert set(reader.get_all_records()) == set(theirs.get_all_records())
    for index in range(2):
        assert reader.get_record_offset(f"data/{index}") % 64 == 0


def test_same_content_gives_the_same_bytes(tmp_path):
    save_checkpoint(_state(3.0), tmp_path / "a.pth")
    save_checkpoint(_state(3.0), tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    save_checkpoint(_state(1.0), path)

    def broken(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(_state(2.0), path)
    assert caught.value.filename == str(path)
    monkeypatch.undo()
    assert read_checkpoint(path)["meta"]["iter"] == 1
    assert os.listdir(tmp_path) == ["c.pth"]


def _python(code, *arguments):
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def test_full_disk_is_an_oserror_with_the_path_and_leaves_nothing(tmp_path):
    code = """
        import resource, signal, sys, torch
        from lazyengine.checkpoint import CheckpointWriter, save_checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            save_checkpoint({"w": torch.zeros(10**6)}, sys.argv[1])
        except OSError as error:
            print(type(error).__name__, error.errno, error.filename)
        writer = CheckpointWriter(async_save=True)
        writer.save({"w": torch.zeros(10**6)}, sys.argv[1])
        try:
            writer.wait()
        except OSError as error:
            print(type(error).__name__, error.errno, error.filename)
    """
    path = tmp_path / "c.pth"
    done = subprocess.run(_python(code, path), capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.splitlines() == [f"OSError 27 {path}"] * 2
    assert "was not saved" in done.stderr
    assert os.listdir(tmp_path) == []


def _environment():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def test_killed_while_writing_leaves_the_old_file_and_the_rest_is_removed_later(tmp_path):
    path = tmp_path / "c.pth"
    save_checkpoint(_state(1.0), path)
    code = """
        import os, signal, sys, torch
        from lazyengine.checkpoint import save_checkpoint
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint({"meta": {"iter": 2}, "w": torch.zeros(1000)}, sys.argv[1])
    """
    done = subprocess.run(_python(code, path), env=_environment())
    assert done.returncode == -signal.SIGKILL
    leftovers = [name for name in os.listdir(tmp_path) if name != "c.pth"]
    assert len(leftovers) == 1
    assert leftovers[0].startswith(".c.pth.")
    assert read_checkpoint(path)["meta"]["iter"] == 1
    save_checkpoint(_state(3.0), tmp_path / "d.pth")
    assert sorted(os.listdir(tmp_path)) == ["c.pth", "d.pth"]


def test_background_save_has_the_values_of_its_call(tmp_path):
    writer = CheckpointWriter(async_save=True)
    weights = torch.zeros(50_000)
    views = {"w": weights, "part": weights[:10], "n": torch.tensor(0)}
    for step in range(4):
        weights.fill_(step)
        views["n"].fill_(step)
        writer.save({"state": views}, tmp_path / f"{step}.pth")
        weights.fill_(-1)
        views["n"].fill_(-1)
    writer.wait()
    for step in range(4):
        loaded = read_checkpoint(tmp_path / f"{step}.pth")["state"]
        assert loaded["w"].eq(step).all()
        assert loaded["part"].eq(step).all()
        assert loaded["n"].item() == step


@pytest.mark.parametrize("async_save", [False, True])
def test_then_runs_when_the_file_is_in_place(tmp_path, async_save):
    writer = CheckpointWriter(async_save)
    path = tmp_path / "a.pth"
    seen = []

    def then():
        mark_latest_checkpoint(path)
        seen.append(read_checkpoint(path)["meta"]["iter"])

    writer.save(_state(5.0), path, then)
    writer.wait()
    assert seen == [5]
    assert find_latest_checkpoint(tmp_path) == str(path)
    assert (tmp_path / "last_checkpoint").read_text() == "a.pth\n"


def test_error_of_the_thread_surfaces_once_at_the_next_save(tmp_path):
    writer = CheckpointWriter(async_save=True)

    def broken():
        raise LookupError("pruning failed")

    writer.save(_state(1.0), tmp_path / "1.pth", broken)
    with pytest.raises(LookupError, match="pruning failed") as caught:
        writer.save(_state(2.0), tmp_path / "2.pth")
    assert "1.pth in the background" in caught.value.__notes__[0]
    assert sorted(os.listdir(tmp_path)) == ["1.pth"]
    writer.save(_state(3.0), tmp_path / "3.pth")
    writer.wait()
    assert sorted(os.listdir(tmp_path)) == ["1.pth", "3.pth"]


def test_what_cannot_be_saved_is_reported_by_the_call_itself(tmp_path):
    writer = CheckpointWriter(async_save=True)
    with pytest.raises(CheckpointError, match="'fn'"):
        writer.save({"fn": print}, tmp_path / "a.pth")
    writer.wait()
    assert os.listdir(tmp_path) == []


def test_process_that_ends_at_once_has_written_everything(tmp_path):
    code = """
        import sys, torch
        from lazyengine.checkpoint import CheckpointWriter
        CheckpointWriter(async_save=True).save({"w": torch.ones(1_000_000)}, sys.argv[1])
    """
    subprocess.run(_python(code, tmp_path / "a.pth"), check=True, env=_environment())
    assert read_checkpoint(tmp_path / "a.pth")["w"].sum() == 1_000_000


def test_read_only_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_checkpoint(_state(), tmp_path / "file" / "c.pth")


def test_readers_see_whole_files_only(tmp_path):
    path = tmp_path / "c.pth"
    save_checkpoint(_state(0.0, 100_000), path)
    stop = threading.Event()

    def write():
        for step in range(1, 20):
            save_checkpoint(_state(float(step), random.Random(step).randrange(1, 100_000)), path)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not stop.is_set():
        verify_checkpoint(path)
        loaded = read_checkpoint(path)
        assert loaded["state_dict"]["w"].eq(loaded["meta"]["iter"]).all()
    thread.join()


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; a process that was started in the background ignores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_a_wait_that_is_interrupted_loses_nothing(tmp_path, monkeypatch):
    replace, released = os.replace, threading.Event()

    def interrupt(source, target):
        if os.fspath(target) != os.fspath(tmp_path / "a.pth"):  # of a thread that another test has left
            return replace(source, target)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        released.wait(60)
        return replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    writer = CheckpointWriter(async_save=True)

    def save():
        writer.save({"w": torch.ones(3)}, tmp_path / "a.pth")
        writer.wait()

    with pytest.raises(KeyboardInterrupt):
        save()
    released.set()
    writer.wait()
    assert read_checkpoint(tmp_path / "a.pth")["w"].tolist() == [1, 1, 1]


def test_an_interrupt_while_the_writing_thread_starts_leaves_no_write_that_nobody_waits_for(tmp_path, monkeypatch):
    start, released = threading.Thread.start, threading.Event()

    def interrupted(thread):
        start(thread)
        monkeypatch.setattr(threading.Thread, "start", start)
        raise KeyboardInterrupt

    def held():
        assert released.wait(60)
        return {}

    writer = CheckpointWriter(async_save=True)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.save({"w": torch.ones(3)}, tmp_path / "a.pth", before=held)
    writer.wait()
    names = os.listdir(tmp_path)
    threading.Timer(0, released.set).start()
    writer.save({"w": torch.ones(3)}, tmp_path / "b.pth", before=held)
    writer.wait()
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "b.pth"])


def test_an_interrupt_while_a_write_is_handed_over_loses_nothing(tmp_path, monkeypatch):
    """It may come before `save` has returned: the write was begun, and the next wait waits for it."""
    submit, released = ThreadPoolExecutor.submit, threading.Event()

    def interrupted(self, *args, **kwargs):
        submit(self, released.wait, 60)
        submit(self, *args, **kwargs)
        raise KeyboardInterrupt

    writer = CheckpointWriter(async_save=True)
    writer.save({}, tmp_path / "before.pth")
    writer.wait()
    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    threading.Timer(0, released.set).start()
    writer.wait()
    assert read_checkpoint(tmp_path / "a.pth")["w"].tolist() == [1, 1, 1]

"""Batches read by worker processes: few tests, since every process that is not forked imports torch first."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from lazyengine import _torch
from lazyengine.dataset import BaseDataset, DataLoader, DefaultSampler, pseudo_collate, workers

from .samples import Augmented, Boxes, Broken, FileIds, ReaderIds, file_ids, jittered_collate
from .test_loader import epoch_of, make


def three_epochs(**kwargs):
    """Two epochs, and the second resumed after two batches."""
    loader = make(**kwargs)
    return epoch_of(loader, 0), epoch_of(loader, 1), epoch_of(loader, 1, 2)


@pytest.fixture(scope="module")
def expected():
    return three_epochs(num_workers=0)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_forked_workers_change_nothing(expected, num_workers, persistent):
    found = three_epochs(num_workers=num_workers, persistent_workers=persistent, multiprocessing_context="fork")
    assert found == expected
    assert found[2] == found[1][2:]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="whose forks do not hang")
@pytest.mark.parametrize(("context", "persistent"), [("fork", False), ("fork", True), (None, False)])
def test_a_fork_that_does_not_come_to_life_is_begun_anew(expected, monkeypatch, context, persistent):
    """As where a thread held a lock of the interpreter's; the second of two workers hangs, and once more."""
    monkeypatch.setattr(workers, "BIRTH_LIMIT_S", 0.2)
    fork, forked = os.fork, []

    def hang() -> int:
        is_hanging = len(forked) in (1, 2)
        pid = fork()
        while pid == 0 and is_hanging:
            signal.pause()
        forked.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", hang)
    found = three_epochs(num_workers=2, persistent_workers=persistent, multiprocessing_context=context)
    assert found == expected
    assert len(forked) >= (2 if persistent else 6) + 2
    for pid in forked[1:3]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods_change_nothing(expected, method):
    found = three_epochs(num_workers=2, persistent_workers=True, multiprocessing_context=method)
    assert found == expected


def test_an_iteration_left_early_does_not_reach_into_the_next(expected):
    loader = make(num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    loader.set_epoch(1)
    next(iter(loader))
    assert epoch_of(loader, 0) == expected[0]


def test_the_script_of_the_notes():
    """mmengine repeats the augmentation in every epoch; here it differs, and equally for any number of workers."""

    def run(num_workers):
        dataset = Augmented(20)
        sampler = DefaultSampler(dataset, shuffle=True)
        loader = DataLoader(
            dataset, sampler=sampler, batch_size=10, num_workers=num_workers, multiprocessing_context="fork", seed=1
        )
        epochs = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            epochs.append({index: draw for batch in loader for index, draw in zip(*(x.tolist() for x in batch[:2]))})
        return epochs

    epochs = run(0)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert all(epochs[first][index] != epochs[second][index] for index in range(20))
    assert all(run(num_workers) == epochs for num_workers in (1, 2, 4))


@pytest.mark.parametrize("layout", [True, "columnar"])
def test_spawned_workers_map_the_records_instead_of_copying_them(layout):
    dataset = Boxes(20, serialize_data=layout)
    subset = dataset.get_subset([3, 1, 7, 5])
    loader = DataLoader(
        FileIds(subset), 2, num_workers=1, multiprocessing_context="spawn", collate_fn=pseudo_collate, timeout=280
    )
    read = [sample for batch in loader for sample in zip(*batch)]
    assert {sample[1:3] for sample in read} == {file_ids(dataset)}
    assert [sample[3] for sample in read] == [subset.get_data_info(i)["img_path"] for i in range(4)]


def test_errors_in_a_worker_name_the_index():
    with pytest.raises(ValueError, match=r"while reading index 5 of Broken \(batch 1 of epoch 0\)"):
        list(DataLoader(Broken("raises"), 4, num_workers=1, multiprocessing_context="fork"))


@pytest.mark.slow  # torch gives a hanging worker five seconds to leave
@pytest.mark.parametrize(("how", "message"), [("dies", "exited unexpectedly"), ("hangs", "timed out after 1 seconds")])
def test_workers_that_die_or_hang_come_with_advice(how, message):
    timeout = 1 if how == "hangs" else 0
    loader = DataLoader(Broken(how), 4, num_workers=1, timeout=timeout, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match=message) as caught:
        list(loader)
    assert "run with num_workers=0" in "\n".join(caught.value.__notes__)


def test_a_worker_that_dies_while_the_main_process_does_something_else_comes_with_advice():
    """As while a model computes, where most of the time goes: torch raises there."""
    loader = DataLoader(ReaderIds(4), 1, num_workers=1, multiprocessing_context="fork", persistent_workers=True)
    batches = iter(loader)
    worker = next(batches).item()

    def do_something_else():
        os.kill(worker, signal.SIGKILL)
        threading.Event().wait(60)

    with pytest.raises(RuntimeError, match=f"DataLoader worker \\(pid {worker}\\) is killed") as caught:
        do_something_else()
    assert len(caught.value.__notes__) == 1
    assert "run with num_workers=0" in caught.value.__notes__[0]


@pytest.mark.parametrize("by_private_parts", [True, False])
def test_a_worker_that_dies_while_it_hands_over_a_batch_is_told_of_once(monkeypatch, by_private_parts):
    """The connection breaks first; torch's handler, which hears of the end of the process later, is quiet then."""
    monkeypatch.setattr(_torch, "PRIVATE", by_private_parts)

    def broken(*_):
        raise ConnectionResetError

    loader = DataLoader(ReaderIds(4), 1, num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    worker = next(batches).item()
    monkeypatch.setattr("torch.multiprocessing.reductions.rebuild_storage_fd", broken)
    with pytest.raises(RuntimeError, match="a DataLoader worker exited unexpectedly") as caught:
        next(batches)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    for _ in range(3):
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    assert "run with num_workers=0" in "\n".join(caught.value.__notes__)


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_what_cannot_be_pickled_for_a_worker_comes_with_advice():
    class Local(BaseDataset):
        def load_data_list(self):
            return [{}]

    loader = DataLoader(Local(), 1, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(AttributeError, match="pickle") as caught:
        iter(loader)
    assert "at the top level of a module" in caught.value.__notes__[0]


def test_a_workers_info_shows_the_users_dataset():
    loader = DataLoader(
        Augmented(4),
        2,
        num_workers=1,
        multiprocessing_context="fork",
        worker_init_fn=check_worker,
        collate_fn=jittered_collate,
    )
    assert len(list(loader)) == 2


def check_worker(worker_id):
    from torch.utils.data import get_worker_info

    assert type(get_worker_info().dataset) is Augmented  # type: ignore[union-attr]
    assert worker_id == 0

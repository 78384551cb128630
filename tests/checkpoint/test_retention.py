"""Which checkpoint is newest, which is best and which may go: derived from the folder, the pointer and the files."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from lazyengine.checkpoint import (
    find_valid_checkpoint,
    list_checkpoints,
    mark_latest_checkpoint,
    save_checkpoint,
    summary_of,
    superseded_checkpoints,
)


def make(folder, name, iteration, epoch=0, run="a", start=0, batch=0, val_due=False, **entries):
    """Write a small checkpoint of a position."""
    loop = {"epoch": epoch, "iter": iteration, "batch": batch, "val_due": val_due}
    meta = {"epoch": epoch, "iter": iteration, "run_id": run, "start": start}
    save_checkpoint({"meta": meta, "train_loop": loop, "w": torch.zeros(3), **entries}, folder / name)
    return str(folder / name)


def names(paths):
    return [os.path.basename(path) for path in paths]


def test_the_position_is_read_without_the_tensors(tmp_path):
    path = make(tmp_path, "a.pth", 7, 2)
    content = bytearray((tmp_path / "a.pth").read_bytes())
    summary = summary_of(path)
    assert (summary.epoch, summary.iter, summary.run_id) == (2, 7, "a")
    assert set(summary.keys) == {"meta", "train_loop", "w"}
    del content
    assert summary_of(path) is summary  # as long as the file is the same
    make(tmp_path, "a.pth", 8, 2)
    assert summary_of(path).iter == 8


def test_a_summary_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"meta": {"iter": 3}, "evil": Evil()}, tmp_path / "a.pth")
    assert summary_of(tmp_path / "a.pth").iter == 3
    assert not (tmp_path / "made").exists()


def test_file_times_decide_nothing(tmp_path):
    paths = [make(tmp_path, f"epoch_{n}.pth", 5 * n, n) for n in (1, 2, 3)]
    for path, seconds in zip(paths, (300, 100, 200)):
        os.utime(path, (seconds, seconds))
    assert names(list_checkpoints(tmp_path)) == ["epoch_3.pth", "epoch_2.pth", "epoch_1.pth"]
    assert find_valid_checkpoint(tmp_path) == paths[2]
    shutil.copy(paths[0], tmp_path / "copied_last.pth")
    assert find_valid_checkpoint(tmp_path) == paths[2]


def test_a_validation_that_is_done_is_further(tmp_path):
    make(tmp_path, "epoch_1.pth", 5, 1, val_due=True)
    best = make(tmp_path, "best_error_epoch_1.pth", 5, 1)
    assert find_valid_checkpoint(tmp_path) == best


def test_a_run_that_began_anew_is_newer_than_what_an_earlier_one_left(tmp_path):
    make(tmp_path, "epoch_9.pth", 45, 9, run="old")
    new = make(tmp_path, "epoch_1.pth", 5, 1, run="new")
    mark_latest_checkpoint(new)
    assert find_valid_checkpoint(tmp_path) == new
    newer = make(tmp_path, "epoch_2.pth", 10, 2, run="new")
    assert find_valid_checkpoint(tmp_path) == newer  # killed before the pointer was replaced


def test_a_future_that_was_given_up_is_not_gone_on_with(tmp_path):
    """Resumed from epoch 2 by name, with other settings: epochs 4 and 5 belong to the attempt before."""
    for n in range(1, 6):
        make(tmp_path, f"epoch_{n}.pth", 5 * n, n)
    new = make(tmp_path, "epoch_3.pth", 15, 3, start=1)
    mark_latest_checkpoint(new)
    assert find_valid_checkpoint(tmp_path) == new
    newer = make(tmp_path, "epoch_4.pth", 20, 4, start=1)
    assert find_valid_checkpoint(tmp_path) == newer


def test_damaged_files_are_named_and_passed_over(tmp_path):
    good = make(tmp_path, "epoch_1.pth", 5, 1)
    bad = make(tmp_path, "epoch_2.pth", 10, 2)
    with open(bad, "r+b") as file:
        file.truncate(300)
    rejected = []
    assert find_valid_checkpoint(tmp_path, lambda path, why: rejected.append((path, why))) == good
    assert names(path for path, _ in rejected) == ["epoch_2.pth"]


def superseded(folder, written, keep, template="epoch_{}.pth", by_epoch=True):
    return sorted(names(superseded_checkpoints(str(folder), written, "a", template, by_epoch, keep)))


def test_the_oldest_go(tmp_path):
    for n in range(1, 5):
        make(tmp_path, f"epoch_{n}.pth", 5 * n, n)
    assert superseded(tmp_path, "epoch_4.pth", 2) == ["epoch_1.pth", "epoch_2.pth"]
    assert superseded(tmp_path, "epoch_4.pth", -1) == []
    assert superseded(tmp_path, "epoch_2.pth", 1) == ["epoch_1.pth"]  # what is further on is not touched


def test_what_this_run_did_not_write_stays(tmp_path):
    make(tmp_path, "epoch_1.pth", 5, 1, run="other")
    shutil.copy(make(tmp_path, "epoch_2.pth", 10, 2), tmp_path / "epoch_3.pth")  # a copy, under a name like ours
    shutil.copy(tmp_path / "epoch_2.pth", tmp_path / "favourite.pth")
    make(tmp_path, "preempted.pth", 11, 2)
    make(tmp_path, "iter_10.pth", 10, 2)
    torch.save({"state_dict": {}}, tmp_path / "epoch_0.pth")
    (tmp_path / "epoch_7.pth").write_text("damaged")
    make(tmp_path, "epoch_8.pth", 40, 8)
    assert superseded(tmp_path, "epoch_8.pth", 1) == ["epoch_2.pth"]


def test_what_the_pointer_names_stays(tmp_path):
    mark_latest_checkpoint(make(tmp_path, "epoch_1.pth", 5, 1))
    make(tmp_path, "epoch_2.pth", 10, 2)
    assert superseded(tmp_path, "epoch_2.pth", 1) == []


def test_of_each_metric_the_newest_best_one_stays(tmp_path):
    make(tmp_path, "best_a_b_epoch_1.pth", 5, 1)
    make(tmp_path, "best_a_b_epoch_2.pth", 10, 2)
    make(tmp_path, "best_error_epoch_1.pth", 5, 1)
    make(tmp_path, "best_error_epoch_9.pth", 45, 9)
    make(tmp_path, "best_error_iter_10.pth", 10, 2, run="other")
    make(tmp_path, "best_of_all_epoch_3.pth", 5, 1)  # a name that is not that of its position
    make(tmp_path, "epoch_3.pth", 15, 3)
    assert superseded(tmp_path, "epoch_3.pth", -1) == ["best_a_b_epoch_1.pth"]
    make(tmp_path, "best_error_epoch_3.pth", 15, 3)
    assert superseded(tmp_path, "best_error_epoch_3.pth", -1) == ["best_a_b_epoch_1.pth", "best_error_epoch_1.pth"]


@pytest.mark.parametrize("extension", [".pth", ".pt", ".ckpt"])
def test_any_stem_is_found(tmp_path, extension):
    path = make(tmp_path, f"my run {3}{extension}", 3)
    assert list_checkpoints(tmp_path) == [path]


def test_of_two_at_one_position_the_pointer_decides(tmp_path):
    """As after a signal right behind a save: the later of the two is what the run leaves, and what it goes on from."""
    for name in ("iter_4.pth", "preempted.pth"):
        make(tmp_path, name, 4)
    for name in ("preempted.pth", "iter_4.pth"):
        mark_latest_checkpoint(tmp_path / name)
        assert os.path.basename(list_checkpoints(tmp_path)[0]) == name

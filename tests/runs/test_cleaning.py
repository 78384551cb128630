"""What is deleted of old runs, and what never is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import save_checkpoint
from lazyengine.cli import clean as command
from lazyengine.runs import clean

OLD_S = 60 * 86400


def save(folder: Path, name: str, iteration: int, run_id: str = "a") -> None:
    """Write a checkpoint of an iteration; an epoch has ten."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"iter": iteration, "epoch": iteration // 10, "run_id": run_id, "time": f"2026-01-01 00:00:{iteration}"}
    save_checkpoint(
        {"meta": meta, "state_dict": {"w": torch.ones(2)}, "optimizer": {}, "train_loop": {}}, folder / name
    )


def age(root: Path, seconds: float = OLD_S) -> None:
    """Let everything be so old."""
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.stat(os.path.join(folder, name))
            os.utime(os.path.join(folder, name), (status.st_mtime - seconds, status.st_mtime - seconds))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "a"
    for iteration in (10, 20, 30):
        save(folder, f"epoch_{iteration // 10}.pth", iteration)
    save(folder, "best_acc_epoch_2.pth", 20)
    save(folder, "best_acc_epoch_1.pth", 10)
    save(folder, "iter_25.pth", 25)
    save(folder, "preempted.pth", 27)
    (folder / "last_checkpoint").write_text("epoch_3.pth")
    (folder / "20260131_120000").mkdir()
    (folder / "20260131_120000" / "metrics.jsonl").write_text("")
    age(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_the_best_and_the_last_stay(run):
    planned = clean(run.parent, dry_run=True)
    assert len(names(run)) == 8
    (done,) = clean(run.parent)
    assert planned == [done]
    assert names(run) == {"epoch_3.pth", "best_acc_epoch_2.pth", "last_checkpoint"}
    assert sorted(done.deleted) == [
        "best_acc_epoch_1.pth",
        "epoch_1.pth",
        "epoch_2.pth",
        "iter_25.pth",
        "preempted.pth",
    ]
    assert (run / "20260131_120000" / "metrics.jsonl").exists()
    assert clean(run)[0].deleted == []


def test_only_what_is_asked_for_stays_and_no_pointer_leads_nowhere(run):
    clean(run, keep=["best"])
    assert names(run) == {"best_acc_epoch_2.pth"}


def test_what_a_user_copied_or_nobody_knows_stays(run):
    shutil.copy(run / "epoch_1.pth", run / "epoch_9.pth")  # not the name of its position
    shutil.copy(run / "epoch_1.pth", run / "good.pth")
    torch.save({"w": torch.ones(1)}, run / "iter_1.pth")
    age(run)
    clean(run)
    assert {"epoch_9.pth", "good.pth", "iter_1.pth"} <= names(run)


def test_names_that_the_config_gives(run):
    save(run, "ckpt_10.pth", 10)
    age(run)
    clean(run)
    assert "ckpt_10.pth" in names(run)
    (run / "config.json").write_text('{"filename_tmpl": "ckpt_{}.pth"}')
    age(run)
    clean(run)
    assert "ckpt_10.pth" not in names(run)


def test_the_parent_of_a_fork_stays(run):
    fork = run.parent / "b"
    fork.mkdir()
    start = {
        "start": 1,
        "folder": "20260131_120000",
        "from": {"run_id": "a", "path": str(run / "epoch_1.pth"), "iter": 10},
        "ended": {},
    }
    (fork / "run.json").write_text(json.dumps({"format": 1, "run_id": "b", "starts": [start]}))
    age(fork)
    clean(run.parent)
    assert "epoch_1.pth" in names(run)
    assert "epoch_2.pth" not in names(run)


def test_nothing_is_deleted_beside_a_run_that_cannot_say_what_it_went_on_from(run):
    (run.parent / "b").mkdir()
    (run.parent / "b" / "run.json").write_text('{"format": 1, "run_id": "b", "starts": [{"start": 1, "from": {')
    before = names(run)
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"b/run\.json is damaged: .* until then nothing is deleted"):
            clean(run.parent, dry_run=dry_run)
    assert names(run) == before


def test_what_an_earlier_run_left_in_the_folder_of_its_start_is_cleaned_by_itself(run):
    moved = run / "20260131_120000"
    for iteration in (10, 20):
        save(moved, f"epoch_{iteration // 10}.pth", iteration, "former")
    age(moved)
    assert {each.folder for each in clean(run)} == {str(run), str(moved)}
    assert names(moved) == {"epoch_2.pth", "metrics.jsonl"}


def test_a_young_run_and_one_at_work_are_left_alone(run):
    os.utime(run / "20260131_120000" / "metrics.jsonl")
    (left,) = clean(run)
    assert left.reason.startswith("written 0.0 days ago")
    age(run)
    start = {"start": 1, "folder": "20260131_120000", "host": os.uname().nodename, "pid": os.getpid(), "ended": None}
    (run / "run.json").write_text(json.dumps({"format": 1, "run_id": "a", "starts": [start]}))
    age(run)
    assert clean(run)[0].reason == "a start is at work in it"
    assert len(names(run)) == 9


def test_the_command(run, capsys):
    assert command.main([str(run.parent), "--dry-run", "--older", "8w"]) == 0
    out = capsys.readouterr().out
    assert "would be deleted" in out
    assert "epoch_1.pth" in out
    assert command.main([str(run.parent), "--json", "--keep", "last", "--older", "1h"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["kept"] == ["epoch_3.pth"]
    assert command.main([str(run.parent), "--keep", "worst"]) == 2
    assert "keep=worst: worst is not accepted" in capsys.readouterr().err
    assert command.main([str(run / "none")]) == 2
    with pytest.raises(SystemExit):
        command.main([str(run), "--older", "month"])

"""What a run finds in its folder and did not write: nothing of it is written over, believed or followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import CheckpointError, list_checkpoints, read_checkpoint, summary_of, verify_checkpoint
from lazyengine.hooks import CheckpointHook
from lazyengine.runner import lock
from lazyengine.runner.lock import FolderLock
from lazyengine.runs import clean

from .toy import StopAt, toy_runner

Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs that failed in its third."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(InterruptedError):
        toy_runner(str(folder), hooks={"stop": StopAt(12)}).train()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def changed(path: Path, *changes: tuple[Path_, object]) -> None:
    """Change entries of a checkpoint, as somebody could who knows its form."""
    content = read_checkpoint(path)
    for where, value in changes:
        inside = content
        for key in where[:-1]:
            inside = inside[key]
        inside[where[-1]] = value
    torch.save(content, path)


def log_of(runner) -> str:
    return next(Path(runner.log_dir).glob("*.log")).read_text()


# ------------------------------------------------------------------------------------------ crafted checkpoints
CRAFTED: list[tuple[Path_, object]] = [
    (("meta",), "a text"),
    (("meta", "epoch"), "2"),
    (("meta", "run_id"), ["a"]),
    (("meta", "format_version"), 99),
    (("meta", "frozen"), {"net.0.weight": 5}),
    (("meta", "experiment"), [1]),
    (("meta", "data"), {"train": None}),
    (("state_dict",), None),
    (("state_dict",), [1]),
    (("state_dict", "net.0.weight"), b"bytes"),
    (("state_dict", "net.0.weight"), 0.5),
    (("optimizer",), []),
    (("optimizer", "param_groups"), {}),
    (("optimizer", "param_groups", 0), {"lr": 0.1}),
    (("optimizer", "param_groups", 0, "lr"), "CUDA"),
    (("optimizer", "param_groups", 0, "params"), ["../x"]),
    (("optimizer", "state"), 5),
    (("optimizer", "optim_wrapper"), "x"),
    *((("optimizer", "optim_wrapper", name), "x") for name in ("num_optimizer_steps", "inner_count", "num_steps_owed")),
    (("optimizer", "optim_wrapper", "num_optimizer_steps"), -1),
    *((("optimizer", "optim_wrapper", "as_built"), value) for value in (5, [], ["x"])),
    (("param_schedulers",), "x"),
    (("param_schedulers", 0), 1),
    (("param_schedulers", 0, "last_step"), "9"),
    (("train_loop",), {}),
    (("train_loop", "iter"), 10**30 * 1.0),
    (("train_loop", "batch"), None),
    (("train_loop", "val_due"), "yes"),
    (("train_loop", "epoch_length"), 0),
    (("message_hub",), {"log_scalars": {}}),
    (("message_hub", "log_scalars", "train/loss"), {}),
    (("message_hub", "log_scalars", "train/loss", "older"), ()),
    (("hooks",), [1]),
    (("ranks",), {"a": 1}),
    (("ranks",), ["x"]),
]


@pytest.mark.parametrize(("where", "value"), CRAFTED, ids=lambda value: str(value)[:40])
def test_a_resume_passes_over_a_checkpoint_that_cannot_be_one(run, where, value):
    changed(run / "epoch_2.pth", (where, value))
    assert summary_of(run / "epoch_2.pth").flaw
    runner = toy_runner(str(run), resume=True, max_epochs=1)
    runner.train()
    assert "epoch_2.pth: " in log_of(runner)
    assert "epoch_1.pth: 1 epoch and 5 iterations are done" in log_of(runner)
    with pytest.raises(CheckpointError, match=r"epoch_2\.pth cannot be resumed: it"):
        toy_runner(str(run), resume=str(run / "epoch_2.pth")).train()


DEEP: list[tuple[Path_, object]] = [
    (("optimizer", "state", 0, "exp_avg"), torch.zeros(3)),
    (("optimizer", "state", 0, "exp_avg"), 0.5),
    (("optimizer", "state", 0, "exp_avg_sq"), None),
    (("optimizer", "state", 1, "exp_avg_sq"), [1.0]),
    (("optimizer", "state", 1, "step"), torch.zeros(4)),
    (("optimizer", "state", 0), {"step": torch.tensor(1.0)}),
    (("optimizer", "param_groups", 0, "betas"), "ab"),
    (("optimizer", "param_groups", 0, "betas"), (0.9,)),
    (("optimizer", "param_groups", 0, "eps"), "x"),
    (("optimizer", "param_groups", 0, "weight_decay"), [1]),
]


@pytest.mark.parametrize(("where", "value"), DEEP, ids=lambda value: str(value)[:40])
def test_a_resume_passes_over_the_state_of_an_optimizer_that_this_one_cannot_have(run, where, value):
    changed(run / "epoch_2.pth", (where, value))
    runner = toy_runner(str(run), resume=True, max_epochs=1)
    runner.train()
    assert "epoch_2.pth: it is damaged, or not a checkpoint" in log_of(runner)
    assert "epoch_1.pth: 1 epoch and 5 iterations are done" in log_of(runner)
    with pytest.raises(CheckpointError, match=r"epoch_2\.pth cannot be resumed: .* its optimizer cannot be"):
        toy_runner(str(run), resume=str(run / "epoch_2.pth")).train()


@pytest.mark.parametrize(
    "shards",
    [
        {"folder": "..", "files": {}},
        {"folder": ".", "files": {}},
        {"folder": "epoch_2.pth.0123abcd.shards", "files": {"../../secret": {"size": 1}}},
        {"folder": "epoch_2.pth.0123abcd.shards", "files": [1]},
        {"folder": 5, "files": None},
    ],
    ids=str,
)
def test_shards_that_lie_elsewhere_are_not_read(run, shards):
    (run / "epoch_2.pth.0123abcd.shards").mkdir()
    (run.parent / "secret").write_text("x")
    changed(run / "epoch_2.pth", (("shards",), shards))
    with pytest.raises(CheckpointError):
        verify_checkpoint(run / "epoch_2.pth")
    runner = toy_runner(str(run), resume=True, max_epochs=1)
    runner.train()
    assert "epoch_1.pth: 1 epoch and 5 iterations are done" in log_of(runner)


@pytest.mark.parametrize("name", ["..", ".", "code", "../other", "/tmp", 5, ["a"], "link"])
def test_the_first_start_in_a_checkpoint_is_no_path(run, name):
    (run.parent / "other").mkdir()
    (run / "link").symlink_to(run.parent / "other")
    changed(run / "epoch_2.pth", (("message_hub", "runtime_info", "first_start"), name))
    before = set(run.parent.rglob("tensorboard"))
    runner = toy_runner(str(run), resume=True)
    runner.train()
    new = set(run.parent.rglob("tensorboard")) - before
    assert new == {Path(runner.log_dir) / "tensorboard"}


# ------------------------------------------------------------------------------------------ files in the way
def test_files_of_others_in_the_way_go_to_earlier(tmp_path):
    mine = {
        "epoch_1.pth": b"not a checkpoint",
        "last_checkpoint": b"/somewhere/else.pth\n",
        "preempted.pth": b"mine",
    }
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    runner = toy_runner(str(tmp_path), max_epochs=1)
    runner.train()
    assert summary_of(tmp_path / "epoch_1.pth").run_id == runner.folder.run_id
    for name in ("epoch_1.pth", "last_checkpoint"):
        assert (tmp_path / "earlier" / name).read_bytes() == mine[name]
        assert f"{tmp_path / name} is not of this run; it was moved to {tmp_path / 'earlier' / name}" in log_of(runner)
    assert (tmp_path / "preempted.pth").read_bytes() == mine["preempted.pth"]


def test_a_renamed_copy_in_the_way_is_kept_too(run):
    shutil.copy(run / "epoch_1.pth", run / "epoch_3.pth")
    copy = (run / "epoch_3.pth").read_bytes()
    (run / "epoch_2.pth").unlink()
    (run / "last_checkpoint").write_text("epoch_1.pth\n")
    toy_runner(str(run), resume=str(run / "epoch_1.pth")).train()
    assert (run / "earlier" / "epoch_3.pth").read_bytes() == copy
    assert summary_of(run / "epoch_3.pth").epoch == 3


@pytest.mark.parametrize("template", ["{}_net_v2.pth", "model_{}.ckpt", "a{}b7.pt"])
def test_odd_names_are_moved_and_found_as_well(tmp_path, template):
    hooks = {"checkpoint": CheckpointHook(filename_tmpl=template)}
    first = toy_runner(str(tmp_path), max_epochs=2, hooks=hooks)
    first.train()
    hooks = {"checkpoint": CheckpointHook(filename_tmpl=template)}
    toy_runner(str(tmp_path), max_epochs=1, hooks=hooks).train()
    moved = tmp_path / first.timestamp
    assert {path.name for path in moved.glob(template.format("*"))} == {template.format(1), template.format(2)}
    assert [Path(path).name for path in list_checkpoints(tmp_path)] == [template.format(1)]
    assert not (tmp_path / "earlier").exists()


def test_links_that_lie_in_the_way_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("epoch_1.pth", "last_checkpoint", "config.py", "lock.json"):
        (run / name).symlink_to(outside if name != "lock.json" else tmp_path / "nowhere")
    (run / "epoch_1.pth.0123abcd.shards").symlink_to(tmp_path)
    toy_runner(str(run), max_epochs=1).train()
    assert outside.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert summary_of(run / "epoch_1.pth").iter == 5
    assert not (run / "lock.json").is_symlink()
    assert (run / "earlier" / "epoch_1.pth").is_symlink()


def test_a_folder_for_checkpoints_that_two_runs_of_one_name_share_mixes_nothing_up(tmp_path):
    def runner(place: str, **kwargs):
        hooks = {"checkpoint": CheckpointHook(out_dir=str(tmp_path / "all"))}
        return toy_runner(str(tmp_path / place / "run"), max_epochs=1, hooks=hooks, **kwargs)

    first, second = runner("a"), runner("b")
    first.train()
    with pytest.raises(CheckpointError, match="is of another run, whose folder has the same name"):
        runner("b", resume=True).train()
    second.train()
    shared = tmp_path / "all" / "run"
    assert summary_of(shared / "epoch_1.pth").run_id == second.folder.run_id
    assert summary_of(shared / "earlier" / "epoch_1.pth").run_id == first.folder.run_id
    with pytest.raises(CheckpointError, match="is of another run, whose folder has the same name"):
        runner("a", resume=True).train()
    with pytest.raises(FileNotFoundError, match="no latest checkpoint"):
        runner("a").test(checkpoint="latest")
    assert runner("b", resume=True).train() is not None
    assert runner("a", resume=str(shared / "earlier" / "epoch_1.pth")).train() is not None


# ------------------------------------------------------------------------------------------ run.json and the lock
@pytest.mark.parametrize(
    "change",
    [
        {"from": ".."},
        {"from": "../other"},
        {"names": ["../../thesis.txt"]},
        {"names": [".."]},
        {"to": ".."},
        {"draft": "thesis.txt"},
        {"names": 5},
    ],
    ids=str,
)
def test_a_journal_moves_nothing_that_is_no_file_of_the_run(run, change):
    (run.parent / "thesis.txt").write_text("precious")
    record = json.loads((run / "run.json").read_text())
    journal = {"start": 1, "run_id": "x", "from": ".", "to": "earlier", "names": [], "draft": ".a.tmp", "name": "b.pth"}
    (run / "run.json").write_text(json.dumps({**record, "moving": {**journal, **change}}))
    files = {path: path.read_bytes() for path in run.parent.glob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        toy_runner(str(run), resume=True).train()
    assert {path: path.read_bytes() for path in files} == files
    assert [Path(path).name for path in list_checkpoints(run)] == ["epoch_2.pth", "epoch_1.pth"]


def test_a_move_whose_checkpoint_is_gone_is_undone(run):
    record = json.loads((run / "run.json").read_text())
    journal = {"start": 1, "run_id": "x", "from": ".", "to": "earlier", "draft": ".epoch_1.pth.0.tmp"}
    names = ["epoch_1.pth", "epoch_2.pth", "last_checkpoint"]
    (run / "earlier").mkdir()
    (run / "epoch_2.pth").rename(run / "earlier" / "epoch_2.pth")
    (run / "run.json").write_text(json.dumps({**record, "moving": {**journal, "names": names, "name": "epoch_1.pth"}}))
    runner = toy_runner(str(run), resume=True)
    runner.train()
    assert "epoch_2.pth: 2 epochs and 10 iterations are done" in log_of(runner)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x", "host": 5}', '{"host": "elsewhere"}'])
def test_a_lock_that_says_nothing_is_taken_over_when_nobody_renews_it(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "SILENT_S", 0.01)
    (tmp_path / lock.NAME).write_text(content)
    mine = FolderLock(str(tmp_path))
    assert mine.acquire() is not None
    mine.check()
    mine.release()
    assert not (tmp_path / lock.NAME).exists()


def test_clean_follows_no_link_and_leaves_the_files_of_others(run):
    other = Path(shutil.copytree(run, run.parent / "other"))
    (run / "linked").symlink_to(other)
    (run / "epoch_1.pth.backup.shards").mkdir()
    done = clean(run, keep=["last"], older_s=0)
    assert [each.deleted for each in done] == [["epoch_1.pth"]]
    assert (other / "epoch_1.pth").is_file()
    assert (run / "epoch_1.pth.backup.shards").is_dir()

"""What an earlier run left in a folder goes with it, whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import read_checkpoint, save_checkpoint, summary_of
from lazyengine.cli import train as command
from lazyengine.config import LazyConfig
from lazyengine.hooks import Hook

from ..runs.toy import make_project
from .toy import StopAt, toy_runner


def test_the_shards_of_an_earlier_run_are_moved_with_its_checkpoint(tmp_path):
    """The new run saves under the same name, and removes the shards of what it replaces: its own alone."""
    first = toy_runner(str(tmp_path), max_epochs=1)
    first.train()
    path = tmp_path / "epoch_1.pth"
    shards = tmp_path / "epoch_1.pth.0123abcd.shards"
    checkpoint = read_checkpoint(path)
    save_checkpoint({**checkpoint, "shards": {"folder": shards.name}}, path)
    shards.mkdir()
    (shards / "rank_0").write_text("weights")
    other = tmp_path / "epoch_1.pth.ffff0000.shards"  # what a killed save left
    other.mkdir()
    assert summary_of(path).shards == shards.name
    toy_runner(str(tmp_path), max_epochs=1).train()
    moved = tmp_path / json.loads((tmp_path / "run.json").read_text())["starts"][0]["folder"]
    assert (moved / "epoch_1.pth").is_file()
    assert (moved / shards.name / "rank_0").read_text() == "weights"
    assert not shards.exists()
    assert summary_of(path).run_id != checkpoint["meta"]["run_id"]


def test_each_start_has_a_folder_of_its_own_where_the_path_holds_the_time(tmp_path):
    runners = [toy_runner(str(tmp_path / "{time}"), max_epochs=1) for _ in range(2)]
    for runner in runners:
        runner.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(runner.timestamp for runner in runners)
    assert all((tmp_path / runner.timestamp / "epoch_1.pth").is_file() for runner in runners)
    with pytest.raises(ValueError, match="a new folder for each start, which holds nothing to resume from"):
        toy_runner(str(tmp_path / "{time}"), resume=True)


@pytest.mark.parametrize("options", [[], ["--fast-dev-run", "1"]])
def test_a_folder_on_the_command_line_may_hold_the_config_and_the_time(tmp_path, monkeypatch, options):
    config = make_project(tmp_path, "toy_named")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command.main([str(config), "--work-dir", "all/{config}/{time}", "train_loop.max_epochs=1", *options]) == 0
    runs = list((tmp_path / "all" / "toy_named").iterdir())
    trained = [run for run in runs if (run / "config.py").is_file()]
    assert [LazyConfig.load(str(run / "config.py")).runner.work_dir for run in trained] == [
        f"all/toy_named/{trained[0].name}"
    ]
    assert json.loads((trained[0] / "run.json").read_text())["starts"][0]["folder"] == trained[0].name


def test_weights_of_the_folder_itself_are_the_same_ones_at_the_next_beginning(tmp_path):
    """They were moved with their run, and the new run's file has their name now."""
    first = toy_runner(str(tmp_path), max_epochs=1)
    first.train()
    path, ends = str(tmp_path / "epoch_1.pth"), []
    for _ in range(3):
        runner = toy_runner(str(tmp_path), max_epochs=1, load_from=path)
        runner.train()
        ends.append(read_checkpoint(path)["state_dict"])
        (weights,) = [each["weights"] for each in runner.folder.read()["starts"][-1:]]
        assert weights == {"path": path, "run_id": first.folder.run_id, "iter": 5}
    for end in ends[1:]:
        assert all(torch.equal(end[key], value) for key, value in ends[0].items())
    moved = tmp_path / first.timestamp / "epoch_1.pth"
    evaluated = toy_runner(str(tmp_path))
    evaluated.test(checkpoint=path)  # the file itself
    assert evaluated.loaded_meta["run_id"] == runner.folder.run_id
    assert f"these weights are in {moved} now" in next(Path(runner.log_dir).glob("*.log")).read_text()


class Elsewhere(Hook):
    """Saves where it likes, before anybody else does."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            runner.save_checkpoint("mine.pth", out_dir=self.folder)
            runner.wait_for_checkpoints()


def test_a_save_of_a_hook_elsewhere_begins_nothing_anew_in_the_folder(tmp_path):
    first = toy_runner(str(tmp_path / "run"), max_epochs=1)
    first.train()
    hooks = {"mine": Elsewhere(str(tmp_path / "far")), "stop": StopAt(3)}
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path / "run"), hooks=hooks).train()
    assert (tmp_path / "far" / "mine.pth").is_file()
    assert summary_of(tmp_path / "run" / "epoch_1.pth").run_id == first.folder.run_id == first.folder.read()["run_id"]

"""What an earlier run left in a folder goes with it, whole."""

from __future__ import annotations

import json

from lazyengine.checkpoint import read_checkpoint, save_checkpoint, summary_of

from .toy import toy_runner


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

"""An evaluation knows its weights, says which, and leaves the record of training alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import find_checkpoint
from lazyengine.cli.mistakes import refuse
from lazyengine.hooks import CheckpointHook, EMAHook
from lazyengine.runs import compare_runs, read_outlines, read_run

from .toy import toy_runner


def trained(folder, **hooks):
    hooks = {"checkpoint": CheckpointHook(save_best="error", rule="less"), **hooks}
    runner = toy_runner(str(folder), hooks=hooks)
    runner.train()
    return runner


def test_a_checkpoint_is_found_by_name_or_iteration(tmp_path):
    runner = trained(tmp_path)
    assert find_checkpoint(tmp_path) == find_checkpoint(str(tmp_path), "latest")
    assert find_checkpoint(tmp_path, "best") == str(tmp_path / runner.hooks["checkpoint"].best_names["error"])
    assert find_checkpoint(tmp_path, 10).startswith(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of iteration 7 in .*epoch_1.pth"):
        find_checkpoint(tmp_path, 7)
    with pytest.raises(ValueError, match="expected 'best', 'latest' or a number of iterations"):
        find_checkpoint(tmp_path, "newest")


@pytest.mark.parametrize("hooks", [{}, {"ema": EMAHook(momentum=0.5)}], ids=["plain", "ema"])
def test_another_checkpoint_is_evaluated_after_training_and_training_keeps_its_weights(tmp_path, hooks):
    runner = trained(tmp_path, **hooks)
    best, own = runner.hooks["checkpoint"].best.scores["error"], runner.val()
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    assert runner.test(checkpoint="best") == {"error": best}
    first = runner.val(checkpoint=5)
    assert first == toy_runner(str(tmp_path)).test(checkpoint=5) != own
    assert all(torch.equal(before[key], value) for key, value in runner.model.state_dict().items())
    assert runner.val() == own


def test_an_evaluation_writes_into_its_own_folder_and_leaves_the_record(tmp_path):
    trained(tmp_path)
    record, run = (tmp_path / "run.json").read_bytes(), read_run(tmp_path)
    compared = compare_runs(read_outlines([tmp_path]), ["val/error"]).as_text()
    runner = toy_runner(str(tmp_path))
    runner.test(checkpoint="best")
    assert (tmp_path / "run.json").read_bytes() == record
    said = json.loads((tmp_path / runner.timestamp / "start.json").read_text())
    assert said["kind"] == "evaluate"
    assert said["from"]["path"] == find_checkpoint(tmp_path, "best")
    assert said["from"]["run_id"] == json.loads(record)["run_id"]
    after = read_run(tmp_path)
    assert (after.curves, after.records) == (run.curves, run.records)
    assert compare_runs(read_outlines([tmp_path]), ["val/error"]).as_text() == compared


def log_of(runner) -> str:
    return Path(runner.logger.log_file).read_text()


@pytest.mark.parametrize(
    ("strip", "says"),
    [
        (lambda whole: {"state_dict": whole["state_dict"]}, "which does not say of which iteration it is"),
        (lambda whole: dict(whole["state_dict"]), "which does not say of which iteration it is"),
        (lambda whole: {**whole, "meta": {"classes": ["a"]}}, "which does not say of which iteration it is"),
        (lambda whole: whole, "iteration 15"),
    ],
    ids=["weights alone", "a state dict", "a foreign meta", "a checkpoint"],
)
def test_a_file_without_an_iteration_is_not_said_to_be_of_the_first(tmp_path, strip, says):
    runner = trained(tmp_path / "run")
    path = str(tmp_path / "published.pth")
    torch.save(strip(torch.load(find_checkpoint(tmp_path / "run"), weights_only=True)), path)
    for evaluating in (runner, toy_runner(str(tmp_path / "other"))):  # behind a training, too
        evaluating.test(checkpoint=path)
        assert f"evaluating {path}, {says}\n" in log_of(evaluating)
    said = json.loads((tmp_path / "other" / evaluating.timestamp / "start.json").read_text())
    assert said["from"]["iter"] == (15 if says == "iteration 15" else None)
    runner.test()
    assert "evaluating the weights that the model has\n" in log_of(runner)


def test_weights_that_were_trained_on_are_not_said_to_be_those_of_the_file(tmp_path):
    torch.save(toy_runner(str(tmp_path / "first")).model.state_dict(), path := str(tmp_path / "pretrained.pth"))
    runner = toy_runner(str(tmp_path / "run"), max_epochs=1, load_from=path)
    runner.train()
    runner.test()
    assert "evaluating the weights that the model has\n" in log_of(runner)
    assert json.loads((Path(runner.folder.evaluation_dir) / "start.json").read_text())["from"] is None


def test_a_damaged_run_record_is_refused_and_kept(tmp_path):
    trained(tmp_path)
    for content in ('{"format": 1, "starts": [', "[]", '{"format": 1, "starts": [{}]}', '{"format": 99, "starts": []}'):
        (tmp_path / "run.json").write_text(content)
        for resume in (False, True):
            with pytest.raises(ValueError, match=r"run.json (is damaged|has format 99)") as refused:
                toy_runner(str(tmp_path), resume=resume).train()
            assert refuse(refused.value) == 2
        assert (tmp_path / "run.json").read_text() == content
        assert not (tmp_path / "lock.json").exists()
    (tmp_path / "run.json").unlink()
    toy_runner(str(tmp_path), resume=True).train()

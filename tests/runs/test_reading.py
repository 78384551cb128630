"""The starts of a run: their order, which of them count, and what resumes changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lazyengine.checkpoint import find_checkpoint
from lazyengine.cli import compare, plot
from lazyengine.hooks import CheckpointHook
from lazyengine.logging import MetricsWriter
from lazyengine.runner.folder import RunFolder
from lazyengine.runs import choose_keys, differences, read_outlines, read_run, read_runs, read_starts, rerun, status_of
from lazyengine.runs.lineage import led_to_end

from ..runner.toy import StopAt, toy_runner


def record(folder: Path, steps: range, value: float, *, resumed: int | None = None, mode: str = "train") -> None:
    """Write the records of a start."""
    metrics = MetricsWriter(folder / "metrics.jsonl")
    metrics.start(resumed)
    for step in steps:
        metrics.write({"loss": value}, step=step, epoch=1, mode=mode)
    metrics.close()


def list_starts(run: Path, *starts: dict[str, Any], run_id: str = "a", **more: Any) -> None:
    """Write ``run.json``."""
    known = {"kind": "train", "from": None, "changes": [], "code": None, "ended": None}
    entries = [{**known, "start": number, **start} for number, start in enumerate(starts, 1)]
    (run / "run.json").write_text(json.dumps({"format": 1, "run_id": run_id, "starts": entries, **more}))


def origin(iteration: int) -> dict[str, Any]:
    return {"run_id": "a", "path": f"iter_{iteration}.pth", "iter": iteration, "epoch": 0, "hash": "0"}


def test_starts_are_joined_by_their_counter_whatever_a_clock_said(tmp_path):
    """The resumed start has the earlier time: the clock was set back in between."""
    record(tmp_path / "20260131_120000", range(1, 6), 1.0)
    record(tmp_path / "20260130_120000", range(4, 8), 2.0, resumed=3)
    list_starts(tmp_path, {"folder": "20260131_120000"}, {"folder": "20260130_120000", "from": origin(3)})
    run = read_run(tmp_path)
    assert run.curves["train/loss"] == (list(range(1, 8)), [1.0] * 3 + [2.0] * 4)
    assert [start.number for start in run.starts] == [1, 2]


def test_an_evaluation_does_not_join_the_curves_of_the_training(tmp_path):
    record(tmp_path / "20260131_120000", range(1, 6), 1.0)
    record(tmp_path / "20260131_130000", range(5, 6), 9.0, mode="val")
    list_starts(tmp_path, {"folder": "20260131_120000"}, {"folder": "20260131_130000", "kind": "evaluate"})
    assert [*read_run(tmp_path).curves] == ["train/loss"]
    assert read_run(tmp_path / "20260131_130000").curves["val/loss"] == ([5], [9.0])  # asked for by itself
    (tmp_path / "run.json").unlink()
    assert [*read_run(tmp_path).curves] == ["train/loss"]  # nor in a folder of version 0.1


def test_a_folder_of_evaluations_alone_shows_these(tmp_path):
    record(tmp_path / "20260131_130000", range(5, 6), 9.0, mode="test")
    for _ in range(2):
        assert [*read_run(tmp_path).curves] == ["test/loss"]
        list_starts(tmp_path, {"folder": "20260131_130000", "kind": "evaluate"})


def test_of_several_runs_in_a_folder_the_present_one_is_read(tmp_path):
    record(tmp_path / "20260131_120000", range(1, 9), 1.0)
    record(tmp_path / "20260131_130000", range(3, 5), 2.0)
    list_starts(tmp_path, {"folder": "20260131_120000", "run_id": "former"}, {"folder": "20260131_130000"})
    assert read_run(tmp_path).curves["train/loss"] == ([3, 4], [2.0] * 2)


def test_starts_of_version_01_come_before_those_that_are_listed(tmp_path):
    record(tmp_path / "20260131_120000_2", range(1, 4), 1.0)
    record(tmp_path / "20260131_120000_10", range(3, 6), 2.0, resumed=2)
    record(tmp_path / "20260101_120000", range(5, 7), 3.0, resumed=4)
    list_starts(tmp_path, {"folder": "20260101_120000", "from": origin(4)})
    assert read_run(tmp_path).curves["train/loss"] == ([1, 2, 3, 4, 5, 6], [1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    list_starts(tmp_path, {"folder": "20260101_120000"})  # it began anew
    assert read_run(tmp_path).curves["train/loss"] == ([5, 6], [3.0, 3.0])


def test_a_start_that_recorded_nothing_counts_for_nothing(tmp_path):
    record(tmp_path / "20260131_120000", range(1, 3), 1.0)
    list_starts(tmp_path, {"folder": "20260131_120000"}, {"folder": "gone", "from": origin(1)})
    assert read_run(tmp_path).curves["train/loss"][0] == [1, 2]


@pytest.mark.parametrize("how", ["finished", "stopped"])
def test_a_start_that_did_nothing_but_the_validation_that_was_due_is_part_of_the_curve(tmp_path, how):
    """A run that was stopped in a validation goes on with it: behind the last iteration nothing else is left."""
    record(tmp_path / "0", range(1, 5), 1.0)
    record(tmp_path / "1", range(4, 5), 0.5, resumed=4, mode="val")
    record(tmp_path / "2", range(0), 0.0, resumed=4)
    first = {"folder": "0", "ended": {"how": "stopped", "iter": 4}}
    due = {"folder": "1", "from": origin(4), "ended": {"how": how, "iter": 4}}
    list_starts(tmp_path, first, due, {"folder": "2", "from": origin(4), "ended": {"how": "failed", "iter": 4}})
    assert [start.number for start in led_to_end(read_run(tmp_path).starts)] == [1, 2]
    assert read_run(tmp_path).curves["val/loss"] == ([4], [0.5])


def test_changes_of_resumes_stand_in_the_table(tmp_path, capsys):
    for name in ("a", "b"):
        record(tmp_path / name / "20260131_120000", range(1, 300, 100), 1.0)
    decay = {
        "path": "optimizer.weight_decay",
        "was": 0.05,
        "is": 0.5,
        "effect": "in force",
        "from_iter": 120,
        "why": "",
    }
    width = {"path": "model.width", "was": 8, "is": 9, "effect": "refused", "from_iter": 120, "why": ""}
    rate = {"path": "optimizer.lr", "was": 0.1, "is": 0.2, "effect": "without effect", "from_iter": 120, "why": ""}
    start = {"folder": "20260131_120000", "changes": [decay, width, rate, {**decay, "was": 0.5, "is": 0.6}]}
    list_starts(tmp_path / "a", start)
    values = {"optimizer": {"$call": "x:Y", "$with": {"weight_decay": 0.6, "lr": 0.2}}}
    (tmp_path / "a" / "config.json").write_text(json.dumps({"values": values}))
    (tmp_path / "b" / "config.json").write_text(json.dumps({"values": values}))
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert differences(runs) == {
        "optimizer.weight_decay": ["0.05 -> 0.5 @ 120 -> 0.6 @ 120", "0.6"],
        "optimizer.lr": ["0.1 (0.2 without effect)", "0.2"],
    }
    assert compare.main([str(run.path) for run in runs]) == 0
    assert "0.05 -> 0.5 @ 120" in capsys.readouterr().out


def test_tables_as_json(tmp_path, capsys):
    record(tmp_path / "start", range(1, 4), float("nan"))
    assert compare.main([str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert row["last"] == {"train/loss": {"mean": None, "std": None, "values": [None], "steps": [3]}}
    assert row["iterations"] == [3]
    assert plot.main([str(tmp_path), "--json", "--keys", "loss"]) == 0
    assert json.loads(capsys.readouterr().out)[tmp_path.name]["train/loss"]["steps"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: JSONDecodeError"),
        ("[]", "is damaged: TypeError"),
        ('{"format": 1, "starts": [1]}', "is damaged: TypeError"),
        ('{"format": 2, "starts": []}', "format 2, this lazyengine reads up to 1"),
        ('{"format": 1, "starts": [{"start": 1, "folder": "../../etc"}]}', "is not the name of a folder"),
        ('{"format": 1, "starts": [{"start": 1, "folder": ".."}]}', "is not the name of a folder"),
        ('{"format": 1, "starts": [{"start": 1}]}', "is not the name of a folder"),
        ('{"format": 1, "starts": [{"folder": "a"}]}', "is damaged: KeyError"),
    ],
)
def test_a_damaged_run_file_is_named(tmp_path, text, message, capsys):
    record(tmp_path / "20260131_120000", range(1, 3), 1.0)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_starts(tmp_path)
    assert compare.main([str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["epochs", "preempted"])
def test_folders_of_version_01(name, tmp_path):
    """They are read, and what a rerun would need is named."""
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).resolve().parents[1] / "golden_runs" / "v0.1.0" / name / "run", run)
    (read,) = read_runs([run])
    assert (len(read.curves["train/loss"][0]) > 0, len(read.config) > 0) == (True, True)
    assert "the code of start 1: none was kept" in rerun(run, verify=True).missing


def test_keys_of_a_run_that_began_but_recorded_nothing(tmp_path):
    list_starts(tmp_path, {"folder": "20260131_120000"})
    run = read_run(tmp_path)
    assert (run.curves, run.records, choose_keys([run], None)) == ({}, [], [])


def many() -> CheckpointHook:
    return CheckpointHook(max_keep_ckpts=10)


def test_a_start_that_went_back_and_saved_nothing_is_no_part_of_the_curve(tmp_path):
    """It went on from the first epoch and failed; the next start goes on from the third."""
    toy_runner(str(tmp_path), hooks={"checkpoint": many()}).train()
    back = toy_runner(str(tmp_path), resume=str(tmp_path / "epoch_1.pth"), hooks={"checkpoint": many(), "s": StopAt(7)})
    with pytest.raises(InterruptedError):
        back.train()
    toy_runner(str(tmp_path), resume=True, max_epochs=4, hooks={"checkpoint": many()}).train()
    run, (outline,) = read_run(tmp_path), read_outlines([tmp_path])
    assert [(start.number, start.origin and start.origin["iter"]) for start in run.starts] == [
        (1, None),
        (2, 5),
        (3, 15),
    ]
    assert [start.number for start in led_to_end(run.starts)] == [1, 3]
    assert run.curves["train/loss"][0] == [5, 10, 15, 20]
    assert outline.iterations == 20


def go_back(run, iteration, **options) -> None:
    """Go on from the first of three epochs, as far as an iteration; epochs are of five."""
    hooks = {"checkpoint": many(), "stop": StopAt(iteration)}
    with pytest.raises(InterruptedError):
        toy_runner(str(run), resume=str(run / "epoch_1.pth"), hooks=hooks, **options).train()


def shown(run) -> tuple[list[int], list[int], int, str]:
    """The starts that led to where the run stands, their curve, and what `ps` says."""
    read, (outline,), status = read_run(run), read_outlines([run]), status_of(run)
    steps = read.curves["train/loss"][0]
    assert outline.iterations == steps[-1]
    return [start.number for start in led_to_end(read.starts)], steps, status.step, status.reason


@pytest.mark.parametrize("is_killed", [False, True])
def test_weights_and_curves_belong_together_until_a_start_that_went_back_saves(tmp_path, is_killed):
    toy_runner(str(tmp_path), hooks={"checkpoint": many()}).train()
    go_back(tmp_path, 7)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["starts"][1]["passed_over"] == {"path": str(tmp_path / "epoch_3.pth"), "iter": 15}
    if is_killed:  # without a word
        record["starts"][1]["ended"] = None
        (tmp_path / "run.json").write_text(json.dumps(record))
    *led, reason = shown(tmp_path)
    assert led == [[1], [5, 10, 15], 15]
    assert reason.startswith("start 2, from iteration 5, saved nothing; the weights are those of epoch_3.pth")
    assert find_checkpoint(tmp_path) == str(tmp_path / "epoch_3.pth")
    go_back(tmp_path, 12)  # once more: this one saves, and replaces epoch_2.pth
    assert shown(tmp_path) == ([1, 3], [5, 10], 12, "InterruptedError: killed")
    assert find_checkpoint(tmp_path) == str(tmp_path / "epoch_2.pth")


def test_a_kill_right_after_the_first_checkpoint_of_a_start_that_went_back(tmp_path, monkeypatch):
    toy_runner(str(tmp_path), hooks={"checkpoint": many()}).train()

    def killed(self: RunFolder, path: str) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "settle", killed)
        with pytest.raises(RuntimeError, match="killed"):
            toy_runner(str(tmp_path), resume=str(tmp_path / "epoch_1.pth"), hooks={"checkpoint": many()}).train()
    assert "passed_over" in json.loads((tmp_path / "run.json").read_text())["starts"][1]
    assert find_checkpoint(tmp_path) == str(tmp_path / "epoch_2.pth")
    assert shown(tmp_path)[0] == [1, 2]


def test_a_start_from_a_copy_of_the_newest_checkpoint_passes_nothing_over(tmp_path):
    toy_runner(str(tmp_path), hooks={"checkpoint": many()}).train()
    shutil.copy(tmp_path / "epoch_3.pth", tmp_path / "kept.pth")
    hooks = {"checkpoint": many(), "stop": StopAt(17)}
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path), resume=str(tmp_path / "kept.pth"), max_epochs=4, hooks=hooks).train()
    assert shown(tmp_path) == ([1, 2], [5, 10, 15], 17, "InterruptedError: killed")


def test_a_start_that_trained_nothing_changed_nothing(tmp_path):
    toy_runner(str(tmp_path)).train()
    idle = toy_runner(str(tmp_path), resume=True)
    idle.optim_wrapper.param_groups[0]["weight_decay"] = 0.5
    idle.train()  # the run has come to its end already
    run = read_run(tmp_path)
    assert [change["is"] for change in run.starts[-1].changes] == [0.5]
    assert run.changes == {}
    assert read_outlines([tmp_path])[0].changes == {}

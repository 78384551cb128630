"""A folder that one run has used and another begins in: killed at each call that changes it, it tells the truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lazyengine.checkpoint import find_checkpoint, read_checkpoint, save_checkpoint, summary_of
from lazyengine.runs import compare_runs, read_outlines, read_run

from .conftest import end_of, visible
from .faults import files_of

EARLIER = {"checkpoint": {"by_epoch": True}}
NEW = {"checkpoint": {"by_epoch": True}, "accumulate": 2}


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def owner_of(folder: Path) -> str:
    """The run that the newest checkpoint in a folder is of."""
    return summary_of(folder / (folder / "last_checkpoint").read_text().strip()).run_id


def as_version_0_1(folder: Path) -> None:
    """Let a run folder look as version 0.1 left it: no record, and checkpoints that name no run."""
    for path in folder.glob("*.pth"):
        checkpoint = read_checkpoint(path)
        for name in ("run_id", "start", "format_version", "experiment", "data"):
            checkpoint["meta"].pop(name)
        save_checkpoint(checkpoint, path)
    for path in (folder / "run.json", *folder.glob("*/env.json")):
        path.unlink()
    shutil.rmtree(folder / "code", ignore_errors=True)


def id_of(path: Path | str) -> str:
    return summary_of(path).run_id


def answers_of(lab, folder: Path, **spec) -> dict[str, tuple[str, int]]:
    """The run and the iteration of which the folder's readers speak: a search, an evaluation, `compare`."""
    found = find_checkpoint(folder, "latest")
    names = {key: value for key, value in spec.items() if key != "load_from"}
    assert lab.run(work_dir=folder, evaluate="latest", **names) == [0], lab.log
    said = json.loads(lab.log[lab.log.rindex("EVALUATED ") :].splitlines()[0].removeprefix("EVALUATED "))
    meta = read_checkpoint(found)["meta"]
    run = read_run(folder)
    trained = [start for start in run.starts if start.kind == "train"]
    ids = {start.run_id or id_of(found) for start in trained}  # of version 0.1 a start does not say
    iterations = compare_runs(read_outlines([folder]), ["val/error"]).rows[0].iterations[0]
    return {
        "search": (id_of(found), meta["iter"]),
        "evaluation": (said["run_id"] or id_of(found), said["iter"]),
        "compare": (*ids, iterations if len(ids) == 1 else -1),
    }


def kill_points(calls: dict[str, int]) -> list[tuple[str, int]]:
    return [(call, number) for call, most in calls.items() for number in range(1, most + 1)]


# A first save renames the complete file, the pointer, both configs and run.json twice; each is flushed twice.
EVERY = kill_points({"os.rename": 6, "os.replace": 14, "os.fsync": 24, "os.remove": 5})
SOME = kill_points({"os.rename": 4, "os.replace": 7})


@pytest.mark.parametrize(
    ("folder", "call", "count"),
    [
        *(("used", *point) for point in SOME),
        *(pytest.param("used", *point, marks=pytest.mark.suite) for point in EVERY if point not in SOME),
        *(pytest.param(f, *point, marks=pytest.mark.suite) for f in ("loaded", "version_0_1") for point in EVERY),
    ],
)
def test_a_new_beginning_killed_at_each_call_leaves_one_run_or_the_other(lab, tmp_path, folder, call, count):
    """The folder is either the earlier run's, which has ended, or the new one's, and all that read it agree on that."""
    run = tmp_path / "run"
    assert lab.run(work_dir=run, **EARLIER) == [0], lab.log
    if folder == "version_0_1":
        as_version_0_1(run)
    new = {**NEW, **({"load_from": str(run / "epoch_2.pth")} if folder == "loaded" else {})}
    earlier, before, first_run = end_of(run), set(visible(run)), owner_of(run)
    fault = {"call": call, "action": "KILL", "first": count, "match": str(tmp_path)}
    code = lab.run(fault, work_dir=run, resume=None, **new)
    assert code in ([-9], [0]), lab.log
    told = answers_of(lab, run, **new)
    assert len({run_id for run_id, _ in told.values()}) == 1, told
    owner, done = told["search"]
    assert done == told["evaluation"][1] <= told["compare"][1], told
    assert lab.run(work_dir=run, resume="auto", **NEW) == [0], lab.log
    assert f": {done // 6} epoch{'s' * (done != 6)} and {done} iterations are done" in lab.log
    assert owner_of(run) == owner
    is_new = owner != first_run
    if not is_new:
        assert end_of(run) == earlier
    elif folder != "loaded":
        assert end_of(run) == lab.expect(**NEW)
    assert {path.name for path in run.rglob("*.pth") if id_of(path) == first_run} == before  # nothing of it is lost
    assert {id_of(run / name) for name in visible(run)} == {owner}  # and nothing of it stands beside the new one's
    record = record_of(run)
    assert "moving" not in record
    assert record["run_id"] == owner
    assert not [path.name for path in run.iterdir() if path.name.startswith("lock.json")]
    assert answers_of(lab, run, **new)["compare"] == (owner, 12)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_kill_before_the_first_checkpoint_leaves_the_earlier_run(lab, tmp_path, count):
    assert lab.run(work_dir=tmp_path, **EARLIER) == [0], lab.log
    before, names = end_of(tmp_path), visible(tmp_path)
    late = {"checkpoint": {"by_epoch": True, "interval": 2, "save_best": None}, "accumulate": 2}
    fault = {"point": "after_train_iter", "count": count, "action": "KILL"}
    codes = lab.run(fault, work_dir=tmp_path, resume=None, **late)
    if codes == [-9]:
        assert visible(tmp_path) == names
        assert end_of(tmp_path) == before


def test_a_second_training_in_the_folder_is_refused_until_the_first_is_dead(lab, tmp_path):
    """The first is killed while it holds the folder; its lock is taken over, which is said."""
    fault = {"point": "after_train_iter", "count": 8, "action": "KILL"}
    assert lab.run(fault, work_dir=tmp_path, **EARLIER) == [-9], lab.log
    assert (tmp_path / "lock.json").is_file()
    assert lab.run(work_dir=tmp_path, resume="auto", **EARLIER) == [0], lab.log
    assert "the lock of process" in lab.log
    assert end_of(tmp_path) == lab.expect(**EARLIER)
    record = record_of(tmp_path)
    assert [each["ended"] and each["ended"]["how"] for each in record["starts"]] == [None, "finished"]
    assert [each["start"] for each in record["starts"]] == [1, 2]
    assert len({each["run_id"] for each in record["starts"]}) == 1


@pytest.mark.parametrize("async_save", [False, True])
def test_an_owner_that_stood_still_while_its_folder_was_taken_over_stops_and_writes_nothing(lab, tmp_path, async_save):
    """SIGSTOP, takeover from another host, SIGCONT: checkpoints, pointer, record and lock are the new owner's."""
    folder = tmp_path / "run"
    fault = {"point": "after_train_iter", "count": 11, "action": f"STOP {folder}"}
    assert lab.run(fault, work_dir=folder, checkpoint={"by_epoch": True, "async_save": async_save}) == [1], lab.log
    seen = json.loads(Path(f"{folder}.seen").read_text())
    on_this_host, elsewhere = seen["told"]
    assert f"process {seen['owner']} on " in on_this_host  # it lives, and is only slow
    assert "trains in it" in on_this_host
    assert elsewhere.startswith(f"took over process {seen['owner']} on ")
    assert f"was taken over by process {seen['taker']} on elsewhere while this process stood still" in lab.log
    assert "epoch_1.pth" in seen["files"]
    assert files_of(folder) == seen["files"]
    assert json.loads((folder / "lock.json").read_text())["pid"] == seen["taker"]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_run_killed_with_two_workers_starts_again_at_once(lab, tmp_path, persistent):
    """The workers, which live for a while, hold nothing."""
    spec = {"num_workers": 2, "persistent": persistent, **EARLIER}
    fault = {"point": "after_train_iter", "count": 8, "action": "KILL"}
    assert lab.run(fault, work_dir=tmp_path, **spec) == [-9], lab.log
    end = lab.resume(tmp_path, **spec)
    assert "the lock of process" in lab.log
    assert end == lab.expect(**spec)


def test_a_new_beginning_moves_the_earlier_run_within_a_folder_of_checkpoints_too(lab, tmp_path):
    """With `out_dir`, the checkpoints lie elsewhere; they are moved there, found by their old path, and counted."""
    run, out = tmp_path / "run", tmp_path / "far" / "run"
    spec = {"by_epoch": True, "out_dir": str(tmp_path / "far")}
    assert lab.run(work_dir=run, checkpoint=spec) == [0], lab.log
    earlier, names, end = record_of(run), visible(out), end_of(out)
    assert "the folders of earlier starts hold" not in lab.log
    assert lab.run(work_dir=run, checkpoint=spec, accumulate=2) == [0], lab.log
    moved = out / earlier["starts"][0]["folder"]
    assert f"{out} holds the checkpoints of an earlier run, and this one begins anew" in lab.log
    assert f"they are moved to {moved}," in lab.log
    assert visible(moved) == names
    assert end_of(moved) == end
    assert {summary_of(out / name).run_id for name in visible(out)} == {record_of(run)["run_id"]}
    assert record_of(run)["run_id"] != earlier["run_id"]
    size = sum((moved / name).stat().st_size for name in names)
    (out / "epoch_2.pth").unlink()
    old_path = str(out / "epoch_2.pth")
    assert lab.run(work_dir=tmp_path / "fork", resume=old_path, checkpoint={"by_epoch": True}) == [1]  # another run's
    assert lab.run(work_dir=run, resume=old_path, checkpoint=spec) == [0], lab.log
    assert f"resumed from {moved / 'epoch_2.pth'}" in lab.log
    assert f"hold {len(names)} checkpoints of earlier runs, or dumps: {size / 1e6:.1f} MB" in lab.log


def test_the_ranks_of_a_start_share_the_folder_that_is_named_by_its_time(lab, tmp_path):
    assert lab.run(work_dir=tmp_path / "{time}", world=2) == [0, 0], lab.log
    (run,) = tmp_path.iterdir()
    assert "iter_6.pth" in visible(run)

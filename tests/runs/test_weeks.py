"""What somebody meets who lives with a project: code that changes between starts, starts that go back, and forks."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lazyengine.checkpoint import summary_of
from lazyengine.runs import compare_runs, read_outlines, read_run, rerun, status_of

from ..record.project import write
from .test_reading import list_starts, origin, record
from .toy import FILES, LAYERS, make_project
from .training import start

_KEEP = "runner.hooks.checkpoint.max_keep_ckpts=-1"
_NAMED = "toy/layers.py: Scale.forward"
_OTHER = LAYERS.replace("1 + self.depth", "3 + self.depth")
FINISHED = {"how": "finished", "iter": 5, "reason": ""}


@pytest.mark.parametrize(("option", "number", "code"), [("--kill", "8", -9), ("--stop", "8", 143)])
def test_code_is_compared_with_that_of_the_start_that_wrote_the_checkpoint(tmp_path, option, number, code):
    """A killed start is found in its folder; one that goes back is not compared with the start before it."""
    config, run = make_project(tmp_path / "home"), tmp_path / "run"
    start(config, run, _KEEP, option, number, code=code)
    write(tmp_path / "home" / "toy", {"layers.py": _OTHER})
    start(config, run, _KEEP, "--resume=auto", "--stop", "11", code=143)
    start(config, run, _KEEP, "--resume", str(run / "epoch_1.pth"), "--stop", "9", code=143)
    start(config, run, _KEEP, "--resume=auto")
    changes = [[each["path"] for each in each.changes if each["why"] == "code"] for each in read_run(run).starts]
    assert changes == [[], [_NAMED], [_NAMED], []]
    assert read_run(run).changes.keys() == {_NAMED}


# ------------------------------------------------------------------------------------------------ rerun --verify
_CLOCK = """\
    import itertools
    from lazyengine.hooks import checkpoint_hook
    checkpoint_hook.now = lambda count=itertools.count(): next(count)  # a second between two looks
    from tests.runs.training import main
    main()
"""
_BY_TIME = ("runner.hooks.checkpoint.interval=-1", "runner.hooks.checkpoint.every_s=2.0")


@pytest.mark.parametrize("way", ["killed", "finished", "deleted"])
def test_the_last_state_that_was_kept_is_compared_whichever_iteration_it_is_of(tmp_path, way):
    """Saved by time, the new run would save elsewhere; nothing of it depends on who deleted a file."""
    config, run = make_project(tmp_path / "home"), tmp_path / "run"
    kept = [_KEEP] if way == "deleted" else ["runner.hooks.checkpoint.save_last=False", *_BY_TIME]
    start(config, run, *kept, *(["--kill", "13"] if way == "killed" else []), code=None, program=_CLOCK)
    if way == "deleted":
        (run / "epoch_3.pth").unlink()
    newest = max(summary_of(path).iter for path in run.glob("*.pth"))
    done = rerun(run, verify=True)
    assert done.is_equal, done.as_text()
    end = max(newest, read_run(run).records[-1]["step"])  # a killed run may not have written its last record
    assert (done.state_iter, done.end_iter) == (newest, end)
    assert way == "killed" or newest < end
    wanted = "the final state" if newest == end else f"the state at iteration {newest}; the run came to {end}"
    assert wanted in done.as_text()


def test_data_of_an_earlier_start_that_are_other_ones_are_named(tmp_path):
    config, run = make_project(tmp_path / "home"), tmp_path / "run"
    points = tmp_path / "points.csv"
    shutil.copy(tmp_path / "home" / "toy" / "points.csv", points)
    start(config, run, f"dataset.file={points}", "--stop", "6", code=143)
    points.write_text(points.read_text().replace("0.2727", "0.3727"))
    start(config, run, f"dataset.file={points}", "--resume=auto")
    done = rerun(run, verify=True)
    assert not done.is_equal
    assert any("data of train" in line for line in done.differs)


# ------------------------------------------------------------------------------------- which start a table is of
@pytest.mark.parametrize("later", ["went back", "did nothing", "killed"])
def test_a_table_tells_how_the_start_ended_that_made_its_numbers(tmp_path, later):
    run = tmp_path / "root" / "run"
    record(run / "20260131_120000", range(1, 6), 1.0)
    second: dict[str, Any] = {"folder": "20260131_130000", "from": {**origin(5), "start": 1}}
    second["ended"] = {"how": "failed", "iter": 5, "reason": "RuntimeError"}
    if later == "went back":
        record(run / "20260131_130000", range(3, 5), 9.0, resumed=2)
        second |= {"from": {**origin(2), "start": 1}, "passed_over": {"path": "iter_5.pth", "iter": 5}}
    elif later == "killed":
        second["ended"] = None
    list_starts(run, {"folder": "20260131_120000", "ended": FINISHED}, second)
    (outline,) = read_outlines([tmp_path / "root"])
    assert (outline.state, outline.iterations) == ("finished", 5)
    assert status_of(run).state == ("killed" if later == "killed" else "failed")  # how the last start fared


@pytest.mark.parametrize("name", ["", "metrics.jsonl"])
@pytest.mark.parametrize("how", ["finished", "failed"])
def test_the_folder_of_one_start_knows_how_it_ended(tmp_path, name, how):
    record(tmp_path / "run" / "20260131_120000", range(1, 6), 1.0)
    list_starts(tmp_path / "run", {"folder": "20260131_120000", "ended": {**FINISHED, "how": how}})
    assert [each.state for each in read_outlines([tmp_path / "run" / "20260131_120000" / name])] == [how]


@pytest.mark.parametrize("why", ["code", "data"])
def test_a_change_of_code_or_data_has_no_values(tmp_path, why):
    path = f"{why}.py: f"
    change = {"path": path, "was": "a.zip", "is": None, "effect": "in force", "why": why, "from_iter": 3}
    for name, changes in (("a", []), ("b", [change])):
        record(tmp_path / name / "20260131_120000", range(1, 6), 1.0)
        record(tmp_path / name / "20260131_130000", range(4, 8), 1.0, resumed=3)
        second = {"folder": "20260131_130000", "from": origin(3), "changes": changes}
        list_starts(tmp_path / name, {"folder": "20260131_120000"}, second)
    found = compare_runs(read_outlines([tmp_path / "a", tmp_path / "b"]), ["train/loss"])
    assert [row.config[path] for row in found.rows] == ["?", "changed @ 3"]  # there is no config
    assert "changed @ 3" in found.as_text(200)
    assert path in found.as_text(200)


@pytest.mark.parametrize(("writer", "before"), [(1, [1.0] * 4), (2, [1.0, 1.0, 2.0, 2.0])])
def test_a_fork_has_the_curve_of_the_starts_that_led_to_its_checkpoint(tmp_path, writer, before):
    """The parent went back meanwhile; its other start is no part of the fork."""
    parent, fork = tmp_path / "a", tmp_path / "fork"
    record(parent / "20260131_120000", range(1, 9), 1.0)
    record(parent / "20260131_130000", range(3, 6), 2.0, resumed=2)
    list_starts(parent, {"folder": "20260131_120000"}, {"folder": "20260131_130000", "from": {**origin(2), "start": 1}})
    record(fork / "20260131_140000", range(5, 7), 3.0, resumed=4)
    source = {**origin(4), "path": str(parent / "iter_4.pth"), "start": writer}
    list_starts(fork, {"folder": "20260131_140000", "from": source}, run_id="fork")
    assert read_run(fork).curves["train/loss"] == ([1, 2, 3, 4, 5, 6], [*before, 3.0, 3.0])


# --------------------------------------------------------------------------------------- configs of moved code
def source_folder(folder: Path) -> Path:
    make_project(folder / "home" / "src")
    write(folder / "home", {"pyproject.toml": ""})
    write(folder / "experiments", {"config.py": FILES["config.py"].replace("from .", "from toy.")})
    return folder / "home" / "src"


def archive(folder: Path) -> Path:
    make_project(folder / "packed")
    with zipfile.ZipFile(folder / "home", "w") as file:
        for name in ("__init__.py", "net.py", "layers.py", "data.py"):
            file.write(folder / "packed" / "toy" / name, f"toy/{name}")
    text = FILES["config.py"].replace("from .", "from toy.")
    text = text.replace("Points)()", f"Points)(file={str(folder / 'packed' / 'toy' / 'points.csv')!r})")
    write(folder / "experiments", {"config.py": text})
    return folder / "home"


@pytest.mark.parametrize("way", [source_folder, archive])
def test_a_config_loads_with_the_kept_code_wherever_that_was(way, tmp_path):
    path = way(tmp_path)
    short = ("train_loop.max_epochs=1", f"dataset.file={tmp_path / 'points.csv'}")
    write(tmp_path, {"points.csv": FILES["points.csv"]})
    start(tmp_path / "experiments" / "config.py", tmp_path / "run", *short, paths=str(path))
    path.rename(tmp_path / "away")
    if way is source_folder:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
    program = "import sys; from lazyengine.config import LazyConfig; cfg = LazyConfig.load(sys.argv[1]); cfg.model"
    start(tmp_path / "run" / "config.py", tmp_path / "run", program=program)
    assert rerun(tmp_path / "run", verify=True).is_equal

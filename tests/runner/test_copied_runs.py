"""A config that lies in a run folder means that folder, wherever it was copied to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lazyengine.cli import train as command
from lazyengine.config import LazyConfig
from lazyengine.runner import Runner

from ..runs.toy import make_project


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one epoch in ``work_dirs/toy_copies``, beside its project."""
    folder = tmp_path_factory.mktemp("copies")
    config = make_project(folder, "toy_copies")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        assert command.main([str(config), "train_loop.max_epochs=1"]) == 0
        yield folder


@pytest.fixture
def copied(whole, tmp_path, monkeypatch):
    """The original and a copy; the original must stay as it is."""
    monkeypatch.chdir(whole)
    original = whole / "work_dirs" / "toy_copies"
    before = content(original)
    yield original, Path(shutil.copytree(original, tmp_path / "copy"))
    assert content(original) == before


def start_of(run: Path) -> Path:
    return run / json.loads((run / "run.json").read_text())["starts"][-1]["folder"]


@pytest.mark.parametrize("of_start", [False, True])
@pytest.mark.parametrize("resume", [["--resume"], []])
def test_a_copied_run_started_by_its_own_config_trains_in_the_copy(copied, of_start, resume):
    _, copy = copied
    config = (start_of(copy) if of_start else copy) / "config.py"
    first = start_of(copy)
    assert command.main([str(config), *resume, "train_loop.max_epochs=2"]) == 0
    assert (copy / "epoch_2.pth").is_file()
    assert (first / "epoch_1.pth").is_file() == (not resume)  # where a new beginning leaves what was there
    log = next(start_of(copy).glob("*.log")).read_text()
    assert f"the config lies in the run folder {copy}, which is used; --work-dir names another" in log


def test_an_evaluation_and_a_runner_made_in_code_use_it_too(copied):
    _, copy = copied
    assert command.main([str(copy / "config.py"), "--eval-only"]) == 0
    assert len(list(copy.glob("*/start.json"))) == 1
    runner = Runner.from_cfg(LazyConfig.load(str(copy / "config.py")), resume=True)
    assert runner.work_dir == str(copy)


@pytest.mark.parametrize("said", ["--work-dir", "override", "code"])
def test_another_folder_is_used_where_it_is_named(copied, tmp_path, said):
    _, copy = copied
    other = tmp_path / "other"
    before = content(copy)
    if said == "code":
        cfg = LazyConfig.load(str(copy / "config.py"))
        cfg.runner.work_dir = str(other)
        Runner.from_cfg(cfg).train()
    else:
        words = ["--work-dir", str(other)] if said == "--work-dir" else [f"runner.work_dir={other}"]
        assert command.main([str(copy / "config.py"), *words]) == 0
    assert (other / "epoch_1.pth").is_file()
    assert content(copy) == before


def test_a_config_beside_a_project_is_no_run_s(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = LazyConfig.load(str(whole / "toy_copies" / "config.py"))
    assert Runner.from_cfg(cfg, experiment_name="x").work_dir == "work_dirs/x"

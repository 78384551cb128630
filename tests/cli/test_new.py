"""``lazyengine new``: each template makes a project that loads, is clean, and runs from its documented commands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lazyengine.cli import new
from lazyengine.config import LazyConfig, check_config
from tests import forks

REPO = Path(__file__).resolve().parents[2]
FULL = "plain"  # the quickest one
TINY = ("train_dataset.length=60", "val_dataset.length=40")
SLOW = [pytest.param(name, marks=pytest.mark.suite) for name in new.TEMPLATES if name != FULL]


def run(folder: Path, *command: str, code: int = 0) -> str:
    """Run a command in a project, with the engine but not the repository's folder to import from; return its output."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = forks.run(["-m", *command], cwd=folder, env=env)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("template", new.TEMPLATES)
def test_each_project_has_its_files_and_its_configs_load(template, tmp_path):
    name = f"made-{template}"
    files = new.make_project(tmp_path / name, template)
    package = f"made_{template}"
    expected = {".gitignore", "README.md", "pyproject.toml", "configs/base.py", "configs/wide.py", "configs/runtime.py"}
    expected.add("configs/sweep.py")
    expected |= {f"{package}/{file}.py" for file in ("__init__", "data", "metric", "model")}
    assert set(files) == expected | {"tests/test_experiments.py"}
    texts = {file: (tmp_path / name / file).read_text() for file in files}
    assert not [file for file, text in texts.items() if re.search("__(NAME|PACKAGE|WHAT)__", text)]
    assert f'name = "{name}"' in texts["pyproject.toml"]
    for config in ("base.py", "wide.py"):
        assert not check_config(LazyConfig.load(str(tmp_path / name / "configs" / config)))


@pytest.mark.parametrize("template", new.TEMPLATES)
def test_each_project_is_formatted_and_clean(template, tmp_path):
    new.make_project(tmp_path / "made", template)
    options = ["--isolated", "--line-length", "120", "."]  # isolated: lazyengine is a foreign package there
    rules = ["--select", "E,F,W,I,UP", "--ignore", "F403,F405", "--no-cache"]
    for command in (["check", *rules], ["format", "--check", "--no-cache"]):
        run(tmp_path / "made", "ruff", *command, *options)


@pytest.mark.parametrize("template", [FULL, *SLOW])
def test_the_documented_commands_run(template, tmp_path):
    made = run(tmp_path, "lazyengine", "new", "made", "--template", template)
    assert "lazyengine train configs/base.py" in made
    folder = tmp_path / "made"
    assert "2 batches of each: trained, resumed, tested" in run(
        folder, "lazyengine", "train", "configs/base.py", "--fast-dev-run"
    )
    assert not (folder / "work_dirs").exists()
    for config in ("base", "wide"):
        short = "train_loop.max_iters=20" if template == "language" else "train_loop.max_epochs=2"
        run(folder, "lazyengine", "train", f"configs/{config}.py", *TINY, short)
        assert (folder / "work_dirs" / config / "last_checkpoint").is_file()
    run(folder, "lazyengine", "test", "configs/base.py", "--checkpoint", "best", *TINY)
    assert "width" in run(folder, "lazyengine", "compare", "work_dirs/base", "work_dirs/wide") or template == "gan"
    run(folder, "lazyengine", "plot", "work_dirs/base")
    assert "optimizer.lr" in run(folder, "lazyengine", "show", "configs/base.py", "--keys")
    assert "2 passed" in run(folder, "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.suite
@pytest.mark.parametrize("template", new.TEMPLATES)
def test_each_project_trains_in_a_minute_to_what_it_says(template, tmp_path):
    run(tmp_path, "lazyengine", "new", "made", "--template", template)
    out = run(tmp_path / "made", "lazyengine", "train", "configs/base.py")
    least = {"accuracy/top1": 0.95, "mean_iou": 0.9, "bits": -0.5, "near": 0.5, "error": -0.1}
    (name, value), *_ = re.findall(r"best (\S+) +(\d\.\d+) \(", out)
    assert float(value) > least[name] if least[name] > 0 else float(value) < -least[name]


@pytest.mark.parametrize("name", ["1st", "my project", "class", "tests", "a.b"])
def test_a_name_that_is_no_package(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new.main([name]) == 2
    assert f"{name!r} cannot be the name of a Python package" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").touch()
    assert new.main([str(tmp_path / "there")]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert new.main([str(tmp_path / "torch")]) == 2
    assert "a package 'torch' is installed already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "mine.txt"]


def test_an_unknown_template(capsys, tmp_path):
    with pytest.raises(SystemExit):
        new.main([str(tmp_path / "x"), "--template", "detection"])
    assert "invalid choice: 'detection'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="template 'detection': expected one of classification, segmentation"):
        new.make_project(tmp_path / "x", "detection")

"""The wheel: what is in it, and that it works without the repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not there to build it"),
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not there to build it"),
]


def pip(*args: str) -> None:
    """Run pip without `PYTHONPATH`: a checkout on it that was installed or built is installed already for pip."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *args, "--no-deps", "--no-index", "--disable-pip-version-check", "-q"],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(folder: Path) -> Path:
    """Build the wheel in a folder from a copy, so that nothing is left in the repository."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("lazyengine", "projects", "tests", "tools"):
        shutil.copytree(REPO / name, source / name, ignore=ignored)
    pip("wheel", str(source), "--no-build-isolation", "--wheel-dir", str(folder))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_holds_the_package_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "lazyengine/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    python = {str(p.relative_to(REPO)) for p in (REPO / "lazyengine").rglob("*.py")}
    assert python == {name for name in names if name.endswith(".py")}
    templates = {str(p.relative_to(REPO)) for p in (REPO / "lazyengine/cli/templates").rglob("*.in")}
    assert templates == {name for name in names if name.endswith(".in")}
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("/METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch" in metadata


def test_it_trains_without_the_repository(wheel, tmp_path):
    target = tmp_path / "installed"
    pip("install", str(wheel), "--target", str(target))
    shutil.copytree(REPO / "projects", tmp_path / "projects", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    code = (
        "import sys, lazyengine; print(lazyengine.__file__)\n"
        "from lazyengine.cli.main import main\n"
        "sys.exit(main(['train', '--config', 'projects/digits/config.py', 'model.width=4', 'train_loop.max_epochs=1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(str(target))
    assert (tmp_path / "work_dirs/digits/epoch_1.pth").is_file()
    assert (target / "bin" / "lazyengine").is_file()

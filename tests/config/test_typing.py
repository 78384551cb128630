"""pyright and mypy read configs: they find wrong names and types, and raise no false alarm."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures" / "typing"
FILES = ("good_config.py", "bad_config.py")
pytestmark = pytest.mark.slow

Found = dict[str, list[tuple[int, str]]]


def _pyright(folder: Path) -> Found:
    path = shutil.which("pyright", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip("pyright is not installed")
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "include": list(FILES)}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [path, "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if not result.stdout.lstrip().startswith("{"):  # it fetches a part of itself on its first run
        pytest.skip(f"pyright did not run: {result.stderr[-300:]}")
    report = json.loads(result.stdout)
    assert report["summary"]["filesAnalyzed"] == len(FILES), result.stdout
    found: Found = {name: [] for name in FILES}
    for item in report["generalDiagnostics"]:
        found[Path(item["file"]).name].append((item["range"]["start"]["line"] + 1, item["message"]))
    return found


def _mypy(folder: Path) -> Found:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--follow-imports=silent",
        "--check-untyped-defs",
        "--cache-dir",
        os.devnull,
    ]
    command += ["--config-file", os.devnull, *FILES]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    found: Found = {name: [] for name in FILES}
    for match in re.finditer(r"^([^\n]*\.py):(\d+): error: (.*)$", result.stdout, re.M):
        found[Path(match[1]).name].append((int(match[2]), match[3]))
    return found


@pytest.fixture(scope="module", params=[_pyright, _mypy], ids=["pyright", "mypy"])
def found(request, tmp_path_factory) -> Found:
    folder = tmp_path_factory.mktemp("typing")
    for name in FILES:
        shutil.copy(FIXTURES / name, folder)
    return request.param(folder)


def test_no_false_alarm_on_a_good_config(found):
    assert found["good_config.py"] == []


def test_every_wrong_name_and_type_is_found_at_its_line(found):
    lines = (FIXTURES / "bad_config.py").read_text().splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]
    assert sorted({line for line, _ in found["bad_config.py"]}) == wrong, found["bad_config.py"]
    assert any("num_clases" in message for _, message in found["bad_config.py"])


def test_the_good_config_loads_and_builds():
    from lazyengine.config import LazyConfig, instantiate

    cfg = LazyConfig.load(FIXTURES / "good_config.py")
    assert cfg.optimizer.lr == 1e-3
    assert instantiate(cfg.model).training

"""The notebooks of docs/ run, and print what they say that they print, numbers aside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
LONG = ("resume_fork_replay",)  # its forks and replays are processes of their own
NOTEBOOKS = [
    pytest.param(path, marks=[pytest.mark.suite] if path.stem in LONG else [], id=path.stem)
    for path in sorted((REPO / "docs" / "notebooks").glob("*.ipynb"))
]


def outputs(path: Path) -> list[Any]:
    """What each cell of a notebook prints and returns, with # for a number, a hash or the spaces and curves between."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text") or output["data"]["text/plain"])
            if "\u2524" not in text:  # a curve: its points are numbers too
                found.append(
                    re.sub(r"#[\s#]*", "#", re.sub(r"\b[0-9a-f]{16}\b|\d[\d.,:_e-]*", "#", text)).split("done")[0]
                )
    return found


def test_they_are_valid_and_were_run():
    for case in NOTEBOOKS:
        notebook = json.loads(case.values[0].read_text(encoding="utf-8"))
        assert notebook["nbformat"] == 4
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        assert sum(len(cell["outputs"]) for cell in code) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_prints_what_it_says(path, tmp_path):
    again = Path(shutil.copy(path, tmp_path))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "80"}
    command = [sys.executable, str(REPO / "docs" / "notebooks.py"), str(again)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=290)
    assert done.returncode == 0, done.stderr[-3000:]
    assert outputs(again) == outputs(path)

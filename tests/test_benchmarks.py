"""`python -m tests.benchmarks` runs, prints its table and writes it; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "tests.benchmarks"]


@pytest.mark.slow
def test_quick_run_prints_the_table_and_writes_it_as_json(tmp_path):
    file = tmp_path / "rows.json"
    options = ["--quick", "--rounds", "2", "--only", "history,config,evaluation", "--json", str(file)]
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["about"]["versions"]["torch"]
    assert report["skipped"] == []
    rows = report["rows"]
    assert {row["who"] for row in rows} == {"lazyengine"}
    for start in ("HistoryBuffer.update", "config of 2000 nodes", "deep copy", "20 overrides", "accuracy"):
        assert any(row["work"].startswith(start) for row in rows), start
    for row in rows:
        assert row["over"] in ("deque.append", "plain Python", "dicts", "tensor operations")
        for name in ("ratio", "cpu_ratio", "measured", "base"):
            spread = row[name]
            assert 0 < spread["min"] <= spread["median"] <= spread["max"], row
            assert spread["rounds"] >= 2
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == len(rows) + 2
    assert len({len(line) for line in table}) == 1  # columns line up


def test_unknown_benchmark_is_refused_with_the_list():
    done = subprocess.run([*COMMAND, "--only", "lop"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there are loop, startup, config" in done.stderr

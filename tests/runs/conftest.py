"""Runs that several of the tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_reading import list_starts, origin, record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs, one of which was resumed, and one is a fork of another."""
    root = tmp_path / "root"
    for name in ("a", "deep/b"):
        record(root / name / "20260131_120000", range(1, 6), 1.0)
        list_starts(root / name, {"folder": "20260131_120000"}, run_id=name)
    record(root / "a" / "20260131_130000", range(4, 9), 2.0, resumed=3)
    list_starts(root / "a", {"folder": "20260131_120000"}, {"folder": "20260131_130000", "from": origin(3)}, run_id="a")
    record(root / "fork" / "20260131_140000", range(6, 9), 3.0, resumed=5)
    branched = {**origin(5), "path": str(root / "a" / "iter_5.pth")}
    list_starts(root / "fork", {"folder": "20260131_140000", "from": branched}, run_id="fork")
    return root

"""Two ranks: faults on one of them alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .conftest import REPO, end_of, environment, visible


@pytest.mark.parametrize("kind", ["net", "ema"])
def test_both_killed_and_resumed(lab, tmp_path, kind):
    expected = lab.expect(world=2, kind=kind)
    fault = {"point": "after_train_iter", "count": 2, "action": "KILL"}
    assert lab.run(fault, work_dir=tmp_path, world=2, kind=kind) == [-9, -9]
    assert lab.resume(tmp_path, world=2, kind=kind) == expected


def test_nan_on_one_rank_changes_the_weights_of_none(lab, tmp_path):
    expected = lab.expect(world=2)
    assert lab.run({"kind": "nan", "count": 3, "rank": 1}, work_dir=tmp_path, world=2) == [1, 1]
    for log in lab.logs:
        assert "on rank 1 the loss is nan" in log
        assert '"num_optimizer_steps": 2' in log
    assert visible(tmp_path) == ["iter_1.pth", "iter_2.pth"]
    assert lab.resume(tmp_path, world=2) == expected


@pytest.mark.parametrize("action", ["EXIT", "HANG"])
def test_no_rank_outlives_a_peer_that_is_gone_or_hangs(lab, tmp_path, action):
    """A peer that died is noticed at once, one that hangs after the timeout."""
    fault = {"point": "before_train_iter", "count": 3, "action": action, "rank": 1}
    assert lab.run(fault, work_dir=tmp_path, world=2, dist_timeout_s=10) == [1, 7]
    assert "on rank 0 of 2" in lab.logs[0]
    assert lab.order == ([1, 0] if action == "EXIT" else [0, 1])
    assert visible(tmp_path) == ["iter_1.pth", "iter_2.pth"]


def test_ranks_with_different_numbers_of_batches_are_refused_at_the_start(lab, tmp_path):
    other = {"spec": {"dataset": ["Crops", True, 12]}, "rank": 1}
    point = {"point": "before_run", "count": 1, "action": "EXIT"}
    assert lab.run(other, point, work_dir=tmp_path, world=2) == [1, 1]
    for log in lab.logs:
        assert "different number of batches on each rank (rank 0: 3, rank 1: 2)" in log


def test_a_rank_that_cannot_save_ends_the_other_too(lab, tmp_path):
    fault = {"call": "os.fsync", "match": "iter_", "action": "ENOSPC", "first": 2, "times": 99}
    assert lab.run(fault, work_dir=tmp_path, world=2) == [1, 1]
    assert "training was stopped" in lab.logs[0]


def test_torchrun_restarts_a_job_whose_rank_died_and_it_ends_equal(lab, tmp_path):
    expected = lab.expect(world=2)
    spec = {"work_dir": str(tmp_path / "run"), "resume": "auto"}
    fault = {"point": "before_train_iter", "count": 4, "action": "EXIT", "rank": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "--standalone"]
    command += ["--monitor-interval=0.1", "-m", "tests.faults.driver", json.dumps({"spec": spec, "faults": [fault]})]
    options = {"capture_output": True, "text": True, "timeout": 200, "check": False}
    done = subprocess.run(command, cwd=REPO, env=environment(), **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed from" in done.stdout + done.stderr
    assert end_of(tmp_path / "run") == expected

"""Runs are seen and stopped from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lazyengine.checkpoint import summary_of
from lazyengine.cli import ps
from lazyengine.cli import stop as stop_command
from lazyengine.runs import find_runs, status_of, stop

from .toy import make_project
from .training import REPOSITORY, start

# Trains until it is stopped, and says when an iteration is done.
PROGRAM = """
import sys
from lazyengine.config import LazyConfig
from lazyengine.hooks import Hook
from lazyengine.runner import Runner
class Says(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        print("iteration", flush=True)
cfg = LazyConfig.load(sys.argv[1])
cfg.runner.work_dir = sys.argv[2]
cfg.runner.hooks["says"] = Says()
Runner.from_cfg(cfg).train()
"""


def test_a_run_is_seen_at_work_and_stopped(tmp_path, capsys):
    config = make_project(tmp_path / "home")
    config.write_text(config.read_text().replace("max_epochs=3", "max_epochs=100000"))
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM, str(config), str(tmp_path / "runs" / "long")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=config.parent)
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if line == "iteration\n")
        seen = status_of(tmp_path / "runs" / "long")
        assert seen.state == "running"
        assert f"process {process.pid} on " in seen.reason
        for request, answer in (("save", "asked to save: "), ("validate", "Epoch(val)")):
            assert stop_command.main([str(tmp_path / "runs" / "long"), request]) == 0
            next(line for line in process.stdout if answer in line)
        assert stop_command.main([str(tmp_path / "runs" / "long")]) == 0
        process.communicate(timeout=280)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    (seen,) = find_runs(tmp_path / "runs")
    assert (seen.state, seen.reason) == ("stopped", "SystemExit: 143")
    assert seen.step > 0
    (saved,) = (tmp_path / "runs" / "long").glob("asked_iter_*.pth")
    assert summary_of(saved).iter == int(saved.stem.rpartition("_")[2])
    with pytest.raises(RuntimeError, match="nothing trains in "):
        stop(tmp_path / "runs" / "long")
    assert stop_command.main([str(tmp_path / "runs" / "long")]) == 2
    capsys.readouterr()


def test_loss_and_speed_are_those_of_the_last_line_whatever_hooks_record_after_it(tmp_path):
    config = make_project(tmp_path / "home")
    start(config, tmp_path / "runs" / "long", "train_loop.max_epochs=1")
    (before,) = find_runs(tmp_path / "runs")
    (records,) = (tmp_path / "runs" / "long").glob("*/metrics.jsonl")
    with open(records, "a") as file:
        file.write('{"step": 5, "epoch": null, "iter": 5, "mode": "train", "phase/data_s": 0.1}\n')
    (after,) = find_runs(tmp_path / "runs")
    assert None not in (after.loss, after.seconds)
    assert after == before


def test_how_runs_ended_is_shown(tmp_path, capsys):
    config = make_project(tmp_path / "home")
    start(config, tmp_path / "runs" / "done", "train_loop.max_epochs=1")
    start(config, tmp_path / "runs" / "deep" / "dead", "--kill", "7", code=-9)
    dead, done = find_runs(tmp_path / "runs")
    assert (Path(dead.folder).name, dead.state) == ("dead", "killed")
    assert (done.state, done.step, done.reason) == ("finished", 5, "")
    assert done.loss is not None
    assert set(done.metrics or {}) == {"error"}
    assert done.progress == "Epoch(train) [1][5/5]"
    assert ps.main([str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "finished" in shown
    assert "Epoch(train)" not in shown  # of what has ended the step says it
    assert ps.main([str(tmp_path / "none")]) == 2
    assert "name one in which runs are" in capsys.readouterr().err

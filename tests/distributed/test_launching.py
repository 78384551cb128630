"""``torchrun tools/train_net.py``: the command that one process runs, and what is seen when a rank fails or hangs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from .launching import torchrun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # `torchrun` has the deadlines
SMALL = ("model.width=4", "train_loop.max_epochs=2", "default_hooks.logger.interval=20")


def test_the_digits_train_in_two_ranks_without_another_change(tmp_path):
    done = torchrun("tools/train_net.py", "--config", "projects/digits/config.py", "--work-dir", str(tmp_path), *SMALL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("saving epoch_2.pth") == 1
    assert re.search(r"Epoch\(train\).*\[2\]\[20/23\]", done.stdout)  # 1,437 images, 2 ranks, 32 a batch
    (start,) = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "code"]
    assert {f"{start.name}.log", "metrics.jsonl", "env.json", "tensorboard"} <= {path.name for path in start.iterdir()}
    lines = [json.loads(line) for line in (start / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if not any(name.startswith("phase/") for name in line)]
    assert [(line["mode"], line["step"]) for line in lines] == [("train", 20), ("val", 23), ("train", 43), ("val", 46)]
    checkpoint = torch.load(tmp_path / "epoch_2.pth", weights_only=True)
    assert (checkpoint["meta"]["iter"], checkpoint["meta"]["world_size"]) == (46, 2)
    assert not any(key.startswith("module.") for key in checkpoint["state_dict"])
    args = ("--work-dir", str(tmp_path), "--eval-only", "--checkpoint", "latest", *SMALL)
    evaluated = torchrun("tools/train_net.py", "--config", "projects/digits/config.py", *args)
    values = re.findall(r"(?m)^  val/accuracy/top1 +(\S+)", evaluated.stdout)
    assert [float(value) for value in values] == [pytest.approx(lines[-1]["accuracy/top1"], abs=5e-5)]


def fail(tmp_path: Path, *overrides: str) -> str:
    """Return what the faulty run printed."""
    config = str(Path(__file__).with_name("failing_config.py"))
    done = torchrun("tools/train_net.py", "--config", config, "--work-dir", str(tmp_path), *SMALL, *overrides)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_the_error_of_a_rank_is_seen_with_its_rank(tmp_path):
    output = fail(tmp_path)
    assert "the run failed on rank 1 at epoch 0, iteration 3" in output
    assert "ValueError: a broken sample at iteration 3" in output
    assert "raised in hook FaultHook.before_train_iter" in output
    summary = output[output.index("Root Cause") :]
    assert re.search(r"rank +: 1 ", summary)
    assert "a broken sample at iteration 3" in summary


def test_a_rank_that_hangs_is_an_error_that_names_call_and_step(tmp_path):
    output = fail(tmp_path, "fault.kind=hang", "+runner.dist_timeout_s=4")
    assert "the run failed on rank 0 at epoch 0, iteration 3" in output
    assert "in the communication train_step on rank 0 of 2, epoch 0, iteration 3" in output
    assert "another rank did not take part in time" in output

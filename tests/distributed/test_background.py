"""What FSDP2 splits is saved in the background, and read by other numbers of ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import read_checkpoint

from .launching import STEP_LIMIT_S, torchrun

# What the ranks wait for has deadlines of its own, which name it; those of all of them together are longer.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DRIVER = Path(__file__).with_name("background.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of two ranks, which have made their checks."""
    folder = tmp_path_factory.mktemp("background")
    done = torchrun(str(DRIVER), str(folder), num_steps=4)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def start_reading(rank: int, path: Path) -> subprocess.Popen[str]:
    """Start one of four ranks, without the others."""
    command = [sys.executable, str(DRIVER), "read", str(rank), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_four_ranks_read_what_two_have_written(folder):
    path = folder / "background" / "iter_8.pth"
    whole = read_checkpoint(path)["state_dict"]["net.0.weight"]
    assert torch.equal(whole, read_checkpoint(folder / "waited" / "iter_8.pth")["state_dict"]["net.0.weight"])
    readers = [start_reading(rank, path) for rank in range(4)]
    parts = [json.loads(reader.communicate(timeout=STEP_LIMIT_S)[0]) for reader in readers]
    assert [row for part in parts for row in part] == whole.tolist()

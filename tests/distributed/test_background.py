"""What FSDP2 splits is saved in the background, and read by other numbers of ranks."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lazyengine.checkpoint import read_checkpoint, shard_like

from .launching import torchrun

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).with_name("background.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of two ranks, which have made their checks."""
    folder = tmp_path_factory.mktemp("background")
    done = torchrun(str(DRIVER), str(folder), num_steps=4)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def part_of(rank: int, path: Path) -> list[list[float]]:
    """In a process of its own: return what one of four ranks reads of a weight; the others are not there."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
    saved = read_checkpoint(path, keep_shards=True)["state_dict"]["net.0.weight"]
    local = torch.zeros(saved.shape[0] // 4, *saved.shape[1:])
    like = DTensor.from_local(local, init_device_mesh("cpu", (4,)), [Shard(0)], run_check=False)
    return shard_like(saved, like).to_local().tolist()


def test_four_ranks_read_what_two_have_written(folder):
    path = folder / "background" / "iter_8.pth"
    whole = read_checkpoint(path)["state_dict"]["net.0.weight"]
    assert torch.equal(whole, read_checkpoint(folder / "waited" / "iter_8.pth")["state_dict"]["net.0.weight"])
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        parts = pool.starmap(part_of, [(rank, path) for rank in range(4)], chunksize=1)
    assert [row for part in parts for row in part] == whole.tolist()

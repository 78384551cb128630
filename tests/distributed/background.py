"""Run by torchrun in each of two ranks: ``background.py FOLDER`` saves split states in the background.

``background.py read RANK FILE`` prints, without torchrun, what one of four ranks reads of a weight.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed.checkpoint.filesystem as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lazyengine import dist
from lazyengine.checkpoint import read_checkpoint, shard_like
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.model import FSDP2, ModelSetup
from tests.distributed.experiment import assert_same, curve, experiment, weights

SETUP = {"setup": ModelSetup(wrapper=FSDP2("net"))}


def saving(is_async: bool) -> CheckpointHook:
    """A checkpoint every four iterations."""
    return CheckpointHook(interval=4, by_epoch=False, async_save=is_async)


class Interrupt(Hook):
    """Ends the run after ten iterations."""

    priority = "LOWEST"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 9:
            raise InterruptedError("interrupted")


def saves_what_training_waited_for(folder: Path) -> None:
    """Every checkpoint has the bits of one for which training waited, and a resume from one goes on to the bit."""
    for name, is_async in (("waited", False), ("background", True)):
        experiment(folder / name, hooks={"checkpoint": saving(is_async)}, **SETUP).train()
    dist.barrier()
    for iteration in (4, 8, 12, 16, 18):
        waited, written = (
            read_checkpoint(folder / name / f"iter_{iteration}.pth") for name in ("waited", "background")
        )
        assert_same(written["state_dict"], waited["state_dict"])
        assert written["train_loop"] == waited["train_loop"]
        for index, state in waited["optimizer"]["state"].items():
            assert_same(written["optimizer"]["state"][index], state)
    assert (folder / "background" / "last_checkpoint").read_text() == "iter_18.pth\n"
    assert len(list((folder / "background").glob("*.shards"))) == 5


def resumes(folder: Path) -> None:
    """A run that was interrupted goes on to the bits of one that was not."""
    whole = experiment(folder / "whole", hooks={"checkpoint": saving(True)}, **SETUP)
    whole.train()
    with pytest.raises(InterruptedError):
        experiment(folder / "cut", hooks={"checkpoint": saving(True), "stop": Interrupt()}, **SETUP).train()
    resumed = experiment(folder / "cut", hooks={"checkpoint": saving(True)}, resume=True, **SETUP)
    resumed.train()
    assert resumed.iter == whole.iter == 18
    assert_same(weights(resumed), weights(whole))
    assert curve(resumed) == curve(whole)


def writes_beside_training(folder: Path) -> None:
    """Training goes on while a thread writes: the first save ends after an iteration that comes after it."""
    write, may_end, was_in = dcp.FileSystemWriter.write_data, threading.Event(), []

    class LetEnd(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 5:  # two iterations after the save has begun
                may_end.set()

    def held(*args: Any) -> Any:
        was_in.append(threading.current_thread() is threading.main_thread())
        assert may_end.wait(200), "no iteration came while the shards were written"
        return write(*args)

    with mock.patch.object(dcp.FileSystemWriter, "write_data", held):
        experiment(folder / "beside", hooks={"checkpoint": saving(True), "end": LetEnd()}, **SETUP).train()
    assert was_in == [False] * 5


def leaves_nothing_of_what_fails(folder: Path) -> None:
    """A rank whose disk is full: that checkpoint is absent on all, the pointer stays, and training goes on."""
    write, num_calls = dcp.FileSystemWriter.write_data, []

    def full(*args: Any) -> Any:
        num_calls.append(1)
        if len(num_calls) == 2 and dist.get_rank() == 1:
            raise OSError(28, "No space left on device")
        return write(*args)

    with mock.patch.object(dcp.FileSystemWriter, "write_data", full):
        runner = experiment(folder / "full", hooks={"checkpoint": saving(True)}, **SETUP)
        runner.train()
    dist.barrier()
    assert runner.iter == 18
    files = sorted(path.name.partition(".pth")[0] for path in (folder / "full").glob("iter_*"))
    assert files == sorted(["iter_4", "iter_12", "iter_16", "iter_18"] * 2)
    assert (folder / "full" / "last_checkpoint").read_text() == "iter_18.pth\n"


def read(rank: int, path: str) -> list[list[float]]:
    """Return what one of four ranks reads of a weight; the others are not there."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
    saved = read_checkpoint(path, keep_shards=True)["state_dict"]["net.0.weight"]
    local = torch.zeros(saved.shape[0] // 4, *saved.shape[1:])
    like = DTensor.from_local(local, init_device_mesh("cpu", (4,)), [Shard(0)], run_check=False)
    return shard_like(saved, like).to_local().tolist()


if __name__ == "__main__" and sys.argv[1] == "read":
    print(json.dumps(read(int(sys.argv[2]), sys.argv[3])))
elif __name__ == "__main__":
    dist.init_dist("pytorch")
    for check in (saves_what_training_waited_for, resumes, writes_beside_training, leaves_nothing_of_what_fails):
        check(Path(sys.argv[1]))
        dist.barrier()

"""Checkpoints whose split tensors lie in a folder beside the file. Two ranks are in tests/distributed."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lazyengine.checkpoint import (
    CheckpointError,
    SavedTensor,
    find_valid_checkpoint,
    load_state_dict,
    read_checkpoint,
    remove_shards,
    save_checkpoint,
    save_shards,
    split_shards,
    verify_checkpoint,
)
from lazyengine.cli.checkpoint import main


@pytest.fixture(scope="module")
def mesh():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def split_model(mesh) -> nn.Module:
    """A layer whose weight is split."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
    return model


def save(model: nn.Module, path: Path) -> Path:
    checkpoint, tensors = split_shards({"state_dict": model.state_dict(), "meta": {"iter": 3, "name": "x"}})
    assert list(tensors) == ["state_dict/weight"]
    save_checkpoint({**checkpoint, "shards": save_shards(tensors, path)}, path)
    return path


def folder_of(path: Path) -> Path:
    (folder,) = path.parent.glob(f"{path.name}.*.shards")
    return folder


def test_whole_tensors_are_read_where_nothing_is_split(mesh, tmp_path):
    model = split_model(mesh)
    checkpoint = read_checkpoint(save(model, tmp_path / "a.pth"))
    assert set(checkpoint) == {"state_dict", "meta"}
    assert checkpoint["meta"] == {"iter": 3, "name": "x"}
    assert checkpoint["state_dict"]._metadata[""] == {"version": 1}
    plain = nn.Linear(3, 4)
    load_state_dict(plain, checkpoint["state_dict"], strict=True)
    assert torch.equal(plain.weight, model.weight.full_tensor())
    assert torch.equal(plain.bias, model.bias)


def test_parts_are_read_into_a_split_model(mesh, tmp_path):
    model, other = split_model(mesh), split_model(mesh)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    checkpoint = read_checkpoint(save(model, tmp_path / "a.pth"), keep_shards=True)
    saved = checkpoint["state_dict"]["weight"]
    assert isinstance(saved, SavedTensor)
    assert saved.shape == (4, 3)
    load_state_dict(other, checkpoint["state_dict"], strict=True)
    assert isinstance(other.weight, DTensor)
    assert torch.equal(other.weight.full_tensor(), model.weight.full_tensor())


def test_a_checkpoint_and_its_shards_become_one_file(mesh, tmp_path, capsys):
    model = split_model(mesh)
    path = save(model, tmp_path / "a.pth")
    assert main(["merge", str(path), str(tmp_path / "whole.pth")]) == 0
    assert "whole.pth: " in capsys.readouterr().out
    remove_shards(path)
    whole = torch.load(tmp_path / "whole.pth", weights_only=True)
    assert torch.equal(whole["state_dict"]["weight"], model.weight.full_tensor())
    assert set(whole) == {"state_dict", "meta"}


@pytest.mark.parametrize("damage", ["a byte", "the end", "a file", "the folder"])
def test_damaged_shards_are_noticed(mesh, tmp_path, damage):
    model = split_model(mesh)
    older, path = save(model, tmp_path / "a_1.pth"), save(model, tmp_path / "a_2.pth")
    os.utime(older, (1, 1))
    shard = folder_of(path) / "__0_0.distcp"
    data = bytearray(shard.read_bytes())
    if damage == "a byte":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif damage == "the end":
        shard.write_bytes(data[:-1])
    elif damage == "a file":
        shard.unlink()
    else:
        folder_of(path).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"damaged|missing"):
        read_checkpoint(path)
    if damage != "the folder":  # without one, nothing says that there should be one until the file is read
        with pytest.raises(CheckpointError, match=r"damaged|missing"):
            verify_checkpoint(path)
        assert find_valid_checkpoint(tmp_path) == str(older)


def test_metadata_runs_nothing(mesh, tmp_path):
    path = save(split_model(mesh), tmp_path / "a.pth")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    metadata = folder_of(path) / ".metadata"
    metadata.write_bytes(pickle.dumps(Evil()))
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["shards"]["files"] = {}  # as who makes such a file would make it fit
    save_checkpoint(checkpoint, path)
    with pytest.raises(CheckpointError, match="mkdir, which was not loaded"):
        read_checkpoint(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../a.pth.0.shards", "/tmp/x.shards"])
def test_shards_are_beside_their_file(mesh, tmp_path, name):
    save_checkpoint({"shards": {"folder": name, "files": {}}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not beside it"):
        read_checkpoint(tmp_path / "a.pth")


def test_shards_that_cannot_be_written_leave_nothing(mesh, tmp_path, monkeypatch):
    _, tensors = split_shards({"weight": split_model(mesh).weight})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"shards of .*a.pth could not be written: .*No space left on device"):
        save_shards(tensors, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_new_save_takes_a_new_folder(mesh, tmp_path):
    model = split_model(mesh)
    path = save(model, tmp_path / "a.pth")
    first = folder_of(path)
    save(model, path)
    assert len(list(tmp_path.glob("*.shards"))) == 2
    newest = torch.load(path, weights_only=True)["shards"]["folder"]
    remove_shards(path, keep=newest)
    assert not first.exists()
    assert folder_of(path).name == newest

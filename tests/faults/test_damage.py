"""Damaged checkpoints: noticed, named, passed over, and never replaced by a fresh start in silence."""

from __future__ import annotations

import shutil

import pytest
import torch

from .conftest import end_of


@pytest.fixture(scope="module")
def run_folder(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    spec = {"checkpoint": {"interval": 4, "save_best": None}}
    assert lab.run({"point": "after_train_iter", "count": 9, "action": "KILL"}, work_dir=folder, **spec) == [-9]
    return folder


@pytest.fixture
def folder(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    return tmp_path / "run"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    """Change one bit of a weight; torch.load does not notice."""
    weights = torch.load(path, weights_only=True)["state_dict"]["head.weight"]
    content = bytearray(path.read_bytes())
    position = content.index(weights.numpy().tobytes())
    content[position + 3] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["head.weight"], weights)


def empty(path):
    path.write_bytes(b"")


def publish(path):
    state = torch.load(path, weights_only=True)
    torch.save({key: state[key] for key in ("meta", "state_dict")}, path)


SPEC = {"checkpoint": {"interval": 4, "save_best": None}}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "iter_8.pth is damaged"),
        (flip, "iter_8.pth is damaged"),
        (empty, "iter_8.pth is empty"),
        (publish, "it has no optimizer, train_loop, param_schedulers. It holds meta, state_dict"),
    ],
)
def test_the_newest_valid_one_is_taken(lab, folder, damage, reason):
    expected = lab.expect(**SPEC)
    damage(folder / "iter_8.pth")
    assert lab.resume(folder, **SPEC) == expected
    assert "not resuming from" in lab.log
    assert reason in lab.log
    assert "resumed from " + str(folder / "iter_4.pth") in lab.log


def test_all_damaged_stops_and_lists_them(lab, folder):
    flip(folder / "iter_8.pth")
    publish(folder / "iter_4.pth")
    assert lab.run(work_dir=folder, resume="auto", **SPEC) == [1]
    message = lab.log[lab.log.index("no checkpoint in") :]
    assert f"{folder}/iter_8.pth: " in message
    assert f"{folder}/iter_4.pth: it has no optimizer" in message
    assert "begin anew, or name another checkpoint" in message


def test_an_explicit_path_never_falls_back(lab, folder):
    flip(folder / "iter_8.pth")
    assert lab.run(work_dir=folder, resume=str(folder / "iter_8.pth"), **SPEC) == [1]
    assert "iter_8.pth is damaged" in lab.log
    assert "resumed from" not in lab.log


def test_checkpoints_in_a_folder_of_their_own_are_found(lab, tmp_path):
    """With out_dir the run folder holds none; beginning anew in silence would lose the run."""
    spec = {"checkpoint": {"interval": 4, "out_dir": str(tmp_path / "elsewhere")}}
    fault = {"point": "after_train_iter", "count": 9, "action": "TERM"}
    assert lab.run(fault, work_dir=tmp_path / "run", **spec) == [143]
    assert lab.run(work_dir=tmp_path / "run", resume="auto", **spec) == [0]
    assert f"resumed from {tmp_path / 'elsewhere' / 'run' / 'preempted.pth'}" in lab.log
    assert end_of(tmp_path / "elsewhere" / "run")["state_dict"] == lab.expect()["state_dict"]

"""Checkpoints that mmengine 0.10.7 wrote load: weights through `LoadFrom`, the optimizer's state, and the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lazyengine.checkpoint import CheckpointError, read_checkpoint
from lazyengine.evaluator import MeanLoss
from lazyengine.logging import MMLogger
from lazyengine.model import BaseModel
from lazyengine.optim import OptimWrapper, param_groups
from lazyengine.runner import LoadFrom, Runner, ValLoop

GOLDEN = Path(__file__).parent / "golden"
X = torch.arange(24, dtype=torch.float32).reshape(6, 4) / 10 - 1
Y = torch.tensor([0, 1, 0, 1, 1, 0])


class Net(BaseModel):
    """The model of golden/mmengine_checkpoint.py."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x, y, mode="tensor"):
        return {"loss": nn.functional.cross_entropy(self.head(self.backbone(x)), y)}


def read(name: str) -> dict[str, Any]:
    """Read a checkpoint of mmengine without trusting it: its history buffers are left out."""
    return read_checkpoint(str(GOLDEN / name), skip_objects=True)


def assert_has(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value), key


def groups_for(name: str, model: nn.Module) -> Any:
    if name == "plain":
        return model.parameters()
    return param_groups(model, custom_keys={"backbone": dict(lr_mult=0.1)}, norm_decay_mult=0.0, group_by="param")


@pytest.fixture
def one_thread():
    """The golden files were written with one thread; the order of additions depends on their number."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("name", ["plain", "groups"])
def test_training_goes_on_as_in_mmengine(name, one_thread):
    checkpoint = read(f"{name}_4.pth")
    model = Net()
    model.load_state_dict(checkpoint["state_dict"])
    optimizer = torch.optim.AdamW(groups_for(name, model), lr=0.1, weight_decay=0.05)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=0.5))
    wrapper.load_state_dict(checkpoint["optimizer"])
    model.train()
    model.train_step({"x": X, "y": Y}, wrapper)
    expected = read(f"{name}_5.pth")["state_dict"]
    for key, value in model.state_dict().items():  # equal to the bit with the torch and the processor that wrote them
        if key != "backbone.0.bias":  # before a BatchNorm its gradient is rounding, which Adam makes a whole step
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_load_into_a_model_and_through_the_runner(prefix, tmp_path):
    checkpoint = read("plain_4.pth")
    path = str(GOLDEN / "plain_4.pth")
    if prefix:
        path = str(tmp_path / "wrapped.pth")
        torch.save({"state_dict": {prefix + key: value for key, value in checkpoint["state_dict"].items()}}, path)
    model = Net()
    LoadFrom(path, strict=True).load_into(model, MMLogger.get_instance("mmengine_checkpoint"))
    assert_has(model, checkpoint["state_dict"])

    data = torch.utils.data.DataLoader([dict(x=x, y=y) for x, y in zip(X, Y)], batch_size=6)
    runner = Runner(
        Net(),
        val_loop=ValLoop(data, MeanLoss()),
        load_from=LoadFrom(path, strict=True),
        work_dir=str(tmp_path / "run"),
        device="cpu",
    )
    model.eval()
    assert runner.val() == {"loss": pytest.approx(model(X, Y)["loss"].item(), rel=1e-6)}


def test_a_part_of_the_model_loads_by_its_prefix():
    backbone = Net().backbone
    path = str(GOLDEN / "plain_4.pth")
    LoadFrom(path, prefix="backbone", strict=True).load_into(backbone, MMLogger.get_instance("mmengine_checkpoint"))
    state = read("plain_4.pth")["state_dict"]
    assert_has(backbone, {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})


def test_without_leave_nothing_of_mmengine_is_made():
    with pytest.raises(CheckpointError, match=r"HistoryBuffer.*trusted=True.*skip_objects=True"):
        read_checkpoint(str(GOLDEN / "plain_4.pth"))


def test_other_groups_are_refused():
    model = Net()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="group"):
        wrapper.load_state_dict(read("groups_4.pth")["optimizer"])

"""Gradients that a loss leaves on parameters of another optimizer are part of its next step, also after a resume."""

import pytest
import torch
from torch import nn

from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader
from lazyengine.hooks import CheckpointHook, default_hooks
from lazyengine.model import BaseModel
from lazyengine.optim import OptimWrapper, OptimWrapperDict
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from tests.runner.toy import StopAt, ToyData


class Pair(BaseModel):
    """A loss of the first part, which goes through the second one, then a loss of the second."""

    def __init__(self, clears_first: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)
        self.clears_first = clears_first

    def forward(self, x, y=None, index=None, mode="tensor"):
        return self.second(self.first(x)).squeeze(1)

    def train_step(self, data, optim_wrapper):
        for name in ("first", "second"):
            loss = (self(data["x"]) - data["y"]).square().mean()
            if self.clears_first:  # as loops of torch do; what is there at the end was used
                optim_wrapper.zero_grad()
                optim_wrapper[name].backward(loss)
                optim_wrapper[name].step()
            else:
                optim_wrapper[name].update_params(loss)
        return {"loss": loss.detach()}


def make(folder, loop, model=None, **more) -> Runner:
    torch.manual_seed(0)
    model = model or Pair()
    wrappers = {
        name: OptimWrapper(torch.optim.Adam(getattr(model, name).parameters(), 0.01)) for name in ("first", "second")
    }
    loader = DataLoader(ToyData(), 4, shuffle=True)
    train_loop = EpochBasedTrainLoop(loader, 3) if loop == "epoch" else IterBasedTrainLoop(loader, 15)
    hooks = {**default_hooks(), "checkpoint": CheckpointHook(interval=1, by_epoch=False), **more.pop("hooks", {})}
    return Runner(
        model,
        train_loop=train_loop,
        optim_wrapper=OptimWrapperDict(**wrappers),
        hooks=hooks,
        work_dir=str(folder),
        **more,
    )


@pytest.mark.parametrize("loop", ["epoch", "iteration"])
@pytest.mark.parametrize("iteration", [5, 8])
def test_a_resume_goes_on_with_them(tmp_path, loop, iteration):
    whole = make(tmp_path / "whole", loop)
    whole.train()
    with pytest.raises(InterruptedError):
        make(tmp_path / "run", loop, hooks={"stop": StopAt(iteration)}).train()
    resumed = make(tmp_path / "run", loop, resume=True)
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_those_that_were_used_are_not_kept(tmp_path):
    """Of the second optimizer all gradients were used by its own step, whether they are cleared behind it or not."""
    for name, clears_first in (("behind", False), ("before", True)):
        make(tmp_path / name, "epoch", Pair(clears_first)).train()
        saved = read_checkpoint(tmp_path / name / "iter_15.pth")["optimizer"]
        assert "gradients" in saved["first"]["optim_wrapper"]
        assert "gradients" not in saved["second"]["optim_wrapper"]

"""Gradients that a loss leaves on parameters of another optimizer are part of its next step, also after a resume."""

import pytest
import torch
from torch import nn

from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, default_hooks
from lazyengine.model import BaseModel
from lazyengine.optim import OptimWrapper, OptimWrapperDict
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from tests.runner.toy import StopAt, ToyData, toy_runner


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


class StopsEarly(Hook):
    """Ends training after an iteration, as early stopping does after a validation."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.train_loop.stop_training |= runner.iter + 1 == self.iteration


@pytest.mark.parametrize("update_bn", [False, True])
@pytest.mark.parametrize("loop", [{"max_epochs": 4}, {"max_iters": 20, "val_interval": 5}])
@pytest.mark.parametrize(("iteration", "accumulation"), [(5, 3), (5, 4), (10, 4), (5, 5)])
def test_an_average_and_schedules_follow_the_step_that_an_early_stop_leaves(
    tmp_path, loop, iteration, accumulation, update_bn
):
    """The weights had moved by it, the average and the schedule had not."""
    hooks = {"ema": EMAHook(momentum=0.3, update_bn=update_bn), "stop": StopsEarly(iteration)}
    runner = toy_runner(str(tmp_path), hooks=hooks, accumulative_counts=accumulation, **loop)
    runner.train()
    num_steps = -(-iteration // accumulation)
    assert runner.num_iters_completed == iteration
    assert runner.optim_wrapper.num_optimizer_steps == num_steps
    average = runner.hooks["ema"].ema_model
    assert average.steps == num_steps
    assert average.has_own_statistics == update_bn
    warm_up, _ = runner.param_schedulers
    assert warm_up.last_step == num_steps
    saved = read_checkpoint(max(tmp_path.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns))
    assert saved["ema_steps"] == num_steps
    assert torch.equal(saved["state_dict"]["net.0.weight"], average.module.net[0].weight)
    assert torch.equal(saved["ema_state_dict"]["net.0.weight"], runner.model.net[0].weight)

"""Row 21: with `allow_inexact_resume`, another batch size, dataset or accumulation goes on at the same fraction."""

from __future__ import annotations

import pytest
import torch

from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.errors import UsageError
from lazyengine.hooks import CheckpointHook, default_hooks
from lazyengine.optim import CosineAnnealingLR, OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..runner.toy import StopAt, ToyData, ToyModel

EPOCHS = 4


def runner_of(folder, kind, *, batch_size, accumulation=1, n=48, stop=None, allow=True, steps=None):
    """Return a runner whose rate follows a cosine over all optimizer steps."""
    torch.manual_seed(0)
    model, data = ToyModel(), ToyData(n)
    loader = DataLoader(data, batch_size, sampler=DefaultSampler(data, shuffle=True))
    num_iters = EPOCHS * len(loader)
    if kind == "epoch":
        loop = EpochBasedTrainLoop(loader, EPOCHS, allow_inexact_resume=allow)
    else:
        loop = IterBasedTrainLoop(loader, steps * accumulation if steps else num_iters, allow_inexact_resume=allow)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0e-3), accumulative_counts=accumulation)
    hooks = {**default_hooks(), "checkpoint": CheckpointHook(interval=1, by_epoch=False)}
    if stop:
        hooks["stop"] = StopAt(stop)
    return Runner(
        model,
        train_loop=loop,
        optim_wrapper=wrapper,
        param_schedulers=[CosineAnnealingLR(wrapper, T_max=loop.max_iters // accumulation, by_epoch=False)],
        hooks=hooks,
        work_dir=str(folder),
        resume=True,
    )


class Rates(StopAt):
    """Notes the rate of each iteration."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pass


@pytest.mark.seam(21, "epoch", "iteration", "smaller batches, more accumulation")
@pytest.mark.parametrize("kind", ["epoch", "iteration"])
@pytest.mark.parametrize("at", [4, 6, 9, 12, 13])
def test_the_advice_after_out_of_memory_works_on_a_resume(tmp_path, kind, at):
    """Half the batch, twice the accumulation: the same optimizer steps, rates and length."""
    steps = EPOCHS * 6
    whole = runner_of(tmp_path / "whole", kind, batch_size=8, steps=steps)
    whole.train()
    with pytest.raises(InterruptedError):
        runner_of(tmp_path / "run", kind, batch_size=8, stop=at, steps=steps).train()
    saved = at - 1  # what the last complete checkpoint has
    resumed = runner_of(tmp_path / "run", kind, batch_size=4, accumulation=2, steps=steps)
    resumed._parts["hooks"]["rates"] = rates = Rates()
    resumed.train()
    begin = resumed.num_iters_completed - len(rates.rates)
    assert begin in (2 * saved, 2 * at)
    done = begin // 2
    assert resumed.num_iters_completed == 2 * steps
    assert resumed.optim_wrapper.num_optimizer_steps == whole.optim_wrapper.num_optimizer_steps == steps
    schedule = [
        1e-3 * (1 + torch.cos(torch.tensor(torch.pi * t / steps, dtype=torch.float64)).item()) / 2 for t in range(steps)
    ]
    assert rates.rates[::2] == pytest.approx(schedule[done:], rel=1e-9)
    assert resumed.train_loop.position.samples == EPOCHS * 48


@pytest.mark.seam(21, "epoch", "another dataset", "another batch size")
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 16}, {"batch_size": 8, "n": 96}])
def test_an_epoch_loop_keeps_the_fraction_of_training(tmp_path, options):
    with pytest.raises(InterruptedError):
        runner_of(tmp_path, "epoch", batch_size=8, stop=10).train()
    resumed = runner_of(tmp_path, "epoch", **options)
    length = resumed.train_loop.epoch_length
    resumed._parts["hooks"]["rates"] = rates = Rates()
    resumed.train()
    begin = resumed.num_iters_completed - len(rates.rates)
    assert begin / length == pytest.approx(9 / 6, abs=1 / length) or begin / length == pytest.approx(
        10 / 6, abs=1 / length
    )
    assert resumed.num_iters_completed == EPOCHS * length
    assert rates.rates[0] == pytest.approx(
        5e-4 * (1 + torch.cos(torch.tensor(torch.pi * begin / (EPOCHS * length))).item()), rel=1e-5
    )


@pytest.mark.seam(21, "iteration", "another batch size", "log")
def test_an_iteration_loop_says_which_length_keeps_the_samples(tmp_path):
    with pytest.raises(InterruptedError):
        runner_of(tmp_path, "iteration", batch_size=8, stop=10).train()
    resumed = runner_of(tmp_path, "iteration", batch_size=4, steps=24)
    resumed.train()
    assert resumed.num_iters_completed == 24
    texts = "".join(path.read_text() for path in tmp_path.glob("*/*.log"))
    assert "max_iters=24 now means" in texts


@pytest.mark.seam(21, "epoch", "iteration", "refused")
@pytest.mark.parametrize("kind", ["epoch", "iteration"])
def test_without_the_option_it_is_refused(tmp_path, kind):
    with pytest.raises(InterruptedError):
        runner_of(tmp_path, kind, batch_size=8, stop=10).train()
    with pytest.raises(UsageError, match=r"allow_inexact_resume=True"):
        runner_of(tmp_path, kind, batch_size=4, allow=False).train()

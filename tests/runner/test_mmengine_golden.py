"""What a port relies on behaves as mmengine 0.10.7 does; the values were written by ``golden/mmengine_runner.py``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import BaseMetric, Evaluator
from lazyengine.hooks import CheckpointHook, DistSamplerSeedHook, Hook, ParamSchedulerHook, default_hooks
from lazyengine.model import BaseModel, ExponentialMovingAverage
from lazyengine.optim import ConstantLR, LinearLR, OptimWrapper, ReduceOnPlateauLR
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "mmengine_runner.json").read_text("utf-8"))


class Points(torch.utils.data.Dataset):
    """Eight numbers."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([float(index)])}


class Net(BaseModel):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, mode="tensor"):
        return {"loss": (self.weight - x).square().mean()} if mode == "loss" else [{"pred": each} for each in x]


class Falling(BaseMetric):
    """3, 1, 2, 0.5, 4, ..."""

    values = (3.0, 1.0, 2.0, 0.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def process(self, data_batch, data_samples):
        self.results.extend([1] * len(data_samples))

    def compute_metrics(self, results):
        self.calls += 1
        return {"error": self.values[self.calls - 1]}


def make(folder: Path, hooks: dict[str, Hook], max_epochs: int = 10, schedule=None, **options: Any) -> Runner:
    """Build the experiment of the script."""
    model, data = Net(), Points()
    loader = DataLoader(data, 2, sampler=DefaultSampler(data, shuffle=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Runner(
        model,
        train_loop=EpochBasedTrainLoop(loader, max_epochs),
        val_loop=ValLoop(loader, Falling()),
        optim_wrapper=OptimWrapper(optimizer),
        param_schedulers=schedule(optimizer) if schedule else None,
        hooks=hooks,
        work_dir=str(folder),
        **options,
    )


def test_saving_from_an_epoch_on_and_what_the_hub_knows_of_it(tmp_path, caplog):
    expected = GOLDEN["checkpoints"]
    hook = CheckpointHook(2, save_begin=5, save_last=False, max_keep_ckpts=2, save_best="error", rule="less")
    hooks = {**default_hooks(), "checkpoint": hook, "seed": DistSamplerSeedHook()}
    del hooks["progress_bar"]
    runner = make(tmp_path, hooks)
    saved: list[str] = []
    original = runner.save_checkpoint

    def save_checkpoint(filename, **kwargs):
        saved.append(filename)
        return original(filename, **kwargs)

    runner.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    runner.train()
    hub = runner.message_hub
    assert saved == expected["saved"]
    for name in ("last_ckpt", "best_ckpt"):
        assert os.path.basename(hub.get_info(name)) == expected[name]
    assert hub.get_info("keep_ckpt_ids") == expected["keep_ckpt_ids"]
    assert sorted(type(hook).__name__ for hook in runner.hooks) == sorted(expected["hooks"])
    assert (runner.val_interval, runner.model_name) == (expected["val_interval"], expected["model_name"])


class Gives(Hook):
    """Gives the runner another schedule at iteration 3, and notes the rate of every iteration."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            optimizer = runner.optim_wrapper.optimizer
            runner.param_schedulers = [LinearLR(optimizer, start_factor=0.5, end=3, by_epoch=False)]


def test_a_schedule_that_a_hook_gives(tmp_path):
    hook = Gives()
    hooks = {"gives": hook, "schedule": ParamSchedulerHook()}
    make(tmp_path, hooks, 3, schedule=lambda optimizer: [ConstantLR(optimizer, factor=0.1, end=100)]).train()
    assert hook.rates == pytest.approx(GOLDEN["schedules"]["rates"], rel=1e-12)


@pytest.mark.parametrize("name", ["on", "off"])
def test_scaled_rates(tmp_path, name):
    given = {"base_batch_size": 8, **({"enable": True} if name == "on" else {})}
    runner = make(tmp_path, {"schedule": ParamSchedulerHook()}, 1, auto_scale_lr=given)
    runner.train()
    assert runner.optim_wrapper.get_lr()["lr"] == [GOLDEN["scaled"][name]]


class ExpMomentumEMA(ExponentialMovingAverage):
    """As a detection library writes its average: one parameter at a time."""

    def avg_func(self, averaged_param, source_param, steps):
        momentum = (1 - self.momentum) * 2.0 ** (-(1 + steps)) + self.momentum
        averaged_param.mul_(1 - momentum).add_(source_param, alpha=momentum)


def test_an_average_of_ones_own():
    net = nn.Linear(1, 1, bias=False)
    averaged = ExpMomentumEMA(net, momentum=0.1)
    for step, value in enumerate(GOLDEN["average"]):
        nn.init.constant_(net.weight, float(step * step))
        averaged.update_parameters(net)
        assert averaged.module.weight.item() == value


@pytest.mark.parametrize(
    ("name", "saved_by", "made"),
    [
        ("constant", lambda o: ConstantLR(o, factor=0.25, end=4), lambda o: ConstantLR(o, factor=0.5, end=9)),
        (
            "plateau",
            lambda o: ReduceOnPlateauLR(o, monitor="e", factor=0.5, patience=0, rule="less"),
            lambda o: ReduceOnPlateauLR(o, monitor="e", factor=0.1, patience=5, rule="less"),
        ),
    ],
)
def test_a_restored_scheduler_goes_on_as_the_saved_one(name, saved_by, made):
    first, second = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2))

    def step(scheduler, error):
        scheduler.step(*([{"e": error}] if name == "plateau" else []))

    one = saved_by(first)
    for error in (3.0, 2.0, 2.5):
        step(one, error)
    two = made(second)
    two.load_state_dict(one.state_dict())
    second.param_groups[0]["lr"] = first.param_groups[0]["lr"]
    rates = []
    for error in (2.6, 2.7, 1.0, 1.5):
        step(two, error)
        rates.append(second.param_groups[0]["lr"])
    assert rates == GOLDEN["restored"][name]


def test_results_from_a_file_reach_a_metric_in_the_same_chunks():
    calls = []

    class Sees(BaseMetric):
        def process(self, data_batch, data_samples):
            kind = "list" if isinstance(data_samples, list) else type(data_samples).__name__
            calls.append([kind, len(data_samples), type(data_samples[0]).__name__])
            self.results.append(1)

        def compute_metrics(self, results):
            return {"n": len(results)}

    samples = [{"pred": i} for i in range(5)]
    values = Evaluator([Sees()]).offline_evaluate(samples, [{"x": i} for i in range(5)], chunk_size=2)
    assert calls == GOLDEN["offline"]["calls"]
    assert values == GOLDEN["offline"]["values"]


@pytest.mark.parametrize(("name", "batch"), [("dict", {"a": 1, "b": 2}), ("list", [1, 2]), ("tuple", (1, 2))])
def test_what_a_forward_gets_of_a_batch(name, batch):
    class Forms(BaseModel):
        def forward(self, *args, mode="tensor", **kwargs):
            return [list(args), kwargs, mode]

    assert Forms()._run_forward(batch, mode="predict") == GOLDEN["forward"][name]

"""Written down from mmengine 0.10.7: what a hook or a script finds on a runner, and what a port relies on.

Run it where mmengine is installed: ``python tests/runner/golden/mmengine_runner.py``. It writes the JSON file beside.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import ConstantLR, LinearLR, ReduceOnPlateauLR
from mmengine.runner import Runner


class Points(torch.utils.data.Dataset):
    """Eight numbers."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.tensor([float(index)])}


class Net(BaseModel):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, mode="tensor"):
        x = torch.stack(x) if isinstance(x, list) else x
        return {"loss": (self.weight - x).square().mean()} if mode == "loss" else [{"pred": each} for each in x]


class Falling(BaseMetric):
    """3, 1, 2, 0.5, 4, ..."""

    values = (3.0, 1.0, 2.0, 0.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        self.calls += 1
        return {"error": self.values[self.calls - 1]}


class Gives(Hook):
    """Gives the runner another schedule at iteration 3, and notes the rate of every iteration."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            optimizer = runner.optim_wrapper.optimizer
            runner.param_schedulers = [LinearLR(optimizer, start_factor=0.5, end=3, by_epoch=False)]


class ExpMomentumEMA(ExponentialMovingAverage):
    """As a detection library writes its average: one parameter at a time."""

    def avg_func(self, averaged_param, source_param, steps):
        momentum = (1 - self.momentum) * 2.0 ** (-(1 + steps)) + self.momentum
        averaged_param.mul_(1 - momentum).add_(source_param, alpha=momentum)


def make(folder: str, **options) -> Runner:
    torch.manual_seed(0)
    loader = {
        "batch_size": 2,
        "dataset": Points(),
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "num_workers": 0,
        "collate_fn": {"type": "default_collate"},
    }
    return Runner(
        Net(),
        work_dir=folder,
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": 10, "val_interval": 1},
        val_cfg={},
        val_evaluator=[Falling()],
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        experiment_name=os.path.basename(folder),
        log_level="ERROR",
        **options,
    )


def checkpoints(folder: Path) -> dict:
    hook = {"type": "CheckpointHook", "interval": 2, "save_begin": 5, "save_last": False, "max_keep_ckpts": 2}
    runner = make(str(folder / "a"), default_hooks={"checkpoint": {**hook, "save_best": "error", "rule": "less"}})
    saved = []
    original = runner.save_checkpoint

    def save_checkpoint(*args, **kwargs):
        saved.append([*args[1:], kwargs.get("filename")][0])
        original(*args, **kwargs)

    runner.save_checkpoint = save_checkpoint
    runner.train()
    hub = runner.message_hub
    return {
        "saved": [os.path.basename(name) for name in saved],
        "last_ckpt": os.path.basename(hub.get_info("last_ckpt")),
        "best_ckpt": os.path.basename(hub.get_info("best_ckpt")),
        "keep_ckpt_ids": list(hub.get_info("keep_ckpt_ids")),
        "hooks": [type(hook).__name__ for hook in runner.hooks],
        "val_interval": runner.val_interval,
        "model_name": runner.model_name,
    }


def schedules(folder: Path) -> dict:
    hook = Gives()
    runner = make(
        str(folder / "b"), custom_hooks=[hook], param_scheduler={"type": "ConstantLR", "factor": 0.1, "end": 100}
    )
    runner.train()
    return {"rates": hook.rates[:12]}


def scaled(folder: Path) -> dict:
    found = {}
    for name, given in {"on": {"enable": True, "base_batch_size": 8}, "off": {"base_batch_size": 8}}.items():
        runner = make(str(folder / name), auto_scale_lr=given)
        runner.train()
        found[name] = runner.optim_wrapper.get_lr()["lr"][0]
    return found


def average() -> list[float]:
    torch.manual_seed(0)
    net = torch.nn.Linear(1, 1, bias=False)
    averaged, values = ExpMomentumEMA(net, momentum=0.1), []
    for step in range(6):
        torch.nn.init.constant_(net.weight, float(step * step))
        averaged.update_parameters(net)
        values.append(averaged.module.weight.item())
    return values


def restored() -> dict:
    """A scheduler restored by load_state_dict goes on as the saved one, also where it was made with other options."""
    found = {}
    for name, saved_by, made in (
        ("constant", lambda o: ConstantLR(o, factor=0.25, end=4), lambda o: ConstantLR(o, factor=0.5, end=9)),
        (
            "plateau",
            lambda o: ReduceOnPlateauLR(o, monitor="e", factor=0.5, patience=0),
            lambda o: ReduceOnPlateauLR(o, monitor="e", factor=0.1, patience=5),
        ),
    ):
        rates = []
        first = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        one = saved_by(first)
        step = (lambda s, e: s.step({"e": e})) if name == "plateau" else (lambda s, e: s.step())
        for error in (3.0, 2.0, 2.5):
            step(one, error)
        second = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        two = made(second)
        two.load_state_dict(one.state_dict())
        for group, saved in zip(second.param_groups, first.param_groups):
            group["lr"] = saved["lr"]
        for error in (2.6, 2.7, 1.0, 1.5):
            step(two, error)
            rates.append(second.param_groups[0]["lr"])
        found[name] = rates
    return found


class Sees(BaseMetric):
    """Notes the form of what it gets."""

    seen: list = []  # noqa: RUF012

    def process(self, data_batch, data_samples):
        data = [type(data_batch).__name__, len(data_batch)] if data_batch is not None else None
        self.seen.append([data, type(data_samples).__name__, len(data_samples), type(data_samples[0]).__name__])
        self.results.append(1)

    def compute_metrics(self, results):
        return {"n": len(results)}


def offline() -> dict:
    """How often and with what a metric is called when results are evaluated that lie in a file."""
    evaluator = Evaluator([Sees()])
    samples = [{"pred": i} for i in range(5)]
    values = evaluator.offline_evaluate(samples, [{"x": i} for i in range(5)], chunk_size=2)
    return {"calls": [call[1:] for call in Sees.seen], "values": values}


class Forms(BaseModel):
    """Returns what its forward got."""

    def forward(self, *args, mode="tensor", **kwargs):
        return [list(args), kwargs, mode]


def forward() -> dict:
    """What the forward of a model gets of a batch of each form."""
    batches = {"dict": {"a": 1, "b": 2}, "list": [1, 2], "tuple": (1, 2)}
    return {name: Forms()._run_forward(batch, mode="predict") for name, batch in batches.items()}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        golden = {
            "checkpoints": checkpoints(root),
            "schedules": schedules(root),
            "scaled": scaled(root),
            "average": average(),
            "restored": restored(),
            "offline": offline(),
            "forward": forward(),
        }
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")

"""A tiny experiment built by hand, as in a notebook: every part is an object."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import BaseMetric, Evaluator
from lazyengine.hooks import Hook, default_hooks
from lazyengine.model import BaseModel
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop


class ToyData(torch.utils.data.Dataset):
    """Points whose noise is drawn anew every time that they are read."""

    metainfo = {"name": "toy"}  # noqa: RUF012

    def __init__(self, n: int = 20) -> None:
        self.x = torch.linspace(-1, 1, n * 4).reshape(n, 4)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = self.x[index] + 0.1 * torch.randn(4)
        return {"x": x, "y": self.x[index].sum(), "index": index}


class ToyModel(BaseModel):
    """Linear regression with dropout, so that the model's random stream matters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.batches: list[list[int]] = []

    def forward(self, x, y, index, mode="tensor"):
        out = self.net(x).squeeze(1)
        if mode == "loss":
            self.batches.append(index.tolist())
            return {"loss": (out - y).square().mean()}
        return {"error": (out - y).abs()} if mode == "predict" else out


class MeanError(BaseMetric):
    """Mean absolute error."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples["error"].tolist())

    def compute_metrics(self, results):
        return {"error": sum(results) / len(results)}


class StopAt(Hook):
    """Fails after an iteration, as a killed process would end."""

    priority = "LOWEST"

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise InterruptedError("killed")


def toy_runner(
    work_dir: str,
    *,
    max_epochs: int = 3,
    max_iters: int | None = None,
    hooks: dict[str, Hook] | None = None,
    num_workers: int = 0,
    accumulative_counts: int = 1,
    val_interval: int = 1,
    **kwargs: Any,
) -> Runner:
    """Build a runner of 5 iterations an epoch."""
    torch.manual_seed(0)
    model = ToyModel()
    data = ToyData()
    loader = DataLoader(data, 4, sampler=DefaultSampler(data, shuffle=True), num_workers=num_workers)
    if max_iters is None:
        loop = EpochBasedTrainLoop(loader, max_epochs, val_interval=val_interval)
    else:
        loop = IterBasedTrainLoop(loader, max_iters, val_interval=val_interval)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapper = OptimWrapper(optimizer, accumulative_counts=accumulative_counts)
    return Runner(
        model,
        train_loop=loop,
        val_loop=ValLoop(DataLoader(data, 4), Evaluator([MeanError()])),
        optim_wrapper=wrapper,
        param_schedulers=[
            LinearLR(optimizer, start_factor=0.1, end=4, by_epoch=False),
            CosineAnnealingLR(optimizer, T_max=8, begin=4, end=12, by_epoch=False),
        ],
        hooks={**default_hooks(), **(hooks or {})},
        work_dir=work_dir,
        **kwargs,
    )

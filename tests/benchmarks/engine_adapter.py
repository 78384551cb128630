"""lazyengine for `bench/engine.py` and `startup.py`: the documented default run, every default hook on.

Text log, metrics.jsonl, TensorBoard, timers, a schedule by iteration, the checkpoint hook. The progress bar is off
because the output is no terminal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lazyengine.dataset import DataLoader, InfiniteSampler
from lazyengine.hooks import CheckpointHook, Hook, LoggerHook, default_hooks
from lazyengine.optim import MultiStepLR, OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

BATCH_SIZE = 16


class Model(nn.Module):
    """The bench's network, as a model that returns its loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(self.net(x), y)}


class Age(Hook):
    """Makes the histories as long as after a million iterations."""

    def __init__(self, history: int) -> None:
        self.history = history

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if batch_idx == 50:
            for buffer in runner.message_hub.log_scalars.values():
                for _ in range(self.history):
                    buffer.update(1.0)


def train(
    n: int,
    k: int,
    net: nn.Module,
    ds: Any,
    tmp: str,
    *,
    by_epoch: bool = True,
    exact: bool = True,
    history: int = 0,
) -> None:
    """Train `net` for `n` iterations of batch 16, logging every `k`."""
    model = Model(net)
    sampler = None if by_epoch else InfiniteSampler(ds)
    loader = DataLoader(ds, BATCH_SIZE, shuffle=by_epoch, sampler=sampler, seed_batches=exact)
    loop = EpochBasedTrainLoop(loader, 1) if by_epoch else IterBasedTrainLoop(loader, n)
    hooks = default_hooks()
    hooks["logger"] = LoggerHook(k)
    hooks["checkpoint"] = CheckpointHook(1) if by_epoch else CheckpointHook(10**9, by_epoch=False)
    if history:
        hooks["age"] = Age(history)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    Runner(
        model,
        train_loop=loop,
        optim_wrapper=OptimWrapper(optimizer),
        param_schedulers=[MultiStepLR(optimizer, milestones=[n * 2 // 3], by_epoch=False)],
        hooks=hooks,
        work_dir=tmp,
        exact_resume=exact,
    ).train()


def epoch(*args: Any) -> None:
    """Epoch-based, exact resume on."""
    train(*args)


def iteration(*args: Any) -> None:
    """Iteration-based, exact resume on."""
    train(*args, by_epoch=False)


def epoch_no_seeding(*args: Any) -> None:
    """Epoch-based, the seeding of data and model switched off."""
    train(*args, exact=False)


def epoch_at_1m(*args: Any) -> None:
    """Epoch-based, with a million iterations of history."""
    train(*args, history=1_000_000)

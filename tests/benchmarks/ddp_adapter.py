"""Adapter for the benchmark of the training loop with two gloo processes: ``ddp_adapter:train`` is a usual run.

It takes the network and the data set of the benchmark, and logs to the terminal, a file, metrics.jsonl and TensorBoard
every ``k`` iterations, as `lazyengine.hooks.default_hooks` do; the process group is joined by the runner.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lazyengine import dist
from lazyengine.dataset import DataLoader
from lazyengine.hooks import CheckpointHook, LoggerHook, default_hooks
from lazyengine.model import LossAdapter
from lazyengine.optim import MultiStepLR, OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, Runner


def train(n: int, k: int, net: nn.Module, ds: Any, tmp: str) -> None:
    """Train `net` for `n` iterations of batch 16 on each rank, with a log line every `k` iterations."""
    dist.init_dist("pytorch")  # before the loader is made, which shares the samples out among the ranks
    model = LossAdapter(net, F.cross_entropy)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    hooks = {**default_hooks(), "logger": LoggerHook(interval=k), "checkpoint": CheckpointHook(interval=-1)}
    Runner(
        model,
        train_loop=EpochBasedTrainLoop(DataLoader(ds, 16, shuffle=True), max_epochs=1),
        optim_wrapper=OptimWrapper(optimizer),
        param_schedulers=[MultiStepLR(optimizer, milestones=[n * 2 // 3], by_epoch=False)],
        hooks=hooks,
        work_dir=tmp,
    ).train()

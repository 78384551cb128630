"""The yardstick of the loops: a network, data, and the ways of training them.

A way is called as ``way(n, interval, net, data, folder)``: train `net`, which returns scores, for `n` iterations of
batch 16 on `data`, pairs ``(x, y)``, with a log line every `interval` iterations; files go into `folder`. Each imports
what it needs, so that a first iteration pays for no other.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from .table import Sample

BATCH_SIZE = 16


class Data(Dataset):
    """Random samples of 10 classes, as many as `num_batches` take; a few thousand different ones."""

    metainfo: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, num_batches: int, kind: str) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (32,) if kind == "mlp" else (3, 32, 32)
        self._x = torch.randn(2048, *shape, generator=generator)
        self._y = torch.randint(10, (2048,), generator=generator)
        self._length = num_batches * BATCH_SIZE

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._x[index % 2048], self._y[index % 2048]


class Net(nn.Module):
    """An MLP of some 100 us an iteration, or a CNN of some milliseconds; its forward is where time is read.

    So every engine is measured between the same two points, and neither its start nor its end counts.
    """

    def __init__(self, kind: str, first: int = 0, last: int = 0) -> None:
        super().__init__()
        self.num_calls, self.first, self.last = 0, first, last
        self.readings: list[tuple[float, float]] = []
        if kind == "mlp":
            self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
        else:
            widths = (3, 16, 32, 64)
            blocks = [
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in itertools.pairwise(widths)
            ]
            self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        if self.num_calls == self.first or self.num_calls == self.last:
            self.readings.append((time.perf_counter(), time.process_time()))
        return self.layers(x)


def time_iterations(way: str, n: int, interval: int, kind: str, world_size: int = 1) -> Sample:
    """Train once and return microseconds an iteration."""
    warm = max(n // 10, 2 * interval)  # the first lines of a log import what writes them
    net, data = Net(kind, warm, n), Data(n * world_size, kind)
    with tempfile.TemporaryDirectory() as folder:
        find_way(way)(n, interval, net, data, folder)
    (wall, cpu), (wall_end, cpu_end) = net.readings
    return {"wall": (wall_end - wall) / (n - warm) * 1e6, "cpu": (cpu_end - cpu) / (n - warm) * 1e6}


def find_way(name: str) -> Callable[..., None]:
    """Return a way of this file or, of other engines, of `peers`."""
    if name in globals():
        return globals()[name]
    from . import peers

    return getattr(peers, name)


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of every way."""
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


# ---------------------------------------------------------------- by hand
def bare(n: int, interval: int, net: nn.Module, data: Any, folder: str) -> None:
    """Train and do nothing else; with several ranks, through DDP."""
    sampler = None
    if "WORLD_SIZE" in os.environ:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        net = nn.parallel.DistributedDataParallel(net)
        sampler = torch.utils.data.DistributedSampler(data)
    optimizer = make_optimizer(net)
    net.train()
    for x, y in DataLoader(data, BATCH_SIZE, shuffle=sampler is None, sampler=sampler):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def full_duty(n: int, interval: int, net: nn.Module, data: Any, folder: str) -> None:
    """Do by hand what a default run does: text log, JSON lines, TensorBoard, timers, schedule, checkpoint."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (
        open(f"{folder}/log.txt", "w") as text,
        open(f"{folder}/metrics.jsonl", "w") as lines,
        open(f"{folder}/events.out.tfevents.0", "wb") as events,
    ):
        writer = RecordWriter(events)
        writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        optimizer = make_optimizer(net)
        losses: list[torch.Tensor] = []
        waited = 0.0
        net.train()
        begin = end = time.perf_counter()
        for step, (x, y) in enumerate(DataLoader(data, BATCH_SIZE, shuffle=True), 1):
            waited += time.perf_counter() - end
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            for group in optimizer.param_groups:
                group["lr"] = 0.01 if step < n * 2 // 3 else 0.001
            end = time.perf_counter()
            if step % interval:
                continue
            duration = (end - begin) / interval
            values = {"loss": torch.stack(losses).mean().item(), "lr": optimizer.param_groups[0]["lr"]}
            values |= {"time": duration, "data_time": waited / interval}
            shown = "  ".join(f"{name}: {value:.4f}" for name, value in values.items())
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} [{step}/{n}] eta: {duration * (n - step):.0f}  {shown}\n"
            for file, written in ((text, line), (lines, json.dumps({"step": step, **values}) + "\n")):
                file.write(written)
                file.flush()
            print(line, end="", flush=True)
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
            writer.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
            losses, waited, begin = [], 0.0, end
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, f"{folder}/last.pth")


# ---------------------------------------------------------------- lazyengine
class WithLoss(nn.Module):
    """The network as a model that returns its loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(self.net(x), y)}


def _lazyengine(
    n: int,
    interval: int,
    net: nn.Module,
    data: Any,
    folder: str,
    exact: bool = True,
    history: int = 0,
    fingerprints: int = 0,
) -> None:
    """The documented default run with every default hook; the progress bar is off because the output is no terminal."""
    from lazyengine import dist
    from lazyengine.dataset import DataLoader
    from lazyengine.hooks import FingerprintHook, Hook, LoggerHook, default_hooks
    from lazyengine.optim import MultiStepLR, OptimWrapper
    from lazyengine.runner import EpochBasedTrainLoop, Runner

    class Age(Hook):
        """Makes the histories as long as after many iterations."""

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if batch_idx == 1:
                for buffer in runner.message_hub.log_scalars.values():
                    for _ in range(history):
                        buffer.update(1.0)

    if "WORLD_SIZE" in os.environ:
        dist.init_dist("pytorch")  # before the loader is made, which shares the samples out among the ranks
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, seed_batches=exact)
    hooks = {**default_hooks(), "logger": LoggerHook(interval)}
    if history:
        hooks["age"] = Age()
    if fingerprints:
        hooks["fingerprints"] = FingerprintHook(fingerprints)
    optimizer = make_optimizer(net)
    Runner(
        WithLoss(net),
        train_loop=EpochBasedTrainLoop(loader, 1),
        optim_wrapper=OptimWrapper(optimizer),
        param_schedulers=[MultiStepLR(optimizer, milestones=[n * 2 // 3], by_epoch=False)],
        hooks=hooks,
        work_dir=folder,
        exact_resume=exact,
    ).train()


def lazyengine(*args: Any) -> None:
    """Epoch-based, exact resume on."""
    _lazyengine(*args)


def lazyengine_unseeded(*args: Any) -> None:
    """The same, the seeding of data and model switched off."""
    _lazyengine(*args, exact=False)


def lazyengine_fingerprints(*args: Any) -> None:
    """The same, with hashes of batch, weights and update every 10 iterations."""
    _lazyengine(*args, fingerprints=10)


def lazyengine_aged(*args: Any) -> None:
    """The same, with a million iterations of history."""
    _lazyengine(*args, history=1_000_000)

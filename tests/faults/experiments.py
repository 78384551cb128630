"""Tiny experiments in which everything that a resume could get wrong matters, and the fingerprint of their end.

Crops, flips and noise come from the three random modules, the model has batch norm and dropout, and it keeps a digest
of every batch that it was trained on, so that one sample in another place changes the final weights' fingerprint.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.checkpoint import read_checkpoint
from lazyengine.config import LazyCall as L
from lazyengine.config import instantiate
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import BaseMetric
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, default_hooks
from lazyengine.model import BaseModel
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, OptimWrapperDict
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop
from lazyengine.visualization import LocalVisBackend, Visualizer

NUM_ITERS = 12  # 2 epochs of 6 batches of 4


class Crops(torch.utils.data.Dataset):
    """24 images `(1, 6, 6)`, cropped, flipped and disturbed anew whenever they are read."""

    def __init__(self, is_random: bool = True, size: int = 24) -> None:
        self.images = torch.sin(torch.arange(size * 64.0)).reshape(size, 1, 8, 8)
        self.is_random = is_random

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        top, left = (random.randint(0, 2), int(np.random.randint(3))) if self.is_random else (1, 1)
        image = image[:, top : top + 6, left : left + 6]
        if self.is_random:
            image = (image.flip(-1) if torch.rand(()) < 0.5 else image) + 0.05 * torch.randn(image.shape)
        return {"image": image, "target": self.images[index].mean(), "index": index}


class Killer(Crops):
    """Its worker dies at one image, as one that the system takes for want of memory."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Hanging(Crops):
    """Hangs at one image."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        while index == 5:
            time.sleep(1)
        return super().__getitem__(index)


class Net(BaseModel):
    """A small network with batch norm and dropout; `digest` depends on every batch of the training, in order."""

    def __init__(self, is_val_random: bool = False) -> None:
        super().__init__()
        self.is_val_random = is_val_random
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(64, 1)
        self.register_buffer("digest", torch.zeros((), dtype=torch.int64))
        self.fault: Any = None

    def forward(self, image: Tensor, target: Tensor, index: Tensor, mode: str = "tensor") -> Any:
        features = self.net(image)
        if mode == "predict" and self.is_val_random:
            features = F.dropout(features, 0.5)
        out = self.head(features).squeeze(1)
        if mode == "loss":
            self.digest.mul_(1000003).add_(image.contiguous().view(torch.int32).long().sum())
            loss = (out - target).square().mean()
            return {"loss": loss if self.fault is None else self.fault(loss)}
        return {"error": (out - target).abs()} if mode == "predict" else out


class Gan(BaseModel):
    """Two networks with an optimizer each; the noise is drawn inside the model."""

    def __init__(self, is_val_random: bool = False) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 36))
        self.critic = nn.Sequential(nn.Linear(36, 16), nn.LeakyReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.register_buffer("digest", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, mode: str = "tensor", **_: Any) -> Any:
        return {"error": self.critic(image.flatten(1)).squeeze(1).abs()}

    def train_step(self, data: Any, optim_wrapper: Any, forward: Any = None) -> dict[str, Tensor]:
        real = data["image"].flatten(1)
        self.digest.mul_(1000003).add_(data["image"].contiguous().view(torch.int32).long().sum())
        fake = self.generator(torch.randn(len(real), 4))
        loss_critic = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()
        optim_wrapper["critic"].update_params(loss_critic)
        self.critic.requires_grad_(False)  # else its gradients of this loss would be part of the next update
        loss_generator = F.softplus(-self.critic(fake)).mean()
        optim_wrapper["generator"].update_params(loss_generator)
        self.critic.requires_grad_(True)
        return {"loss_critic": loss_critic.detach(), "loss_generator": loss_generator.detach()}


class MeanError(BaseMetric):
    """Mean absolute error."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(data_samples["error"].tolist())

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"error": sum(results) / len(results)}


def build(
    work_dir: str,
    *,
    kind: str = "net",
    by_iter: bool = False,
    num_workers: int = 0,
    persistent: bool = False,
    accumulate: int = 1,
    is_val_random: bool = False,
    checkpoint: dict[str, Any] | None = None,
    hooks: dict[str, Hook] | None = None,
    wrapper: dict[str, Any] | None = None,
    dataset: Any = None,
    loader_timeout: float = 0,
    visualizer: Any = None,
    **kwargs: Any,
) -> Runner:
    """Build the runner of an experiment: ``net``, ``ema`` (net with averaged weights) or ``gan``."""
    torch.manual_seed(0)
    model = (Gan if kind == "gan" else Net)(is_val_random)
    data = Crops() if dataset is None else dataset
    loader = L(DataLoader)(
        data,
        4,
        sampler=L(DefaultSampler)(data, shuffle=True),
        num_workers=num_workers,
        persistent_workers=persistent,
        multiprocessing_context="fork",
        timeout=loader_timeout,
    )
    if by_iter:
        loop: Any = L(IterBasedTrainLoop)(loader, NUM_ITERS, val_interval=6)
    else:
        loop = L(EpochBasedTrainLoop)(loader, 2)
    if kind == "gan":
        parts = {name: getattr(model, name).parameters() for name in ("critic", "generator")}
        optimizers = {name: torch.optim.Adam(part, lr=0.01) for name, part in parts.items()}
        optim_wrapper: Any = OptimWrapperDict(**{name: OptimWrapper(o) for name, o in optimizers.items()})
        schedulers: Any = {n: [LinearLR(o, 0.1, end=5, by_epoch=False)] for n, o in optimizers.items()}
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        optim_wrapper = OptimWrapper(optimizer, accumulative_counts=accumulate, **(wrapper or {}))
        schedulers = [
            LinearLR(optimizer, 0.1, end=4, by_epoch=False),
            CosineAnnealingLR(optimizer, begin=4, end=NUM_ITERS, by_epoch=False),
        ]
    named = default_hooks()
    named.pop("progress_bar")
    options = {"interval": 1, "by_epoch": False, "save_best": "error", "rule": "less", **(checkpoint or {})}
    named["checkpoint"] = CheckpointHook(**options)
    if kind == "ema":
        named["ema"] = EMAHook(momentum=0.2)
    val_data = Crops(is_random=is_val_random, size=8)
    runner = L(Runner)(
        model,
        train_loop=loop,
        val_loop=L(ValLoop)(L(DataLoader)(val_data, 4), MeanError()),
        optim_wrapper=optim_wrapper,
        param_schedulers=schedulers,
        hooks={**named, **(hooks or {})},
        visualizer=visualizer or Visualizer(vis_backends=[LocalVisBackend()]),
        work_dir=work_dir,
        device="cpu",
        **kwargs,
    )
    return instantiate(runner)


def fingerprint(path: Any) -> dict[str, str]:
    """Hash the state in a checkpoint, part by part; only what tells times of day and durations is left out."""
    state = read_checkpoint(path)
    state["meta"] = {k: v for k, v in state["meta"].items() if k not in ("time", "run_id", "start")}
    hub = state["message_hub"]
    for name in ("first_start", "eta"):
        hub["runtime_info"].pop(name, None)
    for name in ("train/time", "train/data_time", "val/time", "val/data_time"):
        hub["log_scalars"].pop(name, None)
    return {str(key): digest(value) for key, value in state.items()}


def digest(value: Any) -> str:
    sha = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            sha.update(f"{item.dtype}{tuple(item.shape)}".encode() + item.contiguous().numpy().tobytes())
        elif isinstance(item, dict):
            for key in sorted(item, key=repr):
                sha.update(repr(key).encode())
                add(item[key])
        elif isinstance(item, list | tuple):
            sha.update(str(len(item)).encode())
            for each in item:
                add(each)
        else:
            sha.update(repr(item).encode())

    add(value)
    return sha.hexdigest()[:16]

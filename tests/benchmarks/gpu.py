"""On a CUDA device: the loop over one by hand, how long saving stops it, planned memory over that of a run."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from typing import Any

from .table import Options, Row, Sample, in_process, rows_over, take_turns
from .training import BATCH_SIZE

OURS = "lazyengine"
CONFIG = "projects/digits/config.py"


def run(options: Options) -> list[Row]:
    """Return the rows; none without a device."""
    import torch

    if not torch.cuda.is_available():
        options.skipped.append("gpu: there is no CUDA device")
        return []
    n = 300 if options.quick else 2000
    rows = []
    for kind, interval, goal in (("mlp", 10, "<= 1.18"), ("mlp", 50, "<= 1.15"), ("cnn", 10, "<= 1.05")):
        arguments = {"kind": kind, "n": n, "interval": interval, "rounds": options.rounds}
        samples = in_process("gpu:measure_loop", **arguments)
        rows += rows_over("by hand", samples, f"GPU iteration, {kind}, log every {interval}", {OURS: goal})
    ms: dict[str, Any] = {"unit": "ms", "scale": 1e3}
    samples = in_process("gpu:measure_saving", mb=192 if options.quick else 768, rounds=options.rounds)
    rows += rows_over("copy to pinned memory", samples, "GPU checkpoint: loop stands", {OURS: "<= 1.2"}, **ms)
    samples = in_process("gpu:measure_memory", width=256, batch_size=512)
    return rows + rows_over("of a real run", samples, "GPU peak memory", {"planned": "0.97..1.03"}, "MiB", 2**-20)


def measure_loop(kind: str, n: int, interval: int, rounds: int, device: str = "cuda") -> dict[str, list[Sample]]:
    """In a fresh process: microseconds of an iteration, by hand and by the engine, in turns."""
    return take_turns(
        {
            "by hand": lambda: _train_by_hand(kind, n, device),
            OURS: lambda: _train(kind, n, interval, device),
        },
        rounds,
    )


def _synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _train_by_hand(kind: str, n: int, device: str) -> Sample:
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    from .training import Data, Net, make_optimizer

    net = Net(kind).to(device)
    optimizer = make_optimizer(net)
    begin, warm = 0.0, n // 10
    for i, (x, y) in enumerate(DataLoader(Data(n, kind), BATCH_SIZE, shuffle=True)):
        if i == warm:
            _synchronize(device)
            begin = time.perf_counter()
        loss = F.cross_entropy(net(x.to(device, non_blocking=True)), y.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _synchronize(device)
    return {"wall": (time.perf_counter() - begin) / (n - warm) * 1e6}


def _train(kind: str, n: int, interval: int, device: str) -> Sample:
    import torch.nn.functional as F

    from lazyengine.dataset import DataLoader
    from lazyengine.hooks import Hook, Priority, default_hooks
    from lazyengine.model import LossAdapter
    from lazyengine.optim import OptimWrapper
    from lazyengine.runner import EpochBasedTrainLoop, Runner

    from .training import Data, Net, make_optimizer

    times: dict[int, float] = {}
    warm = n // 10

    class Clock(Hook):
        priority = Priority.HIGHEST

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if batch_idx == warm:
                _synchronize(device)
                times[0] = time.perf_counter()

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if batch_idx == n - 1:
                _synchronize(device)
                times[1] = time.perf_counter()

    model = LossAdapter(Net(kind), F.cross_entropy)
    hooks = {**default_hooks(), "clock": Clock()}
    hooks["logger"].interval = interval  # type: ignore[attr-defined]
    loop = EpochBasedTrainLoop(DataLoader(Data(n, kind), BATCH_SIZE, shuffle=True), max_epochs=1)
    wrapper = OptimWrapper(make_optimizer(model))
    with tempfile.TemporaryDirectory() as folder:
        Runner(model, train_loop=loop, optim_wrapper=wrapper, hooks=hooks, work_dir=folder, device=device).train()
    return {"wall": (times[1] - times[0]) / (n - warm) * 1e6}


def measure_saving(mb: int, rounds: int, device: str = "cuda") -> dict[str, list[Sample]]:
    """In a fresh process: how long a save in the background stops the loop, beside a copy of its tensors."""
    import torch
    from torch import nn

    from .checkpoint import WIDTH, asynchronous

    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(max(1, round(mb / 48))))).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, WIDTH, device=device)).sum().backward()
    optimizer.step()
    states = (state.values() for state in optimizer.state.values())
    tensors = [*model.state_dict().values(), *itertools.chain(*states)]
    kept = [torch.empty(each.shape, dtype=each.dtype, pin_memory=device == "cuda") for each in tensors]
    with tempfile.TemporaryDirectory() as folder:
        save = asynchronous(model, optimizer, os.path.join(folder, "background"))

        def copy() -> None:
            for target, source in zip(kept, tensors):
                target.copy_(source, non_blocking=True)
            _synchronize(device)

        def stand() -> Sample:
            _synchronize(device)
            begin = time.perf_counter()
            wait = save()
            sample = {"wall": time.perf_counter() - begin}
            wait()
            return sample

        return take_turns({"copy to pinned memory": copy, OURS: stand}, rounds)


def measure_memory(width: int, batch_size: int, device: str = "cuda") -> dict[str, list[Sample]]:
    """In a fresh process: the planned peak, and that of a real training of two epochs, in bytes."""
    import torch

    from lazyengine.analysis.cost import cost_of
    from lazyengine.cli.plan import maker_of
    from lazyengine.config import LazyConfig
    from lazyengine.runner import Runner

    changes = [f"model.width={width}", f"train_loop.dataloader.batch_size={batch_size}", "train_loop.max_epochs=2"]
    with tempfile.TemporaryDirectory() as folder:
        cost = cost_of(maker_of(CONFIG, changes, folder))
        planned = max(cost.peak_bytes, cost.val_peak_bytes or 0)
        cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), changes)
        Runner.from_cfg(cfg, work_dir=folder, device=device).train()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else planned
    return {"of a real run": [{"wall": float(peak)}], "planned": [{"wall": float(planned)}]}

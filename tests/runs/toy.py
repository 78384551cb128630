"""A small project on disk: a package with a model, data beside it, and a config."""

from __future__ import annotations

from pathlib import Path

from ..record.project import write

NET = """
    import torch
    from torch import nn
    from lazyengine.model import BaseModel
    from .layers import Scale

    class Net(BaseModel):
        def __init__(self, width=8, depth=1):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 1))
            self.scale = Scale(depth)

        def forward(self, x, y, mode="tensor"):
            out = self.scale(self.net(x)).squeeze(1)
            if mode == "loss":
                return {"loss": (out - y).square().mean()}
            return {"error": (out - y).abs()} if mode == "predict" else out
"""
LAYERS = """
    from torch import nn

    class Scale(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.depth = depth

        def forward(self, x):
            return x * (1 + self.depth)
"""
DATA = """
    import os
    import torch
    from lazyengine.evaluator import BaseMetric

    FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "points.csv")

    class Points(torch.utils.data.Dataset):
        def __init__(self, file=FILE):
            with open(file) as lines:
                self.x = torch.tensor([[float(value) for value in line.split(",")] for line in lines])

        def __len__(self):
            return len(self.x)

        def __getitem__(self, index):
            return {"x": self.x[index] + 0.1 * torch.randn(4), "y": self.x[index].sum()}

    class MeanError(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.extend(data_samples["error"].tolist())

        def compute_metrics(self, results):
            return {"error": sum(results) / len(results)}
"""
CONFIG = """
    from torch.optim import AdamW
    from lazyengine.config import LazyCall as L
    from lazyengine.dataset import DataLoader, DefaultSampler
    from lazyengine.evaluator import Evaluator
    from lazyengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook
    from lazyengine.optim import LinearLR, OptimWrapper
    from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop
    from .data import MeanError, Points
    from .net import Net

    model = L(Net)()
    optimizer = L(AdamW)(params=L(Net.parameters)(self=model), lr=0.01)
    dataset = L(Points)()
    train_loop = L(EpochBasedTrainLoop)(
        dataloader=L(DataLoader)(
            dataset=dataset, batch_size=4, sampler=L(DefaultSampler)(dataset=dataset, shuffle=True)
        ),
        max_epochs=3,
    )
    val_loop = L(ValLoop)(
        dataloader=L(DataLoader)(dataset=dataset, batch_size=4), evaluator=L(Evaluator)(metrics=[L(MeanError)()])
    )
    runner = L(Runner)(
        model=model,
        train_loop=train_loop,
        val_loop=val_loop,
        optim_wrapper=L(OptimWrapper)(optimizer=optimizer),
        param_schedulers=[L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=9, by_epoch=False)],
        hooks=dict(
            runtime_info=L(RuntimeInfoHook)(),
            timer=L(IterTimerHook)(),
            logger=L(LoggerHook)(interval=1),
            schedule=L(ParamSchedulerHook)(),
            checkpoint=L(CheckpointHook)(max_keep_ckpts=1),
        ),
    )
"""
POINTS = "\n".join(",".join(str((i * 7 + j * 3) % 11 / 11) for j in range(4)) for i in range(20)) + "\n"
FILES = {
    "__init__.py": "",
    "net.py": NET,
    "layers.py": LAYERS,
    "data.py": DATA,
    "config.py": CONFIG,
    "points.csv": POINTS,
}


def make_project(folder: Path, package: str = "toy") -> Path:
    """Write the project and return its config file."""
    write(folder / package, FILES)
    return folder / package / "config.py"

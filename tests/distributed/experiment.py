"""A tiny experiment of recipes, the same for any number of ranks: no dropout, no batch norm, no augmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lazyengine.config import LazyCall as L
from lazyengine.config import instantiate
from lazyengine.dataset import DataLoader, InfiniteSampler
from lazyengine.dist import per_rank
from lazyengine.evaluator import BaseMetric
from lazyengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook, LoggerHook, default_hooks
from lazyengine.model import BaseModel, ModelSetup
from lazyengine.optim import AmpOptimWrapper, CosineAnnealingLR, OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop


class Points(torch.utils.data.Dataset):
    """Points with their index."""

    def __init__(self, n: int) -> None:
        self.x = torch.sin(torch.arange(n * 4.0) * 0.7).reshape(n, 4)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "y": self.x[index].prod(), "index": index}


class Net(BaseModel):
    """Two layers; keeps the indices that it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.batches: list[list[int]] = []

    def forward(self, x, y, index, mode="tensor"):
        out = self.net(x).squeeze(1)
        if mode == "loss":
            self.batches.append(index.tolist())
            return {"loss": (out - y).square().mean()}
        return {"error": (out - y).abs(), "index": index} if mode == "predict" else out


class NormNet(Net):
    """With batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(8))


class MetaNet(Net):
    """Without memory until it is sharded."""

    def __init__(self) -> None:
        with torch.device("meta"):
            super().__init__()


class Errors(BaseMetric):
    """The errors of all samples in the order that they arrive in."""

    def process(self, data_batch, data_samples):
        self.results.extend(zip(data_samples["index"].tolist(), data_samples["error"].tolist()))

    def compute_metrics(self, results):
        self.seen = list(results)
        return {"error": sum(error for _, error in results) / len(results)}


def experiment(
    work_dir: Any,
    *,
    hooks: dict[str, Any] | None = None,
    optimizer: Any = torch.optim.AdamW,
    wrapper: Any = OptimWrapper,
    wrapper_options: dict[str, Any] | None = None,
    setup: ModelSetup | None = None,
    global_batch: int = 8,
    max_epochs: int = 3,
    max_iters: int | None = None,
    net: type[Net] = Net,
    loop: Any = None,
    **options: Any,
) -> Runner:
    """Build a runner of 6 iterations an epoch, whose global batch the ranks share out.

    With `max_iters` there are no epochs, and an endless sampler; `loop` is another train loop.
    """
    model = L(net)()
    points = L(Points)(n=48)
    train = L(DataLoader)(dataset=points, batch_size=L(per_rank)(total=global_batch), shuffle=True)
    loop = loop or L(EpochBasedTrainLoop)(dataloader=train, max_epochs=max_epochs)
    if max_iters is not None:
        train.sampler, train.shuffle = L(InfiniteSampler)(dataset=points), False
        loop = L(IterBasedTrainLoop)(dataloader=train, max_iters=max_iters, val_interval=5)
    val = L(DataLoader)(dataset=L(Points)(n=13), batch_size=2)
    optim = L(optimizer)(params=L(param_groups)(model=model), lr=0.01)
    node = L(Runner)(
        model=model,
        train_loop=loop,
        val_loop=L(ValLoop)(dataloader=val, evaluator=L(Errors)()),
        optim_wrapper=L(wrapper)(optimizer=optim, **(wrapper_options or {})),
        param_schedulers=[L(CosineAnnealingLR)(by_epoch=False)],
        hooks={
            **default_hooks(),
            "logger": LoggerHook(interval=4),
            "checkpoint": CheckpointHook(save_best="error", rule="less"),
            **(hooks or {}),
        },
        model_setup=setup,
        work_dir=str(work_dir),
        **options,
    )
    return instantiate(node)


SEVERAL_THINGS: dict[str, Any] = {
    "wrapper": AmpOptimWrapper,
    "wrapper_options": {"dtype": "bfloat16", "accumulative_counts": 2, "clip_grad": {"max_norm": 0.05}},
}


def saving_often() -> dict[str, Hook]:
    """A checkpoint every four iterations, so that some are in the middle of an epoch of six."""
    return {"checkpoint": CheckpointHook(interval=4, by_epoch=False)}


def averaging() -> dict[str, Any]:
    """The same, with averaged weights."""
    return {**saving_often(), "ema": EMAHook(momentum=0.2)}


def several_hooks() -> dict[str, Hook]:
    """EMA, whose weights are evaluated, and an end when the error does not fall by much any more."""
    return {"ema": EMAHook(momentum=0.3), "early": EarlyStoppingHook("error", rule="less", min_delta=0.02, patience=2)}


def assert_close(found: Any, expected: Any, rtol: float, atol: float = 0.0) -> None:
    """Compare numbers."""
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=rtol, atol=atol)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare to the bit."""
    assert found.keys() == expected.keys()
    for key in found:
        assert torch.equal(found[key], expected[key]), key


def curve(runner: Runner, key: str = "train/loss") -> list[float]:
    """Return the recorded values of a scalar."""
    return runner.message_hub.get_scalar(key).data[0].tolist()


def weights(runner: Runner) -> dict[str, torch.Tensor]:
    """Return copies of the weights, whole ones."""
    state = runner.model.state_dict()
    return {key: (v.full_tensor() if hasattr(v, "full_tensor") else v).clone() for key, v in state.items()}

"""Three ranks: what they add up depends on an order, which two ranks do not show; loaders in step on other ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from lazyengine.config import LazyCall as L
from lazyengine.dataset import CombinedLoader, DataLoader
from lazyengine.dist import per_rank
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.runner import EpochBasedTrainLoop, Runner
from tests.ports import free_port

from .experiment import Net, Points, assert_close, assert_same, curve, experiment, saving_often, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WORLD = 3


class Deep(Net):
    """Layers enough that a bucket has another order behind the first backward pass."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            torch.nn.Linear(4, 8),
            *(torch.nn.Linear(8, 8) for _ in range(4)),
            torch.nn.BatchNorm1d(8),
            torch.nn.Linear(8, 1),
        ]
        self.net = torch.nn.Sequential(*layers)


class TwoTasks(Net):
    """Trains on a dict of batches."""

    def forward(self, mode="tensor", near=None, far=None, **fields):
        if near is None:
            return super().forward(mode=mode, **fields)
        both = [near] if far is None else [near, far]
        return super().forward(mode=mode, **{key: torch.cat([each[key] for each in both]) for key in near})


class Cut(Hook):
    """Ends the run after an iteration, on all ranks."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 6:
            raise InterruptedError


def two_tasks(work_dir: Path, mode: Any, global_batch: int = 12, inexact: bool = False, **options: Any) -> Runner:
    """Train on two loaders of 4 and 2 batches an epoch, or of 4 each in step; save after iterations and epochs."""
    hooks = {
        "checkpoint": CheckpointHook(interval=1, by_epoch=False),
        "epochs": CheckpointHook(interval=1, filename_tmpl="end_{}.pth"),
    }
    size = L(per_rank)(total=global_batch)
    sizes = {"near": 48, "far": 48 if mode == "in_step" else 24}
    loaders = {key: L(DataLoader)(dataset=L(Points)(n=n), batch_size=size, shuffle=True) for key, n in sizes.items()}
    combined = L(CombinedLoader)(loaders=loaders, mode=mode)
    loop = L(EpochBasedTrainLoop)(dataloader=combined, max_epochs=2, allow_inexact_resume=inexact)
    return experiment(work_dir, net=TwoTasks, hooks=hooks, loop=loop, **options)


def is_resumed_to_the_bit(folder: Path) -> None:
    """The first iteration behind a resume adds up in the order that all the others have."""
    options = {"net": Deep, "global_batch": 6, "max_epochs": 1}
    whole = experiment(folder / "whole", hooks=saving_often(), **options)
    whole.train()
    cut = experiment(folder / "cut", hooks={**saving_often(), "cut": Cut()}, **options)
    with pytest.raises(InterruptedError):
        cut.train()
    resumed = experiment(folder / "cut", hooks=saving_often(), resume=True, **options)
    resumed.train()
    assert len(whole.model.batches) - len(resumed.model.batches) == 4
    assert_same(weights(resumed), weights(whole))
    assert curve(resumed) == curve(whole)
    moments, expected = (each.optim_wrapper.optimizer.state_dict()["state"] for each in (resumed, whole))
    for key, state in expected.items():  # finer than the weights
        assert_same(moments[key], state)


def goes_on_with_loaders_in_step(folder: Path) -> None:
    """One process has begun; `alone` holds its curves."""
    for mode, alone in torch.load(folder / "alone.pt", weights_only=True).items():
        for name in ("iter_3.pth", "end_1.pth"):
            runner = two_tasks(folder / f"{mode} {name}", mode, resume=str(folder / mode / name))
            runner.train()
            assert_close(curve(runner), alone, rtol=1e-5)


CHECKS = [is_resumed_to_the_bit, goes_on_with_loaders_in_step]


def run_rank(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    address = {"init_method": f"tcp://127.0.0.1:{port}", "rank": rank, "world_size": WORLD}
    distributed.init_process_group("gloo", **address)
    try:
        for check in CHECKS:
            check(folder)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("mode", ["in_step", "cycle", "longest", "shortest"])
def test_loaders_in_step_go_on_at_the_end_of_an_epoch_and_with_other_batches(mode, tmp_path):
    whole = two_tasks(tmp_path / "whole", mode)
    whole.train()
    length = 2 if mode == "shortest" else 4
    for name, done in (("end_1.pth", length), (f"iter_{length}.pth", length), ("iter_1.pth", 1)):
        again = two_tasks(tmp_path / name, mode, resume=str(tmp_path / "whole" / name))
        again.train()
        assert again.model.batches == whole.model.batches[done:]
        assert curve(again) == curve(whole)
    saved = {"resume": str(tmp_path / "whole" / "iter_1.pth"), "inexact": True}
    half = two_tasks(tmp_path / "half", mode, global_batch=6, **saved)
    half.train()
    assert len(half.model.batches) == 2 * (2 * length - 1)
    joined = two_tasks(tmp_path / "joined", mode, wrapper_options={"accumulative_counts": 2}, **saved)
    joined.train()
    assert joined.model.batches == whole.model.batches


def test_three_ranks(tmp_path):
    alone = {}
    for mode in ("longest",):
        runner = two_tasks(tmp_path / mode, mode)
        runner.train()
        alone[mode] = curve(runner)
    torch.save(alone, tmp_path / "alone.pt")
    spawn(run_rank, (tmp_path, free_port()), nprocs=WORLD)

"""Row 1: the loop owns the pass. Whatever hooks there are, each pass has an order and an augmentation of its own."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import DistributedSampler, IterableDataset

from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.hooks import Hook
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop

from ..runner.toy import MeanError, StopAt, ToyData, toy_runner


def loop_over(loader, kind: str, passes: int = 3):
    """Return a train loop over some passes of a loader of 5 batches."""
    if kind == "epoch":
        return EpochBasedTrainLoop(loader, passes)
    return IterBasedTrainLoop(loader, 5 * passes, val_interval=5)


def orders(runner, passes: int = 3) -> list[list[int]]:
    """Return the samples that the model saw, pass by pass."""
    seen = runner.model.batches
    return [[i for batch in seen[5 * p : 5 * p + 5] for i in batch] for p in range(passes)]


def train_over(tmp_path, loader, kind: str, **kwargs):
    runner = toy_runner(str(tmp_path), max_epochs=3, **kwargs)
    runner._parts["hooks"] = {}
    runner._parts["param_schedulers"] = None
    runner.train_loop = loop_over(loader, kind)
    runner.train()
    return runner


@pytest.mark.seam(1, "epoch", "iteration", "our loader")
@pytest.mark.parametrize("kind", ["epoch", "iteration"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_pass_differs_without_any_hook(tmp_path, kind, num_workers):
    data = ToyData()
    loader = DataLoader(data, 4, sampler=DefaultSampler(data, shuffle=True), num_workers=num_workers)
    runner = train_over(tmp_path, loader, kind)
    first, second, third = orders(runner)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(20))
    assert first != second != third != first


@pytest.mark.seam(1, "epoch", "iteration", "torch's loader")
@pytest.mark.parametrize("kind", ["epoch", "iteration"])
def test_a_distributed_sampler_of_torch_has_another_order_in_each_pass(tmp_path, kind):
    data = ToyData()
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True)
    runner = train_over(tmp_path, TorchLoader(data, 4, sampler=sampler), kind)
    first, second, third = orders(runner)
    assert first != second != third != first
    assert sampler.epoch == 2


class ToldStream(IterableDataset):
    """A stream whose order is a function of the epoch that it was told."""

    def __init__(self) -> None:
        self.epoch = -1
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self) -> int:
        return 20

    def __iter__(self):
        data = ToyData()
        for index in range(20):
            yield data[(index + 7 * self.epoch) % 20]


@pytest.mark.seam(1, "epoch", "iteration", "stream", "torch's loader")
@pytest.mark.parametrize("kind", ["epoch", "iteration"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_is_told_the_epoch(tmp_path, kind, num_workers):
    stream = ToldStream()
    runner = train_over(tmp_path, TorchLoader(stream, 4, num_workers=num_workers), kind)
    assert [order[0] for order in orders(runner)] == [0, 7, 14]
    assert stream.told == [0, 1, 2]


class ToldBatches:
    """A batch sampler of one's own that is told the epoch."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)

    def __len__(self) -> int:
        return 5

    def __iter__(self):
        for i in range(5):
            yield [(4 * i + j + self.told[-1]) % 20 for j in range(4)]


@pytest.mark.seam(1, "epoch", "iteration", "torch's loader")
@pytest.mark.parametrize("kind", ["epoch", "iteration"])
def test_a_batch_sampler_is_told(tmp_path, kind):
    sampler = ToldBatches()
    runner = train_over(tmp_path, TorchLoader(ToyData(), batch_sampler=sampler), kind)
    assert [order[0] for order in orders(runner)] == [0, 1, 2]
    assert sampler.told == [0, 1, 2]


@pytest.mark.seam(1, "iteration", "our loader", "resume")
def test_a_resume_in_a_later_pass_is_told_that_pass(tmp_path):
    def build(folder, hooks=None):
        runner = toy_runner(str(folder), max_iters=15, hooks=hooks, val_interval=0, resume=True)
        runner.hooks["checkpoint"].by_epoch, runner.hooks["checkpoint"].interval = False, 8
        return runner

    whole = build(tmp_path / "whole")
    whole.train()
    killed = build(tmp_path / "killed", {"kill": StopAt(9)})
    with pytest.raises(InterruptedError):
        killed.train()
    resumed = build(tmp_path / "killed")
    resumed.train()
    assert resumed.model.batches == whole.model.batches[8:]
    for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.seam(1, "epoch", "torch's loader", "validation")
def test_a_validation_pass_is_epoch_0_within_training_and_alone(tmp_path):
    data = ToyData()
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True)
    orders_seen: list[list[int]] = []

    class Spy(Hook):
        def before_val_epoch(self, runner):
            orders_seen.append([])

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            orders_seen[-1].extend(data_batch["index"].tolist())

    runner = toy_runner(str(tmp_path), max_epochs=2, hooks={"spy": Spy()})
    sampler.set_epoch(5)  # whoever used it before
    runner.val_loop = ValLoop(TorchLoader(data, 4, sampler=sampler), MeanError())
    runner.train()
    runner.val()
    assert len(orders_seen) == 3
    assert orders_seen[0] == orders_seen[1] == orders_seen[2]

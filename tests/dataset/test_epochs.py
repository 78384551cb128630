"""Who is told which epoch a pass is in, and what a second pass over a loader leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, RandomSampler, Subset
from torch.utils.data import ConcatDataset as TorchConcat
from torch.utils.data import DataLoader as TorchLoader

from lazyengine.dataset import (
    Compose,
    ConcatDataset,
    DataLoader,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
    pseudo_collate,
    set_epoch,
)

from .samples import Augmented
from .test_loader import epoch_of, make


class Follower(Augmented):
    """A dataset that is told the epoch: each sample shows it."""

    def __init__(self, size: int = 8) -> None:
        super().__init__(size)
        self.epoch, self.told = 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.told.append(epoch)

    def __getitem__(self, idx: int) -> Any:
        return idx, self.epoch, np.random.randint(1 << 30)


class FollowingStream(IterableDataset[Any]):
    """A stream that is told the epoch, shared out among the workers."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        for i in range(0 if info is None else info.id, 6, 1 if info is None else info.num_workers):
            yield i, self.epoch


class Teller:
    """A part of a loader that counts what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)


class TellingSampler(Teller):
    def __iter__(self) -> Any:
        return iter(range(8))

    def __len__(self) -> int:
        return 8


class TellingCollate(Teller):
    def __call__(self, samples: list[Any]) -> Any:
        return pseudo_collate(samples), self.told[-1:]


class TellingTransform(Teller):
    def __call__(self, data: Any) -> Any:
        return data


def epochs_seen(loader: Any) -> list[int]:
    """The epochs that the dataset was in when its samples were read."""
    return sorted({int(epoch) for batch in loader for epoch in batch[1]})


@pytest.mark.parametrize("kind", [DataLoader, TorchLoader])
def test_everything_that_has_set_epoch_is_told_once(kind):
    dataset, sampler, collate = Follower(), TellingSampler(), TellingCollate()
    loader = kind(dataset, 2, sampler=sampler, collate_fn=collate)
    set_epoch(loader, 4)
    assert (dataset.told, sampler.told, collate.told) == ([4], [4], [4])
    batches = BatchSampler(TellingSampler(), 2, drop_last=False)
    loader = kind(dataset, batch_sampler=batches)
    set_epoch(loader, 5)
    assert (dataset.told, batches.sampler.told) == ([4, 5], [5])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: ConcatDataset([inner, inner]),
        lambda inner: RepeatDataset(inner, 2),
        lambda inner: Subset(inner, [1, 2]),
        lambda inner: TorchConcat([Subset(inner, [1]), RepeatDataset(inner, 2)]),
    ],
)
@pytest.mark.parametrize("kind", [DataLoader, TorchLoader])
def test_datasets_inside_others_are_told(kind, wrap):
    inner = Follower()
    loader = kind(wrap(inner), 2)
    set_epoch(loader, 3)
    assert inner.told == [3]
    assert epochs_seen(loader) == [3]


def test_transforms_of_a_pipeline_are_told():
    dataset, transform = Augmented(4), TellingTransform()
    dataset.pipeline = Compose([transform])  # type: ignore[attr-defined]
    set_epoch(DataLoader(dataset, 2), 2)
    assert transform.told == [2]


def test_the_loaders_own_method_tells_the_same():
    dataset = Follower()
    loader = DataLoader(dataset, 2, shuffle=True, seed=0)
    loader.set_epoch(2)
    assert dataset.told == [2]
    assert loader.sampler.epoch == 2  # type: ignore[attr-defined]


def test_a_plain_loader_with_a_distributed_sampler_has_another_order_in_every_epoch():
    sampler = DistributedSampler(range(8), num_replicas=1, rank=0)
    loader = TorchLoader(list(range(8)), 8, sampler=sampler)  # type: ignore[arg-type]
    orders = []
    for epoch in (0, 1, 0):
        set_epoch(loader, epoch)
        orders.append([batch.tolist() for batch in loader])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("kind", [DataLoader, TorchLoader])
def test_in_an_evaluation_only_samplers_are_told(kind):
    dataset, sampler = Follower(), TellingSampler()
    loader = kind(dataset, 2, sampler=sampler)
    set_epoch(loader, 3)
    set_epoch(loader, 0, samplers_only=True)
    assert (dataset.told, sampler.told) == ([3], [3, 0])


def test_an_evaluation_draws_what_it_draws_alone():
    loader = make(seed=3)
    alone = epoch_of(make(seed=3), 0)
    set_epoch(loader, 7)
    set_epoch(loader, 0, samplers_only=True)
    loader.set_start(0)
    assert [[part.tolist() for part in batch] for batch in loader] == alone


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("dataset", [Follower, FollowingStream])
def test_workers_see_the_epoch_of_the_dataset(dataset, num_workers, persistent):
    loader = DataLoader(
        dataset(), 2, num_workers=num_workers, persistent_workers=persistent, multiprocessing_context="fork", seed=0
    )
    for epoch in (0, 1, 4):
        set_epoch(loader, epoch)
        assert epochs_seen(loader) == [epoch]


def test_spawned_workers_that_stay_see_the_epoch_of_a_stream():
    loader = DataLoader(
        FollowingStream(), 2, num_workers=1, persistent_workers=True, multiprocessing_context="spawn", seed=0
    )
    for epoch in (1, 2):
        set_epoch(loader, epoch)
        assert epochs_seen(loader) == [epoch]


def test_workers_of_a_plain_loader_that_stay_see_the_epoch_of_the_dataset():
    loader = TorchLoader(Follower(), 2, num_workers=1, persistent_workers=True, multiprocessing_context="fork")  # type: ignore[arg-type]
    for epoch in (0, 1):
        set_epoch(loader, epoch)
        assert epochs_seen(loader) == [epoch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_a_resume_the_dataset_is_in_its_epoch(num_workers):
    def loader():
        return DataLoader(
            Follower(), 2, shuffle=True, seed=1, num_workers=num_workers, persistent_workers=True,
            multiprocessing_context="fork",
        )  # fmt: skip

    whole = loader()
    for epoch in range(3):
        set_epoch(whole, epoch)
        expected = [[part.tolist() for part in batch] for batch in whole]
    resumed = loader()
    set_epoch(resumed, 2)
    resumed.set_start(2)
    assert [[part.tolist() for part in batch] for batch in resumed] == expected[2:]


def test_a_dataset_that_nobody_tells_through_the_loader_keeps_what_it_was_told():
    dataset = Follower()
    loader = DataLoader(dataset, 2, num_workers=1, multiprocessing_context="fork")
    dataset.set_epoch(6)
    assert epochs_seen(loader) == [6]


def samplers_of(data: Any) -> dict[str, Any]:
    return {
        "own": DefaultSampler(data, seed=0),
        "endless": InfiniteSampler(data, seed=0),
        "torch": RandomSampler(data),
        "distributed": DistributedSampler(data, num_replicas=1, rank=0),
    }


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("sampler", ["own", "endless", "torch", "distributed"])
def test_a_pass_inside_a_pass_disturbs_nothing(sampler, num_workers):
    data = Follower(12)

    def loader():
        return DataLoader(
            data, 2, sampler=samplers_of(data)[sampler], seed=1, num_workers=num_workers, persistent_workers=True,
            multiprocessing_context="fork",
        )  # fmt: skip

    def read(iterator, count):
        return [[part.tolist() for part in next(iterator)] for _ in range(count)]

    def outer(inside):
        one = loader()
        set_epoch(one, 3)
        one.set_start(1)
        iterator = iter(one)
        found = read(iterator, 2)
        if inside:
            set_epoch(one, 0, samplers_only=True)
            evaluated = read(iter(one), 3)
            set_epoch(one, 8)
            one.set_start(2)
            trained = read(iter(one), 3)
            assert {epoch for part in trained for epoch in part[1]} == {8}
            assert len({str(part) for part in (*evaluated, *trained)}) == 6
        return found + read(iterator, 3)

    assert outer(inside=True) == outer(inside=False)


def test_the_workers_that_stay_are_used_again_after_a_pass_inside_a_pass():
    loader = make(num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    expected = epoch_of(make(), 0)
    loader.set_epoch(0)
    for batch in loader:
        assert epoch_of(loader, 0) == expected
        del batch
        break
    assert epoch_of(loader, 0) == expected


def test_the_order_of_a_pass_is_that_of_its_beginning_for_samplers_of_others():
    data = Augmented(12)
    loader = make(data, sampler=DistributedSampler(data, num_replicas=1, rank=0))
    expected = epoch_of(loader, 0)
    loader.set_epoch(0)
    iterator = iter(loader)
    loader.set_epoch(1)
    assert [[part.tolist() for part in batch] for batch in iterator] == expected


def test_reading_goes_on_after_a_sample_that_failed():
    class Sometimes(Augmented):
        def __getitem__(self, idx: int) -> Any:
            if idx == 2:
                raise ValueError("a broken image")
            return idx

    iterator = iter(DataLoader(Sometimes(6), 2))
    assert next(iterator).tolist() == [0, 1]
    with pytest.raises(ValueError, match="a broken image"):
        next(iterator)
    assert next(iterator).tolist() == [4, 5]

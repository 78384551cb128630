"""Batch samplers on several ranks, and the samplers that weigh, mix and sort by length: functions of the position."""

from __future__ import annotations

import random
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler

from lazyengine.dataset import (
    ConcatDataset,
    DataLoader,
    DefaultSampler,
    LengthBucketBatchSampler,
    MixingSampler,
    WeightedSampler,
    pseudo_collate,
)
from lazyengine.runner.sharing import check_sampler_is_distributed

from ..dataset.test_golden import as_rank


def epoch_of(make: Any, rank: int, ranks: int, epoch: int = 1, start: int = 0) -> list[Any]:
    with as_rank(rank, ranks), mock.patch("lazyengine.dist.all_gather_object", lambda value: [value] * ranks):
        loader = make()
        check_sampler_is_distributed(loader)
        loader.set_epoch(epoch)
        loader.set_start(start)
        batches = list(loader)
        assert len(batches) == len(loader) - start
        return batches


def over(batch_sampler: Any) -> DataLoader:
    return DataLoader(range(30), batch_sampler=batch_sampler, collate_fn=pseudo_collate, seed=1)


class Unaware:
    def __init__(self, drop_last: bool = False) -> None:
        self.drop_last = drop_last

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Any:
        for i in range(7):
            yield [i, random.randrange(100) % 30]


@pytest.mark.parametrize("make", [Unaware, lambda drop_last: BatchSampler(RandomSampler(range(21)), 3, drop_last)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_one_that_knows_no_ranks_is_dealt_in_turns(make, drop_last):
    whole = epoch_of(lambda: over(make(drop_last=drop_last)), 0, 1)
    first, second = (epoch_of(lambda: over(make(drop_last=drop_last)), rank, 2) for rank in (0, 1))
    dealt = whole[:6] if drop_last else [*whole, whole[0]]
    assert first == dealt[::2]
    assert second == dealt[1::2]
    assert epoch_of(lambda: over(make(drop_last=drop_last)), 1, 2, start=1) == second[1:]


class Converted(Unaware):
    def __init__(self, convert: Any) -> None:
        super().__init__()
        self.convert = convert

    def __iter__(self) -> Any:
        return map(self.convert, super().__iter__())


@pytest.mark.parametrize("convert", [tuple, np.array, torch.tensor, iter])
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_of_indices_may_be_any_iterables(convert, ranks):
    lists = epoch_of(lambda: over(Unaware()), 0, ranks)
    assert epoch_of(lambda: over(Converted(convert)), 0, ranks) == lists


@pytest.mark.parametrize("sampler", [RandomSampler(range(30)), DefaultSampler(range(30)), "ab"])
def test_what_yields_single_indices_is_no_batch_sampler(sampler):
    with pytest.raises(TypeError, match=r"batch_sampler: \w+ has given .*as `sampler`, with a batch_size"):
        epoch_of(lambda: over(sampler), 0, 1)


def test_ranks_that_draw_other_batches_are_refused():
    with as_rank(0, 2), mock.patch("lazyengine.dist.all_gather_object", lambda value: [value, "other"]):
        loader = over(Unaware())
        with pytest.raises(RuntimeError, match="Unaware has drawn other batches on each of 2 ranks"):
            list(loader)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_length_buckets(ranks):
    lengths = np.random.default_rng(0).integers(1, 100, 60).tolist()

    def make():
        sampler = LengthBucketBatchSampler(lengths, 5, pool_batches=2)
        return DataLoader(range(60), batch_sampler=sampler, collate_fn=pseudo_collate, seed=1)

    parts = [epoch_of(make, rank, ranks) for rank in range(ranks)]
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(60))
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for part in parts for batch in part])
    assert spread < 60  # of nearly 100 without sorting
    assert epoch_of(make, 0, ranks, epoch=2) != parts[0]
    assert epoch_of(make, 0, ranks, start=2) == parts[0][2:]


def indices(make: Any, rank: int, ranks: int, epoch: int, start: int = 0) -> list[int]:
    with as_rank(rank, ranks):
        return np.concatenate(list(make().index_blocks(start, epoch))).tolist()


def weighted(**options: Any) -> Any:
    return lambda: WeightedSampler(range(4), [0.0, 1.0, 2.0, 1.0], seed=3, **options)


def mixing(**options: Any) -> Any:
    data = ConcatDataset([list(range(10)), list(range(100)), list(range(5))])
    return lambda: MixingSampler(data, seed=3, **options)


@pytest.mark.parametrize(
    "make",
    [
        weighted(num_samples=40),
        weighted(num_samples=3, replacement=False),
        mixing(ratios=[1, 1, 0]),
        mixing(temperature=2),
    ],
)
def test_samplers_are_functions_of_epoch_position_and_rank(make):
    whole = [indices(make, 0, 1, epoch) for epoch in range(8)]
    assert len({tuple(each) for each in whole}) > 1
    for ranks in (2, 3):
        parts = [indices(make, rank, ranks, 1) for rank in range(ranks)]
        dealt = [i for together in zip(*parts) for i in together]
        assert dealt[: len(whole[1])] == whole[1]
        assert indices(make, 1, ranks, 1, 1) == parts[1][1:]


def test_weights_are_probabilities():
    drawn = np.bincount(indices(weighted(num_samples=40_000), 0, 1, 0), minlength=4) / 40_000
    assert np.allclose(drawn, [0, 0.25, 0.5, 0.25], atol=0.02)
    assert sorted(indices(weighted(num_samples=3, replacement=False), 0, 1, 0)) == [1, 2, 3]
    first = [indices(weighted(num_samples=1, replacement=False), 0, 1, epoch)[0] for epoch in range(2000)]
    assert np.allclose(np.bincount(first, minlength=4) / 2000, [0, 0.25, 0.5, 0.25], atol=0.05)


def test_a_mixture_reads_every_sample_before_one_again():
    make = mixing(ratios=[1, 1, 0], num_samples=20)
    counts = np.zeros(115, int)
    for epoch in range(10):
        read = indices(make, 0, 1, epoch)
        assert [sum(i < 10 for i in read), sum(10 <= i < 110 for i in read)] == [10, 10]
        np.add.at(counts, read, 1)
    assert set(counts[:10]) == {10}
    assert set(counts[10:110]) == {1}
    assert mixing(temperature=1)().counts.tolist() == [10, 100, 5]
    assert mixing(temperature=1e9, num_samples=30)().counts.tolist() == [10, 10, 10]


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="weights: got shape"):
        WeightedSampler(range(4), [1.0])
    with pytest.raises(ValueError, match="4 draws of 3 samples"):
        weighted(replacement=False)()
    with pytest.raises(ValueError, match="ratios=None, temperature=None"):
        mixing()()
    with pytest.raises(TypeError, match="dataset: got list"):
        MixingSampler([1, 2], ratios=[1])
    with pytest.raises(ValueError, match="drop_last=True leaves no batch"):
        LengthBucketBatchSampler([1, 2], 5, drop_last=True)

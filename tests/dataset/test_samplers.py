from unittest import mock

import numpy as np
import pytest

from lazyengine.dataset import DefaultSampler, InfiniteSampler

from .test_golden import as_rank


def sampler_of(kind, size, rank=0, world=1, **kwargs):
    with as_rank(rank, world):
        return kind(range(size), **kwargs)


def taken(sampler, count, start=0):
    found = []
    for block in sampler.index_blocks(start):
        found += block.tolist()
        if len(found) >= count:
            return found[:count]
    return found


def test_indices_are_plain_ints():
    assert {type(i) for i in DefaultSampler(range(5000), seed=0)} == {int}


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world):
    def batches(kind):
        ranks = [taken(sampler_of(kind, 20, rank, world, seed=3), 36 // world) for rank in range(world)]
        return [
            sorted(i for rank in ranks for i in rank[k : k + 6 // world]) for k in range(0, 18 // world, 6 // world)
        ]

    for kind in (DefaultSampler, InfiniteSampler):
        expected = taken(sampler_of(kind, 20, seed=3), 18)
        assert batches(kind) == [sorted(expected[k : k + 6]) for k in (0, 6, 12)]


def test_epochs_differ_and_repeat():
    sampler = DefaultSampler(range(30), seed=1)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(30))


@pytest.mark.parametrize("world", [1, 3, 5])
@pytest.mark.parametrize("start", [0, 1, 7, 23, 100])
def test_skipping_equals_reading_and_dropping(world, start):
    for rank in range(world):
        for shuffle in (True, False):
            sampler = sampler_of(InfiniteSampler, 4, rank, world, shuffle=shuffle, seed=2)
            assert taken(sampler, 20, start) == taken(sampler, 20 + start)[start:]
            sampler = sampler_of(DefaultSampler, 40, rank, world, shuffle=shuffle, seed=2)
            assert taken(sampler, 99, start) == list(sampler)[start:]


def test_every_pass_of_the_infinite_sampler_is_whole_and_new():
    stream = taken(InfiniteSampler(range(10), seed=0), 40)
    passes = [stream[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len(set(map(tuple, passes))) == 4
    assert len(InfiniteSampler(range(10))) == 10
    iterator = iter(InfiniteSampler(range(3), shuffle=False))
    assert [next(iterator) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_skipping_far_does_not_loop_over_samples():
    sampler = DefaultSampler(range(1_000_000), seed=0)
    (block,) = sampler.index_blocks(start=999_990)
    assert isinstance(block, np.ndarray)
    assert len(block) == 10


def test_without_a_seed_the_ranks_agree_on_one():
    with mock.patch("lazyengine.dist.sync_random_seed", return_value=11):
        assert list(DefaultSampler(range(9))) == list(DefaultSampler(range(9), seed=11))


def test_an_empty_dataset_is_refused():
    for kind in (DefaultSampler, InfiniteSampler):
        with pytest.raises(ValueError, match=r"the dataset \(list\) is empty: check its ann_file"):
            kind([])

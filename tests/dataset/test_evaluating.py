"""What an evaluation has to know of a loader: how many of its samples are padding, and whether workers repeat it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import DistributedSampler, IterableDataset, RandomSampler, get_worker_info

from lazyengine.dataset import DataLoader, DefaultSampler, InfiniteSampler, check_stream, num_padded
from lazyengine.errors import UsageError

from .samples import Augmented
from .test_golden import as_rank


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [12, 13, 14])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["own", "torch"])
def test_the_padding_is_known(kind, world, size, drop_last):
    data = Augmented(size)

    def loader(rank):
        with as_rank(rank, world):
            if kind == "own":
                return DataLoader(data, 2, drop_last=drop_last)
            sampler = DistributedSampler(data, num_replicas=world, rank=rank, shuffle=False)
            return TorchLoader(data, 2, sampler=sampler, drop_last=drop_last)  # type: ignore[arg-type]

    read = [int(index) for rank in range(world) for batch in loader(rank) for index in batch[0]]
    assert num_padded(loader(0), world) == len(read) - len(set(read))


def test_where_nothing_is_padded():
    data = Augmented(5)
    with as_rank(0, 2):
        assert num_padded(DataLoader(data, 2, sampler=DefaultSampler(data, round_up=False)), 2) == 0
        assert num_padded(DataLoader(data, 2), 2) == 1
    dropping = DistributedSampler(data, num_replicas=2, rank=0, drop_last=True)
    assert num_padded(TorchLoader(data, 2, sampler=dropping), 2) == 0  # type: ignore[arg-type]
    assert num_padded(TorchLoader(data, 2), 1) == 0  # type: ignore[arg-type]


def test_where_nobody_knows():
    data = Augmented(5)
    assert num_padded(DataLoader(data, 2, sampler=InfiniteSampler(data)), 2) is None
    assert num_padded(TorchLoader(data, 2, sampler=RandomSampler(data)), 2) is None  # type: ignore[arg-type]
    assert num_padded(DataLoader(Counting(), 2), 2) is None
    assert num_padded(DataLoader(Counting(), 2), 1) == 0


class Counting(IterableDataset[Any]):
    """Every worker reads all of it."""

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        yield from range(len(self))


class Inherited(Counting):
    """The same."""


class Endless(Counting):
    """Random draws without an end differ between workers, and are no mistake."""

    __len__ = None  # type: ignore[assignment]

    def __iter__(self) -> Any:
        while True:
            yield torch.rand(())


class Shared(Counting):
    """Shared out among the workers."""

    def __iter__(self) -> Any:
        info = get_worker_info()
        yield from range(6) if info is None else range(info.id, 6, info.num_workers)


def own_part(total: int) -> Any:
    info = get_worker_info()
    return range(total) if info is None else range(info.id, total, info.num_workers)


class SharedByAFunction(Counting):
    def __iter__(self) -> Any:
        yield from own_part(6)


class Source:
    def __iter__(self) -> Any:
        return iter(own_part(6))


class SharedByItsSource(Counting):
    def __init__(self) -> None:
        self.source = Source()

    def __iter__(self) -> Any:
        return iter(self.source)


class Indirect(Counting):
    """A stream of a stream: what is inside decides."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        yield from self.dataset


@pytest.mark.parametrize("kind", [DataLoader, TorchLoader])
@pytest.mark.parametrize("stream", [Counting(), Inherited(), Indirect(Counting())])
def test_a_stream_that_every_worker_repeats_is_refused(kind, stream):
    with pytest.raises(UsageError, match=r"every one of 2 workers reads all of .*get_worker_info.*num_workers"):
        check_stream(kind(stream, 2, num_workers=2))


@pytest.mark.parametrize("kind", [DataLoader, TorchLoader])
def test_other_streams_are_taken(kind):
    check_stream(kind(Counting(), 2))
    check_stream(kind(Counting(), 2, num_workers=1))
    check_stream(kind(Counting(), 2, num_workers=2, worker_init_fn=print))
    check_stream(kind(Augmented(), 2, num_workers=2))
    for stream in (Endless(), Shared(), SharedByAFunction(), SharedByItsSource(), Indirect(Shared())):
        check_stream(kind(stream, 2, num_workers=2))
    check_stream([1, 2, 3])

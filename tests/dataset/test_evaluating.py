"""What an evaluation has to know of a loader: whether workers repeat its stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset, get_worker_info

from lazyengine.dataset import DataLoader, check_stream
from lazyengine.errors import UsageError

from .samples import Augmented


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

"""Streams for the tests, in a module of their own so that spawned workers can import them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

LENGTHS = (7, 12, 0, 9, 4, 11)


class Shards(IterableDataset[Any]):
    """A stream with virtual shards of unequal lengths; a sample is its number, the epoch and a random number."""

    def __init__(self, lengths: tuple[int, ...] = LENGTHS) -> None:
        self.lengths = lengths
        self.num_shards = len(lengths)

    def __iter__(self) -> Iterator[Any]:
        for shard in range(self.num_shards):
            yield from self.iter_shard(shard, 0, None)

    def iter_shard(self, shard: int, epoch: int, state: int | None) -> Iterator[Any]:
        for i in range(state or 0, self.lengths[shard]):
            yield sum(self.lengths[:shard]) + i, epoch, random.random()


class StatefulShards(Shards):
    """The same, whose shards say themselves where they stand, and read a number of others for each that they give."""

    class Part:
        def __init__(self, numbers: range, epoch: int, state: dict[str, int]) -> None:
            self.numbers, self.epoch, self.next = numbers, epoch, state["next"]

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            if self.next >= len(self.numbers):
                raise StopIteration
            self.next += 1
            return self.numbers[self.next - 1], self.epoch, random.random()

        def state_dict(self) -> dict[str, int]:
            return {"next": self.next}

    def iter_shard(self, shard: int, epoch: int, state: Any) -> Any:
        first = sum(self.lengths[:shard])
        return self.Part(range(first, first + self.lengths[shard]), epoch, state or {"next": 0})


class Stepping(IterableDataset[Any]):
    """A stream as for torchdata: each worker steps through its part, and knows where it stands."""

    def __init__(self, size: int = 41) -> None:
        self.size, self.position, self.epoch = size, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        own = range(self.size) if info is None else range(info.id, self.size, info.num_workers)
        while self.position < len(own):
            self.position += 1
            yield own[self.position - 1], self.epoch, torch.rand(()).item()
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Mute(IterableDataset[Any]):
    """A stream of which nobody knows where it stands."""

    def __iter__(self) -> Iterator[Any]:
        yield from ((i, 0, 0.0) for i in range(12))

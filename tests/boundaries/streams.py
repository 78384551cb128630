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


class Restarting(Stepping):
    """The same as torchdata's pages have it: what was loaded is where the next iteration begins, and only that one."""

    start = 0

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for i in range(start, self.size):
            self.position = i + 1
            yield i, self.epoch, random.random()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["position"]


class Buffered(Restarting):
    """A stream that shuffles in a buffer, by a generator that is in its state and restored when it is read."""

    def __init__(self, size: int = 41) -> None:
        super().__init__(size)
        self.generator, self.buffer, self.loaded = random.Random(0), list[int](), None

    def __iter__(self) -> Iterator[Any]:
        self.position, self.buffer = 0, []
        if self.loaded is not None:
            self.position, self.buffer = self.loaded["position"], list(self.loaded["buffer"])
            self.generator.setstate(self.loaded["generator"])
            self.loaded = None
        while self.position < self.size or self.buffer:
            while len(self.buffer) < 5 and self.position < self.size:
                self.buffer.append(self.position)
                self.position += 1
            yield self.buffer.pop(self.generator.randrange(len(self.buffer))), self.epoch, random.random()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "buffer": list(self.buffer), "generator": self.generator.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


class Ordered(Stepping):
    """The order of an epoch is drawn from its number, which is in the state."""

    def __iter__(self) -> Iterator[Any]:
        order = random.Random(self.epoch).sample(range(self.size), self.size)
        return ((order[i], epoch, drawn) for i, epoch, drawn in super().__iter__())

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.epoch = state["position"], state["epoch"]


class CountingPasses(Ordered):
    """The same, which counts its epochs by itself."""

    set_epoch: Any = None

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        self.epoch += 1

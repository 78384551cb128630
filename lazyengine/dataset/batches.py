"""The two ends of a batch: which samples it holds (asked in the main process), and reading it (wherever that happens).

What travels between them is a key. Its seed is a function of the run's seed, the epoch, the position and the rank, so
whoever reads the batch draws the same random numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import get_worker_info

from .. import _torch, dist
from ..errors import UsageRuntimeError, UsageTypeError
from ..seeding import KeptStreams, Purpose, Seeds, derive_seed, seed_streams, stream_seed
from .generators import OwnGenerators, are_filled, find_gaps, find_generators
from .samplers import InfiniteSampler, RankSampler

_LOGGER = logging.getLogger(__name__)

# In which attributes of a loader, and of what it holds, there may be something that has `set_epoch`.
ORDER = ("sampler", "batch_sampler")
DATA = ("dataset", "datasets", "collate_fn", "pipeline", "transforms", "transform")
Indices = Any  # a list of what the sampler yields, or one of them where there are no batches
BatchKey = tuple[int | None, int, int, int | None, int, Indices]
"""Seed, epoch, position, the epoch that the dataset was told (None: nobody told it), number of the pass, indices."""


@dataclasses.dataclass(eq=False)
class BatchSource:
    """Yields the keys of one epoch's batches.

    Args:
        sampler: One of ours, whose indices are skipped without a loop, or any other iterable of indices.
        order: The iterable of index lists (or of indices) to follow if `sampler` is not one of ours.
        batch_size: Samples in a batch; None for no batches.
        drop_last: Leave out an incomplete last batch.
        is_seeded: Give each batch a seed.
        gives_batches: `order` is a batch sampler of the user's, whose batches may be tuples, arrays or tensors too.
        is_dealt: Deal `order` to the ranks in turns.
        seeds_generators: Seed the generators that are found in a sampler that is not one of ours.

    Attributes:
        left_alone: The generators among these that are not seeded.
    """

    sampler: Any
    order: Iterable[Any]
    batch_size: int | None
    drop_last: bool
    is_seeded: bool
    gives_batches: bool
    is_dealt: bool
    seeds_generators: bool
    epoch: int = dataclasses.field(default=0, init=False)
    left_alone: Sequence[Any] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        self.is_own = isinstance(self.sampler, RankSampler)

    def keys(self, seed: int, start: int, told_epoch: int | None, number: int) -> Iterator[BatchKey]:
        """Return the keys of the `number`-th pass, from position `start` of the epoch that is set now."""
        epoch = self.sampler.epoch if self.is_own else self.epoch
        return self._keys(seed, epoch, start, told_epoch, number)

    def _keys(self, seed: int, epoch: int, start: int, told_epoch: int | None, number: int) -> Iterator[BatchKey]:
        seeds = Seeds(seed, Purpose.DATA, epoch=epoch, rank=dist.get_data_rank()) if self.is_seeded else None
        batches = self._own_batches(epoch, start) if self.is_own else self._foreign_batches(seed, epoch, start)
        for position, indices in enumerate(batches, start):
            yield None if seeds is None else seeds[position], epoch, position, told_epoch, number, indices

    def _own_batches(self, epoch: int, start: int) -> Iterator[Indices]:
        size = self.batch_size or 1
        rest = np.zeros(0, np.int64)
        for block in self.sampler.index_blocks(start * size, epoch):
            block = np.concatenate([rest, block]) if len(rest) else block
            num_whole = len(block) // size * size
            for i in range(0, num_whole, size):
                yield block[i : i + size].tolist() if self.batch_size else int(block[i])
            rest = block[num_whole:]
        if len(rest) and not self.drop_last:
            yield rest.tolist()

    def _foreign_batches(self, seed: int, epoch: int, start: int) -> Iterator[Indices]:
        drawn = self._drawn(stream_seed(seed, Purpose.SAMPLER, epoch=epoch))
        if not self.is_dealt:
            return itertools.islice(drawn, start, None)
        rank, world_size = dist.get_data_rank(), dist.get_data_world_size()
        if not hasattr(self.order, "__len__"):  # it may never end
            return itertools.islice(drawn, rank + start * world_size, None, world_size)
        batches = list(drawn)
        digests = dist.all_gather_object(hashlib.sha256(repr(batches).encode()).hexdigest())
        if len(set(digests)) > 1:
            raise UsageRuntimeError(
                f"{type(self.order).__name__} has drawn other batches on each of {world_size} ranks, so they cannot "
                "be dealt out: let it draw from random, numpy or torch, which are seeded alike, or know its rank."
            )
        num_own = self._num_dealt(len(batches))
        return itertools.islice(itertools.cycle(batches), rank + start * world_size, num_own * world_size, world_size)

    def _num_dealt(self, num_batches: int) -> int:
        drops = getattr(self.order, "drop_last", False)
        return num_batches // dist.get_data_world_size() if drops else -(-num_batches // dist.get_data_world_size())

    def _drawn(self, seed: int) -> Iterator[Indices]:
        """Draw from a foreign sampler, each time from its position, as it may draw from random streams when asked."""
        found = find_generators({"sampler": self.order}) if self.seeds_generators else {}
        is_left = {id(generator) for generator in self.left_alone}
        generators = OwnGenerators({path: each for path, each in found.items() if id(each) not in is_left})
        iterator = None
        for position in itertools.count():
            position_seed = derive_seed(seed, position) if position else seed
            with KeptStreams():
                seed_streams(position_seed)
                generators.seed(position_seed)
                iterator = iter(self.order) if iterator is None else iterator
                try:
                    indices = next(iterator)
                except StopIteration:
                    return
            yield self._as_list(indices) if self.gives_batches else indices

    def _as_list(self, batch: Any) -> list[Any]:
        indices = batch.tolist() if hasattr(batch, "tolist") else batch
        if not isinstance(indices, Iterable) or isinstance(indices, str):
            raise UsageTypeError(
                f"batch_sampler: {type(self.order).__name__} has given {batch!r}; accepted: lists of indices, one list "
                "for each batch. Give what yields single indices as `sampler`, with a batch_size."
            )
        return list(indices)

    def __len__(self) -> int:
        if isinstance(self.sampler, InfiniteSampler):
            raise TypeError("a loader with an InfiniteSampler never ends, so it has no length; its dataset has one")
        if self.is_own:
            size = self.batch_size or 1
            return len(self.sampler) // size if self.drop_last else -(-len(self.sampler) // size)
        num_batches = len(self.order)  # type: ignore[arg-type] - TypeError as torch's loader raises it
        return self._num_dealt(num_batches) if self.is_dealt else num_batches


def started(items: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator whose first item has been drawn already."""
    iterator = iter(items)
    for first in iterator:
        return itertools.chain([first], iterator)
    return iterator


@dataclasses.dataclass(eq=False)
class BatchReader:
    """A dataset as torch's fetcher sees it: for the key of a batch it returns the collated batch.

    Args:
        dataset: The map-style dataset.
        collate_fn: Makes a batch of a list of samples.
        seeds_generators: Seed the generators that are found in them too.

    Attributes:
        told_epoch: The epoch that the dataset was told last in this process.
        left_alone: Paths of generators that are not seeded.
        instead: Which index is read for one that is left out.
    """

    can_read_again: ClassVar[bool] = True

    dataset: Any
    collate_fn: Callable[[Any], Any]
    seeds_generators: bool = False
    told_epoch: int | None = dataclasses.field(default=None, init=False)
    left_alone: Collection[str] = dataclasses.field(default=(), init=False)
    instead: dict[int, int] = dataclasses.field(default_factory=dict, init=False)
    _pass: int | None = dataclasses.field(default=None, init=False)
    _generators: OwnGenerators = dataclasses.field(default_factory=lambda: OwnGenerators({}), init=False)
    _gaps: list[Any] = dataclasses.field(default_factory=list, init=False)

    @property
    def roots(self) -> dict[str, Any]:
        """What a batch is made by, by name."""
        return {"dataset": self.dataset, "collate_fn": self.collate_fn}

    def set_epoch(self, epoch: int) -> bool:
        """Tell the dataset, in this process, which epoch it is; return whether anything in it can be told."""
        self.told_epoch = epoch
        return tell_epoch(epoch, self, DATA, told={id(self)})

    def __getitem__(self, key: BatchKey | None) -> Any:
        """Return the batch that `key` describes, the random streams seeded for it; None for None.

        In the main process torch's and numpy's streams are put back afterwards.
        """
        if key is None:
            return None
        if get_worker_info() is not None:
            return self._read_seeded(key)
        with contextlib.nullcontext() if key[0] is None else KeptStreams():
            return self.read(key)

    def read(self, key: BatchKey) -> Any:
        """Do the same in the main process, and leave the random streams where reading left them."""
        with _torch.profiler_range("enumerate(DataLoader)"):
            return self._read_seeded(key)

    def begin_pass(self) -> None:
        """Look for generators; once a pass in each process that reads."""
        self._find_generators()

    def reseed(self, seed: int) -> None:
        """Let all streams start from a seed: the global ones, and those of the generators that were found."""
        seed_streams(seed)
        self._generators.seed(seed)

    def _find_generators(self) -> bool:
        """Look for generators, and return whether there are other ones than before."""
        former, roots = self._generators.found, self.roots if self.seeds_generators else {}
        found = {path: each for path, each in find_generators(roots).items() if path not in self.left_alone}
        self._generators, self._gaps = OwnGenerators(found), find_gaps(roots)
        return found != former

    def _read_seeded(self, key: BatchKey) -> Any:
        seed, epoch, position, told_epoch, number, _ = key
        if told_epoch not in (None, self.told_epoch):  # in a worker, or another pass has been begun meanwhile
            self.set_epoch(told_epoch)
        is_first, self._pass = number != self._pass, number
        if is_first:
            self.begin_pass()
        if seed is None:
            return self._read(key)
        self.reseed(seed)
        batch = self._read(key)
        if not ((is_first or are_filled(self._gaps)) and self._find_generators()):
            return batch
        if self.can_read_again:  # some were made by reading
            self.reseed(seed)
            return self._read(key)
        _LOGGER.warning(
            "%s has made generators while its batch %d of epoch %d was read: what they drew for it is not repeatable. "
            "Make them in its constructor.", type(self.dataset).__name__, position, epoch
        )  # fmt: skip
        return batch

    def _read(self, key: BatchKey) -> Any:
        _, epoch, position, _, _, indices = key
        dataset, index, samples = self.dataset, None, None
        try:
            if not isinstance(indices, list):
                index = indices
                samples = dataset[index]
            elif hasattr(dataset, "__getitems__"):
                samples = dataset.__getitems__(indices)
            else:
                read, instead = [], self.instead
                for index in indices:
                    read.append(dataset[instead.get(index, index) if instead else index])
                samples = read
            return self.collate_fn(samples)
        except Exception as error:
            if samples is not None:
                place = f"while collating the samples of indices {indices}"
            else:
                place = f"while reading {f'indices {indices}' if index is None else f'index {index}'}"
            error.add_note(f"{place} of {type(dataset).__name__} (batch {position} of epoch {epoch})")
            if isinstance(error, StopIteration):
                raise RuntimeError("the dataset raised StopIteration, which would have ended the epoch") from error
            raise


def tell_epoch(epoch: int, holder: Any, attributes: tuple[str, ...], told: set[int]) -> bool:
    """Call `set_epoch` of an object that has it, and of what it holds; each object is told once.

    Args:
        epoch: The epoch.
        holder: Where to begin.
        attributes: Names of the attributes in which an object may hold others, or a list or dict of others.
        told: The `id` of each object that is not to be told; those told now are added.

    Returns:
        Whether there was one.
    """
    waiting, seen, found = [holder], set[int](), False
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        set_epoch = getattr(part, "set_epoch", None)
        owner = id(getattr(set_epoch, "__self__", part))  # a wrapper may hand out the method of what is inside
        if callable(set_epoch) and owner not in told:
            told.add(owner)
            set_epoch(epoch)
            found = True
        for name in attributes:
            inner = getattr(part, name, None)
            if isinstance(inner, dict):
                waiting += inner.values()
            elif isinstance(inner, list | tuple) and name != "dataset":  # a list may be the dataset itself
                waiting += inner
            elif inner is not None:
                waiting.append(inner)
    return found

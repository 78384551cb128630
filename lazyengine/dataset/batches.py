"""The two ends of a batch: which samples it holds (asked in the main process), and reading it (wherever that happens).

What travels between them is a key: `(seed, epoch, position, indices)`. The seed is a function of the run's seed, the
epoch, the position and the rank, so whoever reads the batch draws the same random numbers.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from ..seeding import DATA_STREAM, SAMPLER_STREAM, derive_seed, mix
from .samplers import DefaultSampler, InfiniteSampler
from .streams import SeededStreams, seed_streams

Indices = Any  # a list of what the sampler yields, or one of them where there are no batches
BatchKey = tuple[int | None, int, int, Indices]


class BatchSource:
    """Yields the keys of one epoch's batches.

    Args:
        sampler: One of ours, whose indices are skipped without a loop, or any other iterable of indices.
        batches: The iterable of index lists (or of indices) to follow if `sampler` is not one of ours.
        batch_size: Samples in a batch; None for no batches.
        drop_last: Leave out an incomplete last batch.
        is_seeded: Give each batch a seed.
    """

    def __init__(
        self, sampler: Any, batches: Iterable[Any], batch_size: int | None, drop_last: bool, is_seeded: bool
    ) -> None:
        self.sampler, self._batches = sampler, batches
        self._batch_size, self._drop_last, self._is_seeded = batch_size, drop_last, is_seeded
        self.seed, self.epoch, self.start = 0, 0, 0

    @property
    def is_own(self) -> bool:
        """Whether the sampler is one of ours, whose order is a function of seed and epoch."""
        return isinstance(self.sampler, (DefaultSampler, InfiniteSampler))

    def __iter__(self) -> Iterator[BatchKey]:
        """Start an epoch: seed, epoch and start are those of now, even if the first batch is asked for later."""
        return self._keys(self.seed, self.sampler.epoch if self.is_own else self.epoch, self.start)

    def _keys(self, seed: int, epoch: int, start: int) -> Iterator[BatchKey]:
        from ..dist import get_rank

        rank = get_rank()
        batches = self._own_batches(epoch, start) if self.is_own else self._foreign_batches(seed, epoch, start)
        of_epoch = mix(seed, DATA_STREAM, epoch)
        for position, indices in enumerate(batches, start):
            batch_seed = mix(of_epoch, position, rank) >> 1 if self._is_seeded else None  # derive_seed of all five
            yield batch_seed, epoch, position, indices

    def _own_batches(self, epoch: int, start: int) -> Iterator[Indices]:
        size = self._batch_size or 1
        rest = np.zeros(0, np.int64)
        for block in self.sampler.index_blocks(start * size, epoch):
            block = np.concatenate([rest, block]) if len(rest) else block
            num_whole = len(block) // size * size
            for i in range(0, num_whole, size):
                yield block[i : i + size].tolist() if self._batch_size else int(block[i])
            rest = block[num_whole:]
        if len(rest) and not self._drop_last:
            yield rest.tolist()

    def _foreign_batches(self, seed: int, epoch: int, start: int) -> Iterator[Indices]:
        end = object()
        with SeededStreams(derive_seed(seed, SAMPLER_STREAM, epoch)):  # torch's samplers draw when they start
            batches = iter(self._batches)
            first = next(batches, end)
        rest = batches if first is end else itertools.chain([first], batches)
        return itertools.islice(rest, start, None)

    def __len__(self) -> int:
        if isinstance(self.sampler, InfiniteSampler):
            raise TypeError("a loader with an InfiniteSampler never ends, so it has no length; its dataset has one")
        if isinstance(self.sampler, DefaultSampler):
            size = self._batch_size or 1
            return len(self.sampler) // size if self._drop_last else -(-len(self.sampler) // size)
        return len(self._batches)  # type: ignore[arg-type] - TypeError as torch's loader raises it


class BatchReader:
    """A dataset as torch's fetcher sees it: for the key of a batch it returns the collated batch.

    Args:
        dataset: The map-style dataset.
        collate_fn: Makes a batch of a list of samples.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any]) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: BatchKey) -> Any:
        """Return the batch that `key` describes, the random streams seeded for it.

        In the main process torch's and numpy's streams are put back afterwards.
        """
        seed = key[0]
        if seed is None:
            return self._read(key)
        if get_worker_info() is not None:
            seed_streams(seed)
            return self._read(key)
        with SeededStreams(seed):
            return self._read(key)

    __getitems__ = __getitem__

    def _read(self, key: BatchKey) -> Any:
        _, epoch, position, indices = key
        dataset, index, samples = self.dataset, None, None
        try:
            if not isinstance(indices, list):
                index = indices
                samples = dataset[index]
            elif hasattr(dataset, "__getitems__"):
                samples = dataset.__getitems__(indices)
            else:
                read = []
                for index in indices:
                    read.append(dataset[index])
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

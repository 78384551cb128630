"""Which samples a rank reads, in which order: functions of (seed, epoch), in whole arrays.

The order of the global batches does not depend on the number of ranks: rank r of w takes every w-th index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from .. import dist
from ..errors import UsageTypeError, UsageValueError
from ..seeding import derive_seed

_PASSES_BITS = 20  # pass k of an endless order within epoch e is permuted from seed + e * 2**20 + k


def _permutation(size: int, seed: int) -> np.ndarray:
    """Return torch's random permutation; what takes time is memory out of order, of which int32 needs half."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.randperm(size, generator=generator, dtype=torch.int32 if size < 2**31 else torch.int64).numpy()


class Order:
    """What samplers and batch samplers share: an order of an epoch of which each rank takes its part, and its seed."""

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        self.rank, self.world_size = dist.get_data_rank(), dist.get_data_world_size()
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes."""
        self.epoch = epoch

    def _resolved_seed(self) -> int:
        if self.seed is None:
            self.seed = dist.sync_random_seed()
        return self.seed


class RankSampler(Order, Sampler[int]):
    """What the samplers share: plain indices out of blocks."""

    index_blocks: Callable[..., Iterator[np.ndarray]]

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(shuffle, seed)
        self.dataset = dataset
        self.size = len(dataset)
        if self.size == 0:
            raise UsageValueError(
                f"the dataset ({type(dataset).__name__}) is empty: check its ann_file, its filter_data, "
                "its indices or its __len__"
            )

    def _order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch, or of a pass, for all ranks together: integers, one-dimensional."""
        return _permutation(self.size, self._resolved_seed() + epoch) if self.shuffle else np.arange(self.size)

    def __iter__(self) -> Iterator[int]:
        for block in self.index_blocks():
            yield from map(int, block)


class _EpochSampler(RankSampler):
    """What samplers with an end share: an order of all indices of an epoch, of which each rank takes its part."""

    def __init__(
        self, dataset: Sized, num_samples: int | None, shuffle: bool, seed: int | None, round_up: bool
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        if num_samples is not None and num_samples < 1:
            raise UsageValueError(f"num_samples: got {num_samples}; accepted: 1 or more, or None for all.")
        self.round_up = round_up
        self.order_size = self.size if num_samples is None else num_samples
        num_rounds = math.ceil(self.order_size / self.world_size)
        self.total_size = num_rounds * self.world_size if round_up else self.order_size
        self.num_samples = len(range(self.rank, self.total_size, self.world_size))

    def index_blocks(self, start: int = 0, epoch: int | None = None) -> Iterator[np.ndarray]:
        """Yield this rank's indices of the epoch as one array.

        Args:
            start: How many of them to leave out; costs the same for any number.
            epoch: Epoch to take instead of the one set by `set_epoch`.
        """
        indices = self._order(self.epoch if epoch is None else epoch)
        if self.total_size != self.order_size:
            indices = np.resize(indices, self.total_size)  # repeats from the front
        yield indices[self.rank :: self.world_size][start:]

    def __len__(self) -> int:
        return self.num_samples


class DefaultSampler(_EpochSampler):
    """One epoch of a dataset, shared out among the ranks.

    The order is torch's random permutation from `seed + epoch`, as in mmengine.

    Args:
        dataset: Anything with a length.
        shuffle: Permute, a new permutation in every epoch.
        seed: Seed of the permutations; None takes the loader's seed, else one that all ranks agree on at the first
            iteration (collective: every rank must iterate).
        round_up: Repeat samples from the front so that all ranks get the same number.

    Raises:
        ValueError: The dataset is empty.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True) -> None:
        super().__init__(dataset, None, shuffle, seed, round_up)


class WeightedSampler(_EpochSampler):
    """Samples of a dataset drawn with the probabilities that their weights give, shared out among the ranks.

    Args:
        dataset: Anything with a length.
        weights: One number for each sample, 0 or more; they need not add up to 1.
        num_samples: Draws in an epoch, of all ranks together; None for as many as there are samples.
        replacement: Draw a sample again and again; otherwise at most once in an epoch.
        seed: As for `DefaultSampler`.
        round_up: As for `DefaultSampler`.

    Raises:
        ValueError: Another number of weights than of samples, a negative weight or none that is positive, or, without
            replacement, more draws than positive weights.
    """

    def __init__(
        self,
        dataset: Sized,
        weights: Sequence[float],
        num_samples: int | None = None,
        replacement: bool = True,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        super().__init__(dataset, num_samples, True, seed, round_up)
        self.weights, self.replacement = np.asarray(weights, np.float64), replacement
        if self.weights.shape != (self.size,):
            shape = self.weights.shape
            raise UsageValueError(f"weights: got shape {shape}; accepted: one for each of {self.size} samples.")
        if not (np.isfinite(self.weights).all() and self.weights.min() >= 0 and self.weights.max() > 0):
            raise UsageValueError("weights: accepted are finite numbers of 0 or more, at least one of them positive.")
        num_positive = int((self.weights > 0).sum())
        if not replacement and self.order_size > num_positive:
            raise UsageValueError(
                f"replacement=False: {self.order_size} draws of {num_positive} samples with a positive weight; set "
                "num_samples to at most that, or replacement=True."
            )

    def _order(self, epoch: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(self._resolved_seed() + epoch)
        if self.replacement:
            sums = np.cumsum(self.weights)
            draws = torch.rand(self.order_size, generator=generator, dtype=torch.float64).numpy() * sums[-1]
            return np.searchsorted(sums, draws, side="right").clip(max=int(self.weights.nonzero()[0][-1]))
        waits = torch.empty(self.size, dtype=torch.float64).exponential_(generator=generator).numpy()
        with np.errstate(divide="ignore"):  # Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006
            return np.argsort(waits / self.weights, kind="stable")[: self.order_size]


class MixingSampler(_EpochSampler):
    """Several datasets mixed by ratios, shared out among the ranks.

    Every epoch has the same number of samples of each dataset, as near to the ratios as whole numbers are, in a random
    order. A dataset goes on in the next epoch where the last one left it, so that each of its samples is read before
    one is read again.

    Args:
        dataset: A `ConcatDataset` of the datasets, ours or torch's.
        ratios: One number for each dataset, which need not add up to 1.
        temperature: Instead of ratios: the number of samples to the power of `1 / temperature`. 1 mixes by size; the
            higher, the more equal the datasets.
        num_samples: Samples in an epoch, of all ranks together; None for as many as there are in all datasets.
        seed: As for `DefaultSampler`.
        round_up: As for `DefaultSampler`.

    Raises:
        TypeError: `dataset` is not made of several.
        ValueError: Not one of `ratios` and `temperature` is given, or they are out of range.
    """

    def __init__(
        self,
        dataset: Any,
        ratios: Sequence[float] | None = None,
        temperature: float | None = None,
        num_samples: int | None = None,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        if not hasattr(dataset, "datasets"):
            raise UsageTypeError(f"dataset: got {type(dataset).__name__}; accepted: a ConcatDataset.")
        super().__init__(dataset, num_samples, True, seed, round_up)
        if (ratios is None) == (temperature is None) or (temperature is not None and temperature <= 0):
            raise UsageValueError(
                f"ratios={ratios!r}, temperature={temperature!r}; accepted: one of them, a temperature above 0."
            )
        self._sizes = np.array([len(part) for part in dataset.datasets])
        shares = self._sizes ** (1 / temperature) if ratios is None else np.asarray(ratios, np.float64)  # type: ignore[operator]
        if shares.shape != self._sizes.shape or shares.min() < 0 or not 0 < shares.sum() < math.inf:
            num_parts = len(self._sizes)
            raise UsageValueError(f"ratios: got {ratios!r}; accepted: {num_parts} numbers of 0 or more, not all 0.")
        exact = shares / shares.sum() * self.order_size
        self.counts = np.floor(exact).astype(int)
        for part in np.argsort(self.counts - exact, kind="stable")[: self.order_size - self.counts.sum()]:
            self.counts[part] += 1  # the largest remainders

    def _order(self, epoch: int) -> np.ndarray:
        seed, first, parts = self._resolved_seed(), 0, []
        for number, (size, count) in enumerate(zip(self._sizes.tolist(), self.counts.tolist())):
            begin, end = epoch * count, (epoch + 1) * count  # in the endless stream of this dataset's permutations
            passes = range(begin // size, -(-end // size)) if count else range(0)
            order = [_permutation(size, derive_seed(seed, number, each)) for each in passes]
            skipped = begin - passes.start * size
            parts += [np.int64(first) + np.concatenate(order)[skipped : skipped + count]] if count else []
            first += size
        return np.concatenate(parts)[_permutation(self.order_size, seed + epoch)]


class LengthBucketBatchSampler(Order, Sampler[list[int]]):
    """Batches of samples of similar length, so that little is padded; the ranks read similar lengths at a time.

    A random permutation is cut into pools; within each the samples are sorted by length and cut into batches, and the
    batches are read in random order. Give it to the loader as `batch_sampler`.

    Args:
        lengths: The length of each sample.
        batch_size: Samples in a batch of one rank.
        pool_batches: Global batches in a pool: the more, the less padding and the less chance.
        shuffle: False sorts all samples by length, and keeps the batches in this order.
        drop_last: Leave out what does not fill a batch on all ranks; otherwise samples are repeated from the front.
        seed: As for `DefaultSampler`.

    Raises:
        ValueError: There are no samples, or too few with `drop_last`, or a number is less than 1.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        pool_batches: int = 100,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(shuffle, seed)
        if min(len(lengths), batch_size, pool_batches) < 1:
            raise UsageValueError(
                f"{len(lengths)} lengths, batch_size={batch_size}, pool_batches={pool_batches}; accepted: 1 or more of "
                "each."
            )
        self.lengths, self.batch_size, self.pool_batches = np.asarray(lengths), batch_size, pool_batches
        self.drop_last = drop_last
        size = batch_size * self.world_size
        self._num_rounds = len(lengths) // size if drop_last else -(-len(lengths) // size)
        if not self._num_rounds:
            raise UsageValueError(f"drop_last=True leaves no batch: {len(lengths)} samples, fewer than {size}.")

    def __len__(self) -> int:
        return self._num_rounds

    def __iter__(self) -> Iterator[list[int]]:
        round_size = self.batch_size * self.world_size
        num_samples, seed = self._num_rounds * round_size, derive_seed(self._resolved_seed(), self.epoch)
        order = _permutation(len(self.lengths), seed) if self.shuffle else np.arange(len(self.lengths))
        order = np.resize(order, num_samples)
        pool = self.pool_batches * round_size if self.shuffle else num_samples
        pools = [order[i : i + pool] for i in range(0, num_samples, pool)]
        rounds = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        rounds = rounds.reshape(self._num_rounds, self.world_size, self.batch_size)[:, self.rank]
        if self.shuffle:
            rounds = rounds[_permutation(self._num_rounds, seed + 1)]
        yield from rounds.tolist()


class InfiniteSampler(RankSampler):
    """A dataset over and over, shared out among the ranks, for training by iterations.

    Pass k over the dataset is torch's random permutation from `seed + k`, so that a run can be resumed at any sample
    without going through those before. (mmengine draws all passes from one generator: only its first pass is the same.)
    Every iteration starts at the first pass; those of epoch 1 and later, as of a loop with `limit`, have other orders.

    Args:
        dataset: Anything with a length.
        shuffle: Permute, a new permutation in every pass.
        seed: Seed of the permutations; None takes the loader's seed, else one that all ranks agree on at the first
            iteration (collective: every rank must iterate).

    Raises:
        ValueError: The dataset is empty.
    """

    def index_blocks(self, start: int = 0, epoch: int | None = None) -> Iterator[np.ndarray]:
        """Yield this rank's indices without end, one array a pass, without the first `start`."""
        first = (self.epoch if epoch is None else epoch) << _PASSES_BITS
        position = start * self.world_size + self.rank  # in the endless stream of all ranks
        while True:
            number, offset = divmod(position, self.size)
            block = self._order(first + number)[offset :: self.world_size]
            yield block
            position += len(block) * self.world_size

    def __len__(self) -> int:
        """Number of samples of the dataset: what one pass of all ranks takes."""
        return self.size


def knows_ranks(batch_sampler: Any) -> bool:
    """Return whether a batch sampler, or the sampler in it, has a rank or a number of ranks of its own."""
    parts = (batch_sampler, getattr(batch_sampler, "sampler", None))
    return any(hasattr(part, name) for part in parts for name in ("rank", "num_replicas", "world_size"))

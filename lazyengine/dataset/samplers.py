"""Which samples a rank reads, in which order: functions of (seed, epoch), in whole arrays.

The order of the global batches does not depend on the number of ranks: rank r of w takes every w-th index.
"""

import math
from collections.abc import Iterator, Sized

import numpy as np
import torch
from torch.utils.data import Sampler

_INDICES_PER_CHUNK = 4096


def _permutation(size: int, seed: int) -> np.ndarray:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.randperm(size, generator=generator).numpy()


class _RankSampler(Sampler[int]):
    """What both samplers share: rank, seed, and plain indices out of blocks."""

    def __init__(self, dataset: Sized, shuffle: bool, seed: int | None) -> None:
        from ..dist import get_rank, get_world_size

        self.rank, self.world_size = get_rank(), get_world_size()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.size = len(dataset)
        if self.size == 0:
            raise ValueError(
                f"the dataset ({type(dataset).__name__}) is empty: check its ann_file, its filter_data and its indices"
            )

    def _resolved_seed(self) -> int:
        if self.seed is None:
            from ..dist import sync_random_seed

            self.seed = sync_random_seed()
        return self.seed

    def index_blocks(self, start: int = 0, epoch: int | None = None) -> Iterator[np.ndarray]:
        """Yield this rank's indices as arrays, without the first `start` of them.

        Args:
            start: How many of this rank's samples to leave out; costs the same for any number.
            epoch: Epoch to take instead of the one set by `set_epoch`.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        for block in self.index_blocks():
            for i in range(0, len(block), _INDICES_PER_CHUNK):
                yield from block[i : i + _INDICES_PER_CHUNK].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes."""
        self.epoch = epoch


class DefaultSampler(_RankSampler):
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
        super().__init__(dataset, shuffle, seed)
        self.round_up = round_up
        if round_up:
            self.num_samples = math.ceil(self.size / self.world_size)
            self.total_size = self.num_samples * self.world_size
        else:
            self.num_samples = math.ceil((self.size - self.rank) / self.world_size)
            self.total_size = self.size

    def index_blocks(self, start: int = 0, epoch: int | None = None) -> Iterator[np.ndarray]:
        """Yield this rank's indices of the epoch as one array, without the first `start` of them."""
        if self.shuffle:
            indices = _permutation(self.size, self._resolved_seed() + (self.epoch if epoch is None else epoch))
        else:
            indices = np.arange(self.size)
        if self.total_size != self.size:
            indices = np.resize(indices, self.total_size)  # repeats from the front
        yield indices[self.rank :: self.world_size][start:]

    def __len__(self) -> int:
        return self.num_samples


class InfiniteSampler(_RankSampler):
    """A dataset over and over, shared out among the ranks, for training by iterations.

    Pass k over the dataset is torch's random permutation from `seed + k`, so that a run can be resumed at any sample
    without going through those before. (mmengine draws all passes from one generator: only its first pass is the same.)
    Every iteration starts at the first pass.

    Args:
        dataset: Anything with a length.
        shuffle: Permute, a new permutation in every pass.
        seed: Seed of the permutations; None takes the loader's seed, else one that all ranks agree on at the first
            iteration (collective: every rank must iterate).

    Raises:
        ValueError: The dataset is empty.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)

    def index_blocks(self, start: int = 0, epoch: int | None = None) -> Iterator[np.ndarray]:
        """Yield this rank's indices without end, one array a pass, without the first `start`; `epoch` is ignored."""
        position = start * self.world_size + self.rank  # in the endless stream of all ranks
        while True:
            number, offset = divmod(position, self.size)
            seed = self._resolved_seed() + number
            indices = _permutation(self.size, seed) if self.shuffle else np.arange(self.size)
            block = indices[offset :: self.world_size]
            yield block
            position += len(block) * self.world_size

    def __len__(self) -> int:
        """Number of samples of the dataset: what one pass of all ranks takes."""
        return self.size

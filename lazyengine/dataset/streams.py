"""The global random streams of python, numpy and torch while a batch is read.

Costs count here, once a batch: `torch.manual_seed` takes a hundred times as long as the CPU generator's own method, and
reading the state of numpy's or python's generator takes longer than seeding all three (numpy's is exchanged instead).
"""

import random
from typing import Self

import numpy as np
import torch
from numpy.random import mtrand  # where numpy keeps the functions its type stubs forget

_BATCH_BITS = np.random.MT19937(0)  # numpy's global functions draw from it while the main process reads a batch


def seed_streams(seed: int) -> None:
    """Seed python's, numpy's and torch's (CPU) global generators.

    Args:
        seed: In `[0, 2**63)`; numpy gets its lower 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


class SeededStreams:
    """Within the context the streams start from a seed; after it torch's and numpy's go on as if nothing had happened.

    Python's goes on from where the context left it: also a function of the seed, but not what it would have been. Lost
    is the second normal variate that numpy's legacy generator may have kept back.

    Args:
        seed: See `seed_streams`.
    """

    __slots__ = ("_numpy", "_seed", "_torch")

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> Self:
        self._torch = torch.default_generator.get_state()
        self._numpy = mtrand.get_bit_generator()
        mtrand.set_bit_generator(_BATCH_BITS)
        seed_streams(self._seed)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.default_generator.set_state(self._torch)
        mtrand.set_bit_generator(self._numpy)

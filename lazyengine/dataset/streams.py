"""The global random streams of python, numpy and torch while a batch is read.

Costs count here, once a batch: `torch.manual_seed` takes a hundred times as long as the CPU generator's own method, and
reading the state of numpy's or python's generator takes longer than seeding all three (numpy's is exchanged instead).
"""

import functools
import random
from typing import Any, Self

import numpy as np
import torch


@functools.cache
def _numpy_generator() -> tuple[Any, Any]:
    """Return the module with numpy's global generator, and the bits it draws from while the main process reads."""
    from numpy.random import MT19937, mtrand  # numpy imports it late too; it takes 10 ms

    return mtrand, MT19937(0)


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
        mtrand, bits_of_batches = _numpy_generator()
        self._numpy = mtrand.get_bit_generator()
        mtrand.set_bit_generator(bits_of_batches)
        seed_streams(self._seed)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.default_generator.set_state(self._torch)
        _numpy_generator()[0].set_bit_generator(self._numpy)

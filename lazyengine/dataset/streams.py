"""The global random streams of python, numpy and torch while a batch is read.

Costs count here, once a batch: `torch.manual_seed` takes a hundred times as long as the CPU generator's own method, and
reading the state of numpy's or python's generator takes longer than reading a small batch.
"""

import random
from typing import Any, Self

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


class _PythonStream:
    """Reads the state of python's generator, which takes 9 us, only when somebody has drawn from it since.

    To find out, one word is drawn and compared with the one that must follow the state read last. The caller seeds the
    generator next and sets the state afterwards, so the drawn word is given back.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = (3, (), 0.0)
        self._next_word: int | None = None

    def read(self) -> tuple[Any, ...]:
        word = random.getrandbits(32)
        if word != self._next_word or self._state[2] is not None:  # [2]: a normal variate kept for the next call
            version, (*key, position), kept_variate = random.getstate()
            self._state = (version, (*key, position - 1), kept_variate)
            self._next_word = word
        return self._state


_PYTHON_STREAM = _PythonStream()


class SeededStreams:
    """Within the context the streams start from a seed; after it they go on as if nothing had happened.

    One thing is lost: the second normal variate that numpy's legacy generator may have kept back.

    Args:
        seed: See `seed_streams`.
    """

    __slots__ = ("_numpy", "_python", "_seed", "_torch")

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> Self:
        self._torch = torch.default_generator.get_state()
        self._python = _PYTHON_STREAM.read()
        self._numpy = mtrand.get_bit_generator()
        mtrand.set_bit_generator(_BATCH_BITS)
        seed_streams(self._seed)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.default_generator.set_state(self._torch)
        random.setstate(self._python)
        mtrand.set_bit_generator(self._numpy)

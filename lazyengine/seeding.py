"""Randomness as a function: every random stream is derived from the run's seed and a position, never carried along."""

from __future__ import annotations

import contextlib
import enum
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch

_MASK = (1 << 64) - 1
# Domain tags: the first element of the path, so that streams of different purposes never coincide.
DATA_STREAM, MODEL_STREAM, SAMPLER_STREAM = 1, 2, 3


class Purpose(enum.IntEnum):
    """What a random stream is for.

    The first ones are the stream inside the model and of hooks: of an iteration, of a batch of an evaluation, and of
    the points around these where user code runs. Numbers are never changed: a later version has to draw the same.
    """

    TRAIN = 0
    VAL = 1
    TEST = 2
    BEFORE_TRAIN_EPOCH = 3
    AFTER_TRAIN_EPOCH = 4
    BEFORE_TRAIN = 5
    AFTER_TRAIN = 6
    BEFORE_VAL = 7
    BEFORE_VAL_EPOCH = 8
    AFTER_VAL_EPOCH = 9
    AFTER_VAL = 10
    BEFORE_TEST = 11
    BEFORE_TEST_EPOCH = 12
    AFTER_TEST_EPOCH = 13
    AFTER_TEST = 14
    BEFORE_RUN = 15
    AFTER_RUN = 16
    OWN = 17  # what a train loop of the user's draws before an iteration
    DATA = 100  # reading and collating a batch
    WORKERS = 101  # torch's base seed of a loader's workers
    SAMPLER = 102  # what a sampler draws at the beginning of an epoch, the same on all ranks


def stream_seed(seed: int, purpose: Purpose, *, epoch: int = 0, position: int = 0, rank: int = 0) -> int:
    """Return the seed of the random stream of one point of a run.

    Args:
        seed: The seed of the run, any integer.
        purpose: What is drawn there.
        epoch: The epoch of the data; the streams of the model are told apart by `position` alone.
        position: For `DATA` the batch in the epoch; for `TRAIN` the iteration of the run; for `VAL` and `TEST` the
            batch in the evaluation; for points around an epoch its number; for those around an evaluation 0, so that it
            draws the same inside training and alone.
        rank: The rank that draws; `SAMPLER` ignores it.

    Returns:
        An integer in ``[0, 2**63)``, the same on every platform and in every process.
    """
    if purpose is Purpose.WORKERS:
        return derive_seed(seed, DATA_STREAM, epoch, rank)
    if purpose is Purpose.SAMPLER:
        return derive_seed(seed, SAMPLER_STREAM, epoch)
    return derive_seed(_base_of(seed, purpose, epoch), position, rank)


def _base_of(seed: int, purpose: Purpose, epoch: int) -> int:
    """Return what all positions of a stream of the data or of the model are derived from."""
    if purpose is Purpose.DATA:
        return _mix(seed, DATA_STREAM, epoch)
    return derive_seed(seed, MODEL_STREAM, purpose)


def derive_seed(seed: int, *path: int) -> int:
    """Mix a seed and a position into one well-spread 63-bit seed.

    Uses the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014) once for each element, so that neighbouring positions give unrelated streams.

    Args:
        seed: The seed of the run, any integer.
        *path: What the stream is for and where it stands, for example ``(DATA_STREAM, epoch, batch, rank)``.

    Returns:
        An integer in ``[0, 2**63)``, the same on every platform and in every process.
    """
    return _mix(seed, *path) >> 1


def _mix(h: Any, *path: Any) -> Any:
    """Mix integers below 2**64, or arrays of them (np.uint64, which wrap around)."""
    h &= _MASK
    for part in path:
        h = (h + ((0x9E3779B97F4A7C15 + part * 0xD1342543DE82EF95) & _MASK)) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h


class Seeds:
    """The seeds of one stream by position, each of the value that `stream_seed` gives it.

    They are derived 64 at a time: asking for one position after another costs a fifth of deriving each alone.

    Args:
        seed: The seed of the run.
        purpose: What is drawn: `DATA`, or one of the model's.
        epoch: For `DATA`.
        rank: The rank that draws.
    """

    __slots__ = ("_base", "_block", "_first", "_rank")

    def __init__(self, seed: int, purpose: Purpose, *, epoch: int = 0, rank: int = 0) -> None:
        self._base, self._rank = _base_of(seed, purpose, epoch), rank
        self._first, self._block = 0, list[int]()

    def __getitem__(self, position: int) -> int:
        place = position - self._first
        if not 0 <= place < len(self._block):
            positions = np.arange(position, position + 64, dtype=np.uint64)
            self._first, self._block, place = position, (_mix(self._base, positions, self._rank) >> 1).tolist(), 0
        return self._block[place]


# Costs count in the following, twice an iteration: `torch.manual_seed` takes a hundred times as long as the CPU
# generator's own method, and reading the state of numpy's or python's generator takes longer than seeding all three
# (numpy's is exchanged instead). Who seeds all of them after each batch, as a run does, has nothing put back.
@functools.cache
def _numpy_generator() -> tuple[Any, Any]:
    """Return the module with numpy's global generator, and the bits it draws from while the main process reads."""
    from numpy.random import MT19937, mtrand  # numpy imports it late too; it takes 10 ms

    return mtrand, MT19937(0)


_PYTHON: Any = random.seed.__self__  # type: ignore[attr-defined]  # whose methods the functions of `random` are
_seed_from_int: Any = super(random.Random, _PYTHON).seed  # pyright: ignore[reportAttributeAccessIssue]


def _seed_python(seed: int) -> None:
    """Do what ``random.seed`` does with an int, without asking first what it is: that takes a third of the time."""
    _seed_from_int(seed)
    _PYTHON.gauss_next = None


def _seed_numpy(seed: int) -> None:
    """Do what ``np.random.seed`` does, without its detour, which takes three microseconds between other code."""
    try:
        _numpy_generator()[0]._rand.seed(seed & 0xFFFFFFFF)
    except TypeError:  # somebody has put other bits under numpy's global generator
        np.random.seed(seed & 0xFFFFFFFF)


def seed_streams(seed: int) -> None:
    """Seed python's, numpy's and torch's (CPU) global generators.

    Args:
        seed: In `[0, 2**63)`; numpy gets its lower 32 bits.
    """
    _seed_python(seed)
    _seed_numpy(seed)
    torch.default_generator.manual_seed(seed)


class KeptStreams:
    """After the context, whose first act is to seed the streams, torch's and numpy's go on as if it had not been.

    Python's goes on from where the context left it: also a function of the seed, but not what it would have been. Lost
    is the second normal variate that numpy's legacy generator may have kept back.
    """

    __slots__ = ("_numpy", "_torch")

    def __enter__(self) -> Self:
        self._torch = torch.default_generator.get_state()
        mtrand, bits_of_batches = _numpy_generator()
        self._numpy = mtrand.get_bit_generator()
        mtrand.set_bit_generator(bits_of_batches)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.default_generator.set_state(self._torch)
        _numpy_generator()[0].set_bit_generator(self._numpy)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices) from one integer."""
    seed_streams(seed)
    torch.manual_seed(seed)


class ModelStream:
    """The random stream of user code outside the loader (dropout, hooks): a function of seed, purpose, position, rank.

    Nothing is carried from one iteration to the next, so nothing has to be saved, and neither validation nor the
    number of loader workers moves the stream of training.

    Args:
        seed: The seed of the run.
        device: The device of the model; its generator is seeded beside the CPU's.
        rank: The rank of this process.
    """

    def __init__(self, seed: int, device: torch.device, rank: int) -> None:
        self._seeds = {each.name.lower(): Seeds(seed, each, rank=rank) for each in Purpose if each < Purpose.DATA}
        self._torch = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            self._torch.append(torch.cuda.default_generators[device.index or 0])
        self._seeders: list[Callable[[int], Any]] = [*(g.manual_seed for g in self._torch), _seed_python, _seed_numpy]

    def seed(self, position: int, purpose: str = "train") -> None:
        """Seed the streams for a position: ``train``, ``val``, ``test`` (batches), or a hook point around them."""
        seed = self._seeds[purpose][position]
        for seeder in self._seeders:
            seeder(seed)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Let the streams go on after the block as if it had not been."""
        states = [generator.get_state() for generator in self._torch]
        of_python, of_numpy = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            for generator, state in zip(self._torch, states):
                generator.set_state(state)
            random.setstate(of_python)
            np.random.set_state(of_numpy)

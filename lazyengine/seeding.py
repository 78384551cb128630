"""Randomness as a function: every random stream is derived from the run's seed and a position, never carried along."""

_MASK = (1 << 64) - 1
# Domain tags: the first element of the path, so that streams of different purposes never coincide.
DATA_STREAM, MODEL_STREAM, SAMPLER_STREAM = 1, 2, 3


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
    return mix(seed, *path) >> 1


def mix(state: int, *path: int) -> int:
    """Return the 64-bit state behind `derive_seed` after some elements of a path, from which more may be mixed in."""
    h = state & _MASK
    for part in path:
        h = (h + 0x9E3779B97F4A7C15 + part * 0xD1342543DE82EF95) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h

"""What accelerators can compute and hold at most, by the data sheets of their makers."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """A kind of accelerator.

    Attributes:
        name: Part of the name that its driver gives it.
        half: FLOP/s of dense products in bfloat16 (of older ones, float16).
        single: FLOP/s in float32, without TF32, which torch leaves off.
        memory_gib: Memory in GiB.
    """

    name: str
    half: float
    single: float
    memory_gib: int

    def peak(self, dtype: str) -> float:
        """Return the FLOP/s in ``"bfloat16"``, ``"float16"`` or else."""
        return self.half if dtype in ("bfloat16", "float16") else self.single


DEVICES = (
    Device("H200", 989e12, 67e12, 141),
    Device("H100", 989e12, 67e12, 80),
    Device("B200", 2250e12, 80e12, 180),
    Device("A100", 312e12, 19.5e12, 80),
    Device("A10", 125e12, 31.2e12, 24),
    Device("L40S", 362e12, 91.6e12, 48),
    Device("L4", 121e12, 30.3e12, 24),
    Device("V100", 125e12, 15.7e12, 32),
    Device("T4", 65e12, 8.1e12, 16),
    Device("RTX 4090", 165e12, 82.6e12, 24),
    Device("RTX 3090", 71e12, 35.6e12, 24),
    Device("MI300X", 1307e12, 163e12, 192),
)


def find_device(name: str) -> Device | None:
    """Return the kind whose name is part of `name` as a driver gives it, such as ``"NVIDIA H100 80GB HBM3"``."""
    words = name.upper().replace("-", " ").split()
    return next((each for each in DEVICES if all(part.upper() in words for part in each.name.split())), None)

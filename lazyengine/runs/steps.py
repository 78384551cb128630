"""Optimizer steps of runs that are laid out otherwise, which differ in the order of summation alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .reading import Run
from .replaying import Replay

_CHUNK, _BUCKETS = 1 << 16, 64
_GROWTH = 10.0
"""What a step may make of the difference that the weights had before it."""
_KINDS = ("parameters", "buffers", "loss", "gradient", "update")


@dataclass
class OptimizerStep:
    """What an optimizer step was made of, over its ranks and its accumulated batches.

    Attributes:
        number: Its number, counted from 0.
        samples: Where the samples came from, sorted; None where somebody does not know.
        values: Sketches (see `sketch`) and losses, by kind and name.
        order_noise: The relative difference of gradients that another order of the samples makes.
    """

    number: int
    samples: list[str] | None
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    order_noise: float = 0.0


def accumulation_of(run: Run) -> int:
    """Return how many batches are accumulated for an optimizer step, of several optimizers the most."""
    found = [value for path, value in run.config.items() if path.endswith(".accumulative_counts")]
    return max((int(value) for value in found if value.isdigit()), default=1)


def as_steps(iterations: Sequence[Replay], accumulation: int) -> list[OptimizerStep]:
    """Return the optimizer steps of iterations that were made again, all of each."""
    return [
        _as_step(iterations[begin : begin + accumulation], accumulation)
        for begin in range(0, len(iterations), accumulation)
    ]


def _as_step(batches: Sequence[Replay], accumulation: int) -> OptimizerStep:
    ranks = [rank for batch in batches for rank in batch.ranks]
    sources = [source for rank in ranks for source in rank["samples"].values()]
    is_known = not any("unknown" in source for source in sources)
    samples = sorted(place for source in sources for place in source["from"]) if is_known else None
    step = OptimizerStep(batches[0].iteration // accumulation, samples)
    step.order_noise = max((rank.get("order_noise", 0.0) for rank in ranks), default=0.0)
    first, last = batches[0].ranks[0], batches[-1].ranks[0]
    for entries, kinds in ((first, ("parameters", "buffers")), (last, ("gradient", "update"))):
        step.values.update({(kind, name): value for kind, name, value in entries.get("trace", ()) if kind in kinds})
    for name in ranks[0].get("values", {}):
        losses = [rank["values"][name] for rank in ranks if name in rank.get("values", {})]
        step.values["loss", name] = [sum(losses) / len(losses)]
    return step


def first_difference_above(
    one: OptimizerStep, other: OptimizerStep, tolerance: float, former: float
) -> tuple[str, str] | None:
    """Return kind and name of the first thing in two steps that differs by more than rounding; None for nothing.

    Args:
        one: A step.
        other: The same of the other run.
        tolerance: The relative difference that is always allowed.
        former: The relative difference of the weights behind the step before.
    """
    if one.samples is not None and other.samples is not None and one.samples != other.samples:
        mine, theirs = set(one.samples) - set(other.samples), set(other.samples) - set(one.samples)
        return "batch", f"{', '.join(sorted(mine)[:3]) or 'none'} | {', '.join(sorted(theirs)[:3]) or 'none'}"
    allowed = max(tolerance, _GROWTH * former)
    for kind in _KINDS:
        distances = distances_of(one, other, kind)
        for name, distance in distances.items():
            if distance > allowed:
                return kind, f"{name} (by {distance:.1e})".lstrip()
        if kind == "parameters":
            allowed = max(allowed, _GROWTH * max(distances.values(), default=0.0))
    return None


def distances_of(one: OptimizerStep, other: OptimizerStep, kind: str) -> dict[str, float]:
    """Return the relative differences of all things of a kind, by name."""
    return {key[1]: _distance(value, other.values.get(key)) for key, value in one.values.items() if key[0] == kind}


def _distance(one: list[float], other: list[float] | None) -> float:
    if other is None:
        return math.inf
    size = max(math.hypot(*one), math.hypot(*other))
    if not math.isfinite(size):
        return 0.0 if repr(one) == repr(other) else math.inf
    return math.dist(one, other) / size if size else 0.0


# ------------------------------------------------------------------------------- inside the process that is looked at
def sketch(named: Iterable[tuple[str, Tensor | None]], is_each: bool) -> list[tuple[str, list[float]]]:
    """Return 64 numbers for each tensor, or for all together, whose distance is about that of what they stand for.

    They are sums of the elements with random signs: the difference of two sketches is as long as that of the tensors,
    within about 10 %, with no more rounding than float64 has.

    Args:
        named: Tensors by name; None, and those without numbers, are left out.
        is_each: Whether each has a sketch of its own; else one called ``""`` stands for all.
    """
    found: list[tuple[str, list[float]]] = []
    total = torch.zeros(_BUCKETS, dtype=torch.float64)
    for name, tensor in named:
        if tensor is None or not tensor.is_floating_point():
            continue
        own: Tensor = getattr(tensor, "to_local", lambda tensor=tensor: tensor)()
        signs = _signs(name)
        sums = torch.zeros(_BUCKETS, dtype=torch.float64)
        for part in own.detach().reshape(-1).split(_CHUNK):
            signed = part.double().cpu() * signs[: len(part)]
            padded = torch.nn.functional.pad(signed, (0, -len(signed) % _BUCKETS))
            sums += padded.view(-1, _BUCKETS).sum(0)
        total += sums
        if is_each:
            found.append((name, sums.tolist()))
    return found if is_each else [("", total.tolist())]


def _signs(name: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (_CHUNK,), generator=generator, dtype=torch.int8).double() * 2 - 1

"""How much of a result an option explains."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MAX_GROUPS = 5


def explained_variance(options: Sequence[str], results: Sequence[float]) -> float | None:
    """Return the share of the variance of results that an option alone explains, from 0 to 1 (adjusted eta squared).

    Results are grouped by the option; numbers of many values by their rank into five groups of one size. Chance is
    taken off, so that an option without influence has 0 in the mean. What options do together is not seen.

    Args:
        options: The option of each run as text.
        results: Its result; what is not finite is left out.

    Returns:
        None where there is only one group, as many groups as runs, or no variance.
    """
    pairs = [(option, result) for option, result in zip(options, results) if math.isfinite(result)]
    groups = _groups([option for option, _ in pairs])
    if not 1 < len(set(groups)) < len(pairs):
        return None
    values = [result for _, result in pairs]
    mean = math.fsum(values) / len(values)
    total = math.fsum((value - mean) ** 2 for value in values)
    if total == 0:
        return None
    within = 0.0
    for group in set(groups):
        members = [value for value, each in zip(values, groups) if each == group]
        middle = math.fsum(members) / len(members)
        within += math.fsum((value - middle) ** 2 for value in members)
    left = (within / (len(values) - len(set(groups)))) / (total / (len(values) - 1))
    return min(1.0, max(0.0, 1 - left))


def _groups(options: Sequence[str]) -> list[object]:
    try:
        numbers = [float(option) for option in options]
    except ValueError:
        return list(options)
    known = sorted(set(numbers))
    if len(known) <= _MAX_GROUPS:
        return list(numbers)
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    groups: list[object] = [None] * len(numbers)
    for rank, i in enumerate(order):
        groups[i] = rank * _MAX_GROUPS // len(numbers)
    return groups

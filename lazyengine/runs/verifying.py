"""Whether two runs are the same: every record, and the final state."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..checkpoint import list_checkpoints, or_none, read_checkpoint, summary_of
from ..nesting import iter_leaves
from ..text import short
from .reading import MEASURED, PLACE

_STATES = ("state_dict", "ema_state_dict", "optimizer")


def find_difference(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], is_whole: bool = True
) -> str | None:
    """Return at which record two runs part and by what, or None.

    Records are compared by mode and step, since a validation that a resume repeats is recorded later.

    Args:
        old: Records of the run.
        new: Records of the one that should be the same.
        is_whole: Whether there may be no more new ones than old ones.
    """
    before, after = _by_position(old), _by_position(new)
    for number, position in enumerate(sorted(before), 1):
        where = f"record {number} of {len(before)}, {position[1]} at step {position[0]}"
        if position not in after:
            return f"{where}: is missing"
        one, other = before[position], after[position]
        for key in dict.fromkeys([*one, *other]):
            if not is_same(one.get(key), other.get(key)):
                return f"{where}: {key} was {short(one.get(key), 40)} and is {short(other.get(key), 40)}"
    more = sorted(after.keys() - before.keys())
    if is_whole and more:
        return f"after the last record: {len(more)} more, the first is {more[0][1]} at step {more[0][0]}"
    return None


def _by_position(records: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str, int], dict[str, Any]]:
    found: dict[tuple[int, str, int], dict[str, Any]] = {}
    for record in records:
        if all(key in PLACE or key.rpartition("/")[2] in MEASURED for key in record):
            continue
        number = 0
        while (position := (record["step"], record["mode"], number)) in found:
            number += 1
        found[position] = {key: value for key, value in record.items() if key.rpartition("/")[2] not in MEASURED}
    return found


def is_same(one: Any, other: Any) -> bool:
    """Return whether two recorded values are equal to the bit."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def checkpoints_of(
    folders: Sequence[str | os.PathLike[str]], run_id: str = "", iteration: int | None = None
) -> list[tuple[str, int]]:
    """Return the checkpoints in folders that one can go on from, newest first, with their iterations.

    Args:
        folders: The run folder, and others that its checkpoints may be in.
        run_id: The run that wrote them; empty for any.
        iteration: Their position; None for any.
    """
    found = []
    for path in list_checkpoints(*folders):
        summary = or_none(summary_of, path)
        if summary is None or "optimizer" not in summary.keys:
            continue
        if run_id in ("", summary.run_id) and iteration in (None, summary.iter):
            found.append((path, summary.iter))
    return found


def hash_of_state(path: str | os.PathLike[str]) -> str:
    """Return a hash over weights and the state of the optimizer in a checkpoint, bit for bit."""
    checkpoint = read_checkpoint(path)
    return hash_of({name: checkpoint.get(name) for name in _STATES})


def hash_of(value: Any) -> str:
    """Return a hash over a nested value, bit for bit; of objects that are no data, the class alone counts."""
    sha = hashlib.sha256()
    for where, leaf in sorted(iter_leaves(value), key=lambda item: item[0]):
        sha.update(where.encode(errors="backslashreplace"))
        if isinstance(leaf, torch.Tensor):
            own: torch.Tensor = getattr(leaf, "to_local", lambda leaf=leaf: leaf)()  # of FSDP2: this rank's part
            data = own.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            sha.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode() + data.tobytes())
        elif isinstance(leaf, np.ndarray):
            sha.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
        else:
            is_data = leaf is None or isinstance(leaf, int | float | complex | str | bytes | np.generic)
            sha.update((repr(leaf) if is_data else type(leaf).__qualname__).encode(errors="backslashreplace"))
    return sha.hexdigest()

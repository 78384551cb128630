"""Where two runs part: by what they recorded, by their checkpoints, then by making the interval again side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ..text import listed
from .comparing import differences
from .reading import MEASURED, Run, read_run
from .replaying import Replay, origin_iter, replay_range
from .rerunning import chain_of, code_differences, end_of, folders_of
from .verifying import checkpoints_of, hash_of_state, is_same

ORDER = (
    *("batch", "parameters", "buffers", "state of the optimizer", "output", "not finite", "loss", "gradient", "update"),
    "random streams",
)
"""In which order the things of an iteration are compared."""
_SHORT = 16
"""Intervals of so many iterations are looked at closely at once."""
_ABOUT_START = ("python", "torch", "platform", "world_size", "num_threads", "device", "gpu", "packages", "variables")


@dataclass
class Bisection:
    """Where two runs part.

    Attributes:
        iteration: The first iteration, counted from 0, in which something differs; None where nothing does.
        kind: What differs first, one of `ORDER`.
        name: Which of them, with the rank where there are several.
        interval: The iterations that records and checkpoints left to be made again, from and before.
        num_replays: How often a part of each of the runs was made again.
        differences: What differs in their configs, code and environments.
    """

    iteration: int | None
    kind: str = ""
    name: str = ""
    interval: tuple[int, int] = (0, 0)
    num_replays: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.iteration is None

    def as_text(self) -> str:
        """Return it as lines."""
        lines = ["equal"] if self.is_equal else [f"iteration {self.iteration}: {self.kind}: {self.name}"]
        how = f"{self.num_replays} replays of each" if self.num_replays else "by records and checkpoints alone"
        lines.append(f"looked at iterations {self.interval[0]} to {self.interval[1] - 1}, {how}")
        return "\n".join([*lines, *self.differences])


def bisect(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    report: Callable[[str], object] = lambda line: None,
) -> Bisection:
    """Return the first iteration in which two runs differ, and the first thing in it.

    Args:
        first: A run folder.
        second: Another one. It may have other code, another config, another number of workers.
        report: Called with a line about what is being done.

    Raises:
        RuntimeError: An interval of one of them cannot be made again; says what is missing.
    """
    runs = (read_run(first), read_run(second))
    begin, end, is_known = _interval(runs)
    found = Bisection(None, interval=(begin, end), differences=_differences(runs))
    if is_known or begin >= end:
        return found

    def make(iterations: Sequence[int], is_traced: bool) -> list[tuple[Replay, Replay]]:
        found.num_replays += 1
        return list(zip(*(replay_range(run.path, iterations, trace=is_traced, report=report) for run in runs)))

    is_short = end - begin <= _SHORT
    pairs = make(range(begin, end), is_short)
    parted = next((one.iteration for one, other in pairs if first_difference(one, other) is not None), None)
    if parted is None:
        return found
    found.iteration, found.kind, found.name = parted, "it differs", "but not when it was made again"
    closer = pairs if is_short else make(range(max(begin, parted - 1), parted + 1), True)
    for one, other in closer:
        if (difference := first_difference(one, other)) is not None:
            found.iteration, (found.kind, found.name) = one.iteration, difference
            break
    return found


def first_difference(one: Replay, other: Replay) -> tuple[str, str] | None:
    """Return kind and name of the first thing that differs in an iteration of two runs; None where nothing does."""
    if len(one.ranks) != len(other.ranks):
        return "batch", f"it is shared among {len(one.ranks)} and {len(other.ranks)} ranks"
    found = []
    for rank, (mine, theirs) in enumerate(zip(one.ranks, other.ranks)):
        where = f" on rank {rank}" if len(one.ranks) > 1 else ""
        entries = [sorted(each.get("trace", ()), key=lambda entry: ORDER.index(entry[0])) for each in (mine, theirs)]
        for number, (a, b) in enumerate(zip_longest(*entries)):
            if a != b:
                kinds = [entry[0] for entry in (a, b) if entry is not None]
                names = dict.fromkeys(entry[1] for entry in (a, b) if entry is not None)
                found.append((ORDER.index(kinds[0]), number, kinds[0], " / ".join(names) + where))
                break
        if mine.get("error") != theirs.get("error"):
            found.append((len(ORDER), 0, "error", (mine.get("error") or theirs.get("error") or "") + where))
    return min(found)[2:] if found else None


def _interval(runs: tuple[Run, Run]) -> tuple[int, int, bool]:
    """Return the iterations among which two runs part, from and before, and whether they are known not to."""
    saved = [{at: path for path, at in reversed(checkpoints_of(folders_of(run)))} for run in runs]
    common = sorted(saved[0].keys() & saved[1].keys())
    low, high = 0, len(common)
    while low < high:  # the first checkpoint that differs
        middle = (low + high) // 2
        if hash_of_state(saved[0][common[middle]]) == hash_of_state(saved[1][common[middle]]):
            low = middle + 1
        else:
            high = middle
    begin = common[low - 1] if low else max(origin_iter(chain_of(run)[0]) for run in runs)
    ends = [common[low]] if low < len(common) else []
    differing = [step for step in _differing_steps(runs) if step > begin]
    if ends or differing:
        return begin, min([*ends, *differing]), False
    last = min(map(_last_of, runs))
    return begin, last, begin >= last


def _last_of(run: Run) -> int:
    last = chain_of(run)[-1]
    recorded = [int(record["step"]) for record in run.records if record["mode"] == "train"]
    return max(*recorded[-1:], 0, int((last.ended or {}).get("iter", end_of(run, last)) or 0))


def _differing_steps(runs: tuple[Run, Run]) -> list[int]:
    """Return the step of the first record that both have, and that differs; nothing where none does."""
    by_position = [{(record["step"], record["mode"]): record for record in run.records} for run in runs]
    for position in sorted(by_position[0].keys() & by_position[1].keys()):
        one, other = (records[position] for records in by_position)
        names = [name for name in one.keys() & other.keys() if name.rpartition("/")[2] not in MEASURED]
        if any(not is_same(one[name], other[name]) for name in names):
            return [position[0]]
    return []


def _differences(runs: tuple[Run, Run]) -> list[str]:
    """Return what differs in config, code and environment, as lines."""
    lines = [f"config: {path}: {' | '.join(values)}" for path, values in differences(runs).items()]
    starts = [chain_of(run)[-1] for run in runs]
    lines += code_differences(runs, starts)
    was, now = (start.env() for start in starts)
    for key in _ABOUT_START:
        if was.get(key) != now.get(key):
            lines.append(f"environment: {key}: {_other_entries(was.get(key), now.get(key))}")
    return lines


def _other_entries(was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        return listed(f"{name} {was.get(name)} | {now.get(name)}" for name in names)
    return f"{was} | {now}"

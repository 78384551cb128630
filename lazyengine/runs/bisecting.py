"""Where two runs part: by what they recorded, by their checkpoints, then by making the interval again side by side."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ..errors import UsageValueError
from ..hooks import FINGERPRINTS
from ..text import listed
from .comparing import differences
from .reading import MEASURED, Run, read_run
from .replaying import Replay, origin_iter, replay_range, window_of
from .rerunning import chain_of, code_differences, end_of, folders_of
from .steps import OptimizerStep, accumulation_of, as_steps, distances_of, first_difference_above
from .verifying import checkpoints_of, hash_of_state, is_same

ORDER = (
    *("batch", "parameters", "buffers", "state of the optimizer", "averaged weights", "output", "not finite", "loss"),
    *("gradient", "update", "random streams"),
)
"""In which order the things of an iteration are compared."""
_SHORT = 16
"""Intervals of so many iterations are looked at closely at once."""
_ABOUT_START = ("python", "torch", "platform", "world_size", "num_threads", "device", "gpu", "packages", "variables")


@dataclass
class Bisection:
    """Where two runs part.

    Attributes:
        iteration: The first iteration, counted from 0, in which something differs; None where nothing does. Of runs
            that are laid out otherwise, it is the number of the optimizer step.
        kind: What differs first, one of `ORDER`; ``"records"`` where what was recorded or saved differs, and the
            iterations do not when they are made again.
        name: Which of them, with the rank where there are several; of records, the first with both of its values.
        interval: The iterations that records and checkpoints left to be made again, from and before.
        num_replays: How often a part of each of the runs was made again.
        differences: What differs in their configs, code and environments.
        tolerance: The relative difference from which on one counted; None where every bit did.
    """

    iteration: int | None
    kind: str = ""
    name: str = ""
    interval: tuple[int, int] = (0, 0)
    num_replays: int = 0
    differences: list[str] = field(default_factory=list)
    tolerance: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.iteration is None

    def as_text(self) -> str:
        """Return it as lines."""
        unit = "iteration" if self.tolerance is None else "optimizer step"
        lines = ["equal"] if self.is_equal else [f"{unit} {self.iteration}: {self.kind}: {self.name}"]
        looked = f"looked at {unit}s {self.interval[0]} to {self.interval[1] - 1}, {self.num_replays} replays of each"
        alone = f"by what was recorded up to {unit} {self.interval[0]} alone; --whole makes all iterations again"
        lines.append(looked if self.num_replays else alone)
        if self.tolerance is not None:
            lines.append(f"relative differences up to {self.tolerance:.1e} are that of another order of summation")
        return "\n".join([*lines, *self.differences])


def bisect(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    whole: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> Bisection:
    """Return the first iteration in which two runs differ, and the first thing in it.

    What was recorded is read first, and only the iterations that it leaves in question are made again. A difference
    that fades before anything is recorded is found with `whole` alone.

    Runs with other numbers of ranks or of accumulated batches add up in another order. Of these, optimizer steps are
    compared, and a difference counts that is above a tolerance, and ten times what the weights differed by before the
    step.

    Args:
        first: A run folder.
        second: Another one. It may have other code, another config, another number of workers or ranks.
        tolerance: The relative difference from which on one counts. None: every bit does or, where the runs are laid
            out otherwise, ten times the difference that the samples of a batch in reverse order make.
        whole: Whether to make every iteration again up to the first that is known to differ.
        report: Called with a line about what is being done.

    Raises:
        ValueError: The tolerance is not positive.
        RuntimeError: An interval of one of them cannot be made again; says what is missing.
    """
    if tolerance is not None and not tolerance > 0:
        raise UsageValueError(f"tolerance={tolerance}: expected a relative difference above 0, such as 1e-5.")
    runs = (read_run(first), read_run(second))
    found = Bisection(None, differences=_differences(runs), tolerance=tolerance)
    if tolerance is not None or _layout(runs[0]) != _layout(runs[1]):
        _compare_steps(runs, found, report)
    else:
        _compare_iterations(runs, found, whole, report)
    return found


def _compare_iterations(runs: tuple[Run, Run], found: Bisection, whole: bool, report: Callable[[str], object]) -> None:
    begin, end, sign = _interval(runs, whole)
    found.interval = (begin, end)
    if begin >= end:
        return

    def make(iterations: Sequence[int], is_traced: bool) -> list[tuple[Replay, Replay]]:
        found.num_replays += 1
        return list(zip(*(replay_range(run.path, iterations, trace=is_traced, report=report) for run in runs)))

    is_short = end - begin <= _SHORT
    pairs = make(range(begin, end), is_short)
    parted = next((one.iteration for one, other in pairs if first_difference(one, other) is not None), None)
    if parted is None and not sign:
        return
    found.iteration = end - 1 if parted is None else parted
    found.kind, found.name = "records", f"{sign}; when both are made again here, they do not differ"
    if parted is None:
        return
    hidden = max(map(accumulation_of, runs))  # so long, gradients alone may differ
    closer = pairs if is_short else make(range(max(begin, parted - hidden), parted + 1), True)
    for one, other in closer:
        if (difference := first_difference(one, other)) is not None:
            found.iteration, (found.kind, found.name) = one.iteration, difference
            break


def _layout(run: Run) -> tuple[int, int]:
    return int(chain_of(run)[-1].env().get("world_size", 1)), accumulation_of(run)


def _compare_steps(runs: tuple[Run, Run], found: Bisection, report: Callable[[str], object]) -> None:
    counts = [accumulation_of(run) for run in runs]
    begin = max(-(-origin_iter(chain_of(run)[0]) // count) for run, count in zip(runs, counts))
    end = min(_last_of(run) // count for run, count in zip(runs, counts))
    found.interval = (begin, end)
    if begin >= end:
        return

    def make(begin: int, end: int, is_traced: bool) -> list[tuple[OptimizerStep, OptimizerStep]]:
        found.num_replays += 1
        both = []
        for run, count in zip(runs, counts):
            iterations = range(begin * count, end * count)
            both.append(
                as_steps(replay_range(run.path, iterations, sketch=True, trace=is_traced, report=report), count)
            )
        return list(zip(*both))

    pairs = make(begin, end, False)
    tolerance = found.tolerance or 10 * max(each.order_noise for each in pairs[0])
    found.tolerance, former = tolerance, 0.0
    for one, other in pairs:
        if first_difference_above(one, other, tolerance, former) is not None:
            ((one, other),) = make(one.number, one.number + 1, True)
            found.iteration, (found.kind, found.name) = one.number, ("it differs", "in all its parts together")
            if (difference := first_difference_above(one, other, tolerance, former)) is not None:
                found.kind, found.name = difference
            return
        former = max(distances_of(one, other, "update").values(), default=0.0)


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


def _interval(runs: tuple[Run, Run], whole: bool) -> tuple[int, int, str]:
    """Return the iterations among which two runs may part, from and before, and what that was recorded says so."""
    start, last = max(origin_iter(chain_of(run)[0]) for run in runs), min(map(_last_of, runs))
    signs = [sign for sign in (_by_records(runs), _by_fingerprints(runs)) if sign is not None]
    saved = [{at: path for path, at in reversed(checkpoints_of(folders_of(run)))} for run in runs]
    equal = [start]
    for at in sorted(saved[0].keys() & saved[1].keys()):
        if signs and at >= min(signs)[0]:
            break
        if hash_of_state(saved[0][at]) != hash_of_state(saved[1][at]):
            signs.append((at, at - 1, f"the states of {saved[0][at]} and {saved[1][at]}"))
            break
        equal.append(at)
    end, latest, sign = min(signs, default=(last, last, ""))
    begin = start if whole else max([at for at in equal if at <= latest], default=start)
    return begin, max(end, begin + 1) if signs else end, sign


def _by_records(runs: tuple[Run, Run]) -> tuple[int, int, str] | None:
    """Return before which iteration two runs part by their records, before or in which at latest, and what differs.

    A mean tells of the iterations since the last equal one, and of no more than its window: what it shows may have
    faded when the next checkpoint was saved. All else tells of the state.
    """
    window, equal = max(map(window_of, runs)), 0
    by_position = [{(record["step"], record["mode"]): record for record in run.records} for run in runs]
    for step, mode in sorted(by_position[0].keys() & by_position[1].keys()):
        one, other = (records[step, mode] for records in by_position)
        names = [name for name in one.keys() & other.keys() if name.rpartition("/")[2] not in MEASURED]
        for name in names:
            if not is_same(one[name], other[name]):
                what = f"{mode}/{name.removeprefix(f'{mode}/')} at step {step}: {one[name]!r} | {other[name]!r}"
                return step, max(equal, step - window) if mode == "train" else step - 1, what
        if mode == "train":
            equal = step
    return None


def _by_fingerprints(runs: tuple[Run, Run]) -> tuple[int, int, str] | None:
    """Return the same by what a `FingerprintHook` recorded."""
    mine, theirs = map(_fingerprints, runs)
    for key in sorted(mine.keys() & theirs.keys()):
        iteration = key[0]
        if mine[key]["weights"] != theirs[key]["weights"]:
            return iteration, iteration - 1, f"the fingerprint of the weights before iteration {iteration}"
        for name in ("batch", "update"):
            if mine[key][name] != theirs[key][name]:
                return iteration + 1, iteration, f"the fingerprint of the {name} of iteration {iteration}"
    return None


def _fingerprints(run: Run) -> dict[tuple[int, int], dict[str, Any]]:
    """Return what a `FingerprintHook` recorded, by iteration and rank; what a later start did again is the later's."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for start in chain_of(run):
        found = {key: value for key, value in found.items() if key[0] < origin_iter(start)}
        for path in start.folder.glob(f"{FINGERPRINTS}_rank*.jsonl"):
            rank = int(path.stem.rpartition("rank")[2])
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the last one may be cut
                    entry = json.loads(line)
                    found[entry["iter"], rank] = entry
    return found


def _last_of(run: Run) -> int:
    last = chain_of(run)[-1]
    recorded = [int(record["step"]) for record in run.records if record["mode"] == "train"]
    return max(*recorded[-1:], 0, int((last.ended or {}).get("iter", end_of(run, last)) or 0))


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

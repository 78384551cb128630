"""Look at iterations of a run again: the nearest checkpoint, run forward in a folder of its own, with the kept code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import or_none, summary_of, verify_checkpoint
from ..errors import UsageRuntimeError, UsageValueError
from ..fileio import atomic_write
from ..logging import METRICS_FILE, read_metrics
from ..text import listed, short, table
from .lineage import Start
from .reading import MEASURED, PLACE, Run, read_run
from .rerunning import Step, chain_of, end_of, folders_of
from .verifying import checkpoints_of, is_same

PREFIX = "prefix"
"""Folder in a run folder for checkpoints that were computed later, for forks."""
_WINDOW = 10  # of a log processor that the config does not name


@dataclass
class Replay:
    """An iteration that was made again.

    Attributes:
        iteration: Its number, counted from 0 as hooks and errors count: so many were completed before it.
        ranks: What was found on each rank: ``epoch``, ``batch``, ``samples``, ``shapes``, ``batch_hash``, ``lr``,
            ``values`` (what the step logged), ``norms``, ``stepped``, ``trace``; ``error`` where it failed.
        checkpoint: What it was run forward from; None for the begin of the run.
        num_run: How many iterations were run, up to the record that is compared.
        step: The step of the record that this iteration is part of; None where it is part of none.
        compared: By name the recorded value, the one of the replay, and whether they are equal to the bit.
        window: Over how many iterations recorded losses and norms are means.
    """

    iteration: int
    ranks: list[dict[str, Any]]
    checkpoint: str | None = None
    num_run: int = 0
    step: int | None = None
    compared: dict[str, tuple[Any, Any, bool]] = field(default_factory=dict)
    window: int = 1

    @property
    def is_equal(self) -> bool | None:
        """Whether everything that was recorded is equal to the bit; None where nothing was recorded."""
        return all(equal for _, _, equal in self.compared.values()) if self.compared else None

    @property
    def error(self) -> str | None:
        """What the iteration raised, or None."""
        return next((rank["error"] for rank in self.ranks if "error" in rank), None)

    @property
    def not_finite(self) -> list[str]:
        """Outputs and gradients that were not finite, in the order in which they were made."""
        return [name for rank in self.ranks for kind, name, _ in rank.get("trace", ()) if kind == "not finite"]

    def as_text(self) -> str:
        """Return it as lines."""
        first = self.ranks[0]
        begin = self.checkpoint or "the begin of the run"
        lines = [f"iteration {self.iteration} (epoch {first['epoch']}, batch {first['batch']}), from {begin}"]
        for rank in self.ranks:
            lines += [f"rank {rank['rank']}"] if len(self.ranks) > 1 else []
            rows = [(f"samples{' of ' * bool(name)}{name}", _samples(each)) for name, each in rank["samples"].items()]
            rows += [("batch", rank["shapes"]), ("hash", rank["batch_hash"][:16])] if "shapes" in rank else []
            rows += list({**rank.get("lr", {}), **rank.get("values", {}), **rank.get("norms", {})}.items())
            lines.append(table(rows, indent="  "))
        if self.error is not None:
            lines.append(f"failed: {self.error}")
        if self.not_finite:
            lines.append(f"not finite, in this order: {listed(self.not_finite)}")
        if "values" in first:
            lines += self._comparison()
        return "\n".join(lines)

    def _comparison(self) -> list[str]:
        if not self.compared:
            return ["recorded: " + ("not recorded" if self.step is None else f"nothing but times at step {self.step}")]
        window = f", means over the {self.window} iterations up to it" if self.window > 1 else ""
        rows = [
            (name, f"{was!r} recorded", "equal" if equal else f"differs: {short(now, 40)} now")
            for name, (was, now, equal) in self.compared.items()
        ]
        return [f"recorded at step {self.step}{window}", table(rows, indent="  ")]


def _samples(found: dict[str, Any]) -> str:
    if "unknown" in found:
        return f"not known: {found['unknown']}"
    pairs = list(zip(found["indices"], found["from"]))
    name = pairs[0][1].partition("[")[0] if pairs else ""
    if all(where == f"{name}[{i}]" for i, where in pairs):  # no wrapper in between, no files
        return f"{', '.join(str(i) for i, _ in pairs)} of {name}"
    return ", ".join(f"{i} ({where})" for i, where in pairs)


def replay(
    folder: str | os.PathLike[str],
    iteration: int,
    *,
    save: str | os.PathLike[str] | None = None,
    trace: bool = False,
    anomaly: bool = False,
    debug: bool = False,
    at: str | None = None,
    rank: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> Replay:
    """Make one iteration of a run again, with its code and config, and compare it with what the run recorded.

    Nothing in the folder of the run is changed.

    Args:
        folder: The run folder.
        iteration: The iteration, counted from 0.
        save: A file for the batch, the outputs of the modules and the gradients, of each rank.
        trace: Whether to hash everything that happens in it, in order; see `Replay.ranks`.
        anomaly: Whether to switch torch's anomaly detection on for it.
        debug: Whether to stop in the debugger before its step.
        at: A module, in whose forward the debugger stops instead; ``"nonfinite"`` for the first that makes something
            that is not finite.
        rank: The rank that the debugger is for; the others wait for it.
        report: Called with a line about what is being done.

    Raises:
        ValueError: The run has no such iteration.
        RuntimeError: Something is missing, or the iteration is not reached again; says what.
    """
    options = {"trace": trace, "anomaly": anomaly, "debug": debug or at is not None, "at": at, "rank": rank}
    (found,) = replay_range(folder, [iteration], keep=save is not None, report=report, **options)
    if save is not None:
        kept = [rank.pop("kept", {}) for rank in found.ranks]
        with atomic_write(save) as file:
            torch.save({"iteration": iteration, "ranks": kept}, file)
    return found


def replay_range(
    folder: str | os.PathLike[str],
    iterations: Sequence[int],
    *,
    only_samples: bool = False,
    report: Callable[[str], object] = lambda line: None,
    **options: Any,
) -> list[Replay]:
    """Make several iterations again, those between two of them once.

    Args:
        folder: The run folder.
        iterations: Their numbers, counted from 0.
        only_samples: Whether to find out the samples alone, without a model.
        report: Called with a line about what is being done.
        **options: Of `probing.Probe`: ``trace``, ``keep``, ``anomaly``, ``debug``, ``at``,
            ``rank``, ``sketch``.

    Raises:
        ValueError: The run has no such iteration.
        RuntimeError: Something is missing, or an iteration is not reached again; says what.
    """
    run = read_run(folder)
    chain = chain_of(run)
    found: list[Replay] = []
    by_start: dict[int, list[int]] = {}
    for iteration in sorted(set(iterations)):
        by_start.setdefault(index_of(run, chain, iteration), []).append(iteration)
    for wanted in by_start.values():
        with temporary_folder() as to:
            found += _replay_in_one_start(run, wanted, to, only_samples, report, options)
    return found


def _replay_in_one_start(
    run: Run, wanted: list[int], to: Path, only_samples: bool, report: Callable[[str], object], options: dict[str, Any]
) -> list[Replay]:
    window = window_of(run)
    steps = {iteration: _recorded_at(run, iteration, window) for iteration in wanted}
    stops = only_samples or any(map(options.get, ("debug", "anomaly", "sketch")))
    until = max([wanted[-1] + 1, *(0 if stops or step is None else step for step in steps.values())])
    path, reaching = reach(run, wanted[0], to, report, is_verified=not only_samples)
    step = reaching[-1]
    spec = to / "probe.json"
    spec.write_text(json.dumps({**options, "iterations": wanted, "until": until, "folder": str(to)}))
    if only_samples:
        failure = step.make(None, "--samples", str(spec), is_light=True)
    else:
        begin = _iter_of(path)
        report(f"iterations {begin} to {until - 1}, from {path or 'the begin of the run'}")
        failure = step.make(None, "--probe", str(spec), is_interactive=bool(options.get("debug")))
    captures: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(to.glob("probe_*.pt"), key=lambda file: int(file.stem[6:])):
        for capture in torch.load(file, weights_only=True):
            captures.setdefault(capture["iter"], []).append(capture)
    missing = [iteration for iteration in wanted if iteration not in captures]
    has_ended_there = any("error" in capture or "quit" in capture for capture in captures.get(wanted[-1], ()))
    if missing or (failure is not None and not has_ended_there):
        why = failure or "training ended before it"
        raise UsageRuntimeError(f"{run.path}: iteration {listed(missing or wanted)} was not reached again: {why}")
    made = read_metrics(sorted(to.glob(f"*/{METRICS_FILE}"))[-1:])
    found = []
    for iteration in wanted:
        each = Replay(iteration, captures[iteration], path, until - _iter_of(path), None, {}, window)
        if not stops and steps[iteration] is not None:
            each.step, each.compared = steps[iteration], _compare(run, made, steps[iteration])
        found.append(each)
    return found


def _compare(run: Run, made: list[dict[str, Any]], step: int | None) -> dict[str, tuple[Any, Any, bool]]:
    was, now = (
        next((record for record in records if record["step"] == step and record["mode"] == "train"), {})
        for records in (run.records, made)
    )
    names = [name for name in was if name not in PLACE and name.rpartition("/")[2] not in MEASURED]
    return {name: (was[name], now.get(name), is_same(was[name], now.get(name))) for name in names}


def window_of(run: Run) -> int:
    """Return over how many iterations recorded losses are means."""
    found = [value for path, value in run.config.items() if path.endswith("log_processor.window_size")]
    return int(found[0]) if found and found[0].isdigit() else _WINDOW


def _recorded_at(run: Run, iteration: int, window: int) -> int | None:
    """Return the step of the first record that an iteration is part of; None where it is part of none."""
    later = [each["step"] for each in run.records if each["mode"] == "train" and each["step"] > iteration]
    return min(later) if later and min(later) - window <= iteration else None


# --------------------------------------------------------------------------------------------------- getting there
@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lazyengine_"))
    try:
        yield folder / "run"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def origin_iter(start: Start) -> int:
    """Return how many iterations were done when a start began."""
    return start.origin["iter"] if start.origin else 0


def index_of(run: Run, chain: Sequence[Start], iteration: int) -> int:
    """Return which start of a chain made an iteration.

    Raises:
        ValueError: None did.
    """
    if iteration < origin_iter(chain[0]):
        source = chain[0].origin or {}
        raise UsageValueError(
            f"iteration {iteration}: {run.path} begins at {origin_iter(chain[0])}, as a fork of {source.get('path')}; "
            "name the folder of that run."
        )
    last = chain[-1]
    end = (last.ended or {}).get("iter", end_of(run, last))
    failed = (last.ended or {}).get("how", "failed") == "failed"  # in the iteration behind the completed ones
    if iteration < 0 or (end is not None and last.ended and iteration >= end + failed):
        raise UsageValueError(
            f"iteration {iteration}: {run.path} has the iterations 0 to {end + failed - 1}, counted from 0."
        )
    return max(number for number, start in enumerate(chain) if number == 0 or origin_iter(start) <= iteration)


def nearest_checkpoint(run: Run, iteration: int, is_verified: bool = True) -> str | None:
    """Return the last checkpoint at or before an iteration, of the starts that led to the run's end; None for none.

    Args:
        run: The run.
        iteration: The iteration.
        is_verified: Whether a damaged file is passed over, for which all of it is read.
    """
    chain = chain_of(run)
    origins = [origin_iter(start) for start in chain]
    for path, at in checkpoints_of([*folders_of(run), run.path / PREFIX]):
        if not origins[0] <= at <= iteration:
            continue
        index = max(number for number, origin in enumerate(origins) if origin <= at)
        writers = {0, chain[index].number} | ({chain[index - 1].number} if index and at == origins[index] else set())
        summary = summary_of(path)
        is_prefix = Path(path).parent.name == PREFIX
        is_own = summary.run_id in ("", chain[index].run_id) and (is_prefix or summary.start in writers)
        if is_own and not (is_verified and or_none(_whole, path) is None):
            return path
    return None


def _whole(path: str | os.PathLike[str]) -> bool:
    verify_checkpoint(path)
    return True


def _iter_of(path: str | None) -> int:
    return 0 if path is None else summary_of(path).iter


def reach(
    run: Run, iteration: int, to: Path, report: Callable[[str], object] = lambda line: None, is_verified: bool = True
) -> tuple[str | None, list[Step]]:
    """Make every start before the one that an iteration belongs to again, as far as no checkpoint spares it.

    Returns:
        The checkpoint that was begun with, and the steps, of which the last is still to be made.

    Raises:
        ValueError: The run has no such iteration.
        RuntimeError: Something that is needed is missing.
    """
    chain = chain_of(run)
    chain = chain[: index_of(run, chain, iteration) + 1]
    path = nearest_checkpoint(run, iteration, is_verified)
    if path is not None:
        chain = chain[max(number for number, start in enumerate(chain) if origin_iter(start) <= _iter_of(path)) :]
    steps = [Step(run, start, to, start is chain[0], path if start is chain[0] else None) for start in chain]
    missing = [line for step in steps for line in step.missing()]
    if missing:
        raise UsageRuntimeError(f"{run.path} cannot be made again; missing: {'; '.join(missing)}")
    for line in dict.fromkeys(line for step in steps for line in step.differs()):
        print(f"differs: {line}", file=sys.stderr)
    to.mkdir(parents=True, exist_ok=True)
    for step, following in zip(steps, chain[1:]):
        report(f"start {step.start.number}, up to iteration {origin_iter(following)}")
        if (failure := step.make(origin_iter(following))) is not None:
            raise UsageRuntimeError(f"{run.path}: {failure}")
    return path or steps[0].origin_path, steps

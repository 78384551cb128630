"""Runs on disk: their curves, their configs, and what was changed at resumes."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from ..errors import UsageFileNotFoundError, UsageValueError
from ..logging import METRICS_FILE, read_metrics
from ..record import RUN_FILE, flat_config
from ..text import did_you_mean, listed, near
from .columns import PLACE as PLACE  # of records, as what is below
from .columns import join, parts_in
from .lineage import Start, begun_anew, branch_of, changes_of, files_of, led_to_end, metrics_of, read_starts

_PHASES = ("data", "forward", "backward", "step", "hooks", "logging", "saving")
MEASURED = ("time", "data_time", "memory", "eta", "samples_per_s", "tokens_per_s", "mfu", *(f"{p}_s" for p in _PHASES))
"""Values of records that are measured, and so never the same."""
_TECHNICAL = {*MEASURED, "grad_norm"}


@dataclass(frozen=True)
class Run:
    """The curves and the config of a run.

    Attributes:
        name: The end of its path, as long as it takes to tell it from the others.
        path: Its folder.
        curves: Steps and values by ``<mode>/<name>``, all starts that trained joined; of a fork, from the first
            iteration of the run that it branched off, where that is still there.
        config: Values of the saved config as text, by path; empty where none was saved.
        starts: Its starts in order, evaluations included.
        records: What its training recorded, all starts joined.
    """

    name: str
    path: Path
    curves: dict[str, tuple[list[int], list[float]]]
    config: dict[str, str]
    starts: list[Start] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def curve_names(self) -> Collection[str]:
        """The names of its curves."""
        return self.curves.keys()

    @property
    def changes(self) -> dict[str, list[dict[str, Any]]]:
        """What resumes changed in the config, by path, in order; refused changes changed nothing."""
        return changes_of(self.starts)

    @property
    def branch(self) -> tuple[Path, int] | None:
        """The folder of the run that it was forked from, and the iteration; None where it is no fork."""
        return branch_of(self.starts)


class HasCurves(Protocol):
    """A run, or its outline."""

    @property
    def curve_names(self) -> Collection[str]:
        """The names of its curves."""
        ...


def from_branch_point(run: Run) -> Run:
    """Return a fork with curves that begin at the last point before the branch; others as they are."""
    if run.branch is None:
        return run
    curves = {}
    for key, (steps, values) in run.curves.items():
        own = bisect_right(steps, run.branch[1])
        if own < len(steps):
            first = max(own - 1, 0)
            curves[key] = (steps[first:], values[first:])
    return replace(run, curves=curves)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read one run; see `read_runs`."""
    return read_runs([folder])[0]


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Read runs.

    Starts are joined in the order of their counter in ``run.json``; no clock decides. Those that only evaluated are
    left out of the curves, unless nothing was trained.

    Args:
        folders: Run folders, folders of single starts, or ``metrics.jsonl`` files.

    Raises:
        FileNotFoundError: When something is no run; the message says what is there.
        ValueError: When a ``run.json`` or a ``config.json`` is damaged.
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for path in paths:
        check_run(path)
    return [_read(name, path) for name, path in zip(run_names(paths), paths)]


def _read(name: str, path: Path) -> Run:
    starts = read_starts(path)
    training = [start for start in starts if start.kind == "train"] or starts
    parts = [part for file in files_of(starts) for part in parts_in(file.read_bytes())]
    curves = {c.name: ([*map(int, c.steps)], [*map(float, c.values)]) for c in join(parts) if c.label != "epoch"}
    return Run(name, path, curves, read_config(path, training), starts, read_metrics(metrics_of(led_to_end(starts))))


def choose_keys(runs: Sequence[HasCurves], patterns: Sequence[str] | None) -> list[str]:
    """Return the names of curves that match, in the order of the patterns.

    Args:
        runs: Where they are looked for.
        patterns: Names with or without the mode and the prefix, or patterns such as ``val/*``. None takes losses and
            metrics, and no times.

    Raises:
        ValueError: When nothing matches a pattern; lists what there is.
    """
    known = sorted(
        {key for run in runs for key in run.curve_names}, key=lambda key: (not key.startswith("train/"), key)
    )
    if patterns is None:
        chosen = [key for key in known if _short(key) not in _TECHNICAL]
        return [key for key in chosen if not key.startswith("train/") or "loss" in key] or known
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [key for key in known if any(fnmatchcase(name, pattern) for name in _spellings(key))]
        if not matches:
            names = {name: key for key in known for name in _spellings(key)}
            hint = did_you_mean(pattern, names)
            raise UsageValueError(f"no curve is called {pattern!r}.{hint} There are: {listed(known, 30)}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def _spellings(key: str) -> tuple[str, str, str]:
    return key, key.partition("/")[2], _short(key)


def _short(key: str) -> str:
    return key.rpartition("/")[2]


def check_run(path: Path) -> None:
    """Refuse what is not exactly one run, and say what it is instead.

    Raises:
        FileNotFoundError: It is none.
    """
    if path.is_file() and path.suffix != Path(METRICS_FILE).suffix:
        raise UsageFileNotFoundError(f"{path} is no file of records; name a run folder, or a {METRICS_FILE}.")
    is_run = path.is_file() or any((path / name).is_file() for name in (METRICS_FILE, RUN_FILE))
    if is_run or any(path.glob(f"*/{METRICS_FILE}")):
        return
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        found = near(path.name, beside)
        hint = f" Did you mean {path.parent / found}?" if found else ""
        raise UsageFileNotFoundError(f"{path} does not exist.{hint}")
    runs = sorted({str(p.parent.parent) for p in path.glob(f"*/*/{METRICS_FILE}")})
    if runs:
        raise UsageFileNotFoundError(f"{path} holds several runs; name them: {' '.join(runs)}")
    inside = listed(sorted(p.name for p in path.iterdir()), 8)
    raise UsageFileNotFoundError(
        f"{path} is no run that has logged: it has no {METRICS_FILE}, nor has a folder in it; it holds "
        f"{'nothing' if inside == 'none' else inside}."
    )


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return the ends of paths, as long as it takes to tell them apart."""
    for length in range(1, max(len(path.parts) for path in paths)):
        names = [os.path.join(*path.parts[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def read_config(path: Path, starts: Sequence[Start]) -> dict[str, str]:
    """Return the config of a run as it was saved, without importing anything that it names.

    Args:
        path: The run folder.
        starts: Its starts, that of the present weights last.

    Raises:
        ValueError: The file is damaged.
    """
    places = [start.folder for start in reversed(starts)]
    for folder in places if begun_anew(path) is not None else [path, *places]:
        if (file := folder / "config.json").is_file():
            try:
                return flat_config(file.read_text(encoding="utf-8"))
            except (ValueError, KeyError, TypeError) as error:
                found = f"{type(error).__name__}: {error}"
                raise UsageValueError(f"{file} is damaged: {found}. Restore it, or move it away.") from error
    return {}

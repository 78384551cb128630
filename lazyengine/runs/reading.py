"""Runs on disk: their curves, their configs, and what was changed at resumes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import UsageFileNotFoundError, UsageValueError
from ..logging import METRICS_FILE, read_metrics
from ..record import RUN_FILE, flat_config
from ..text import did_you_mean, listed, near
from .lineage import Start, begun_anew, read_starts
from .verifying import MEASURED

PLACE = {"step", "epoch", "iter", "mode"}
"""What a record says of its place; the rest are values."""
_TECHNICAL = {*MEASURED, "grad_norm"}


@dataclass(frozen=True)
class Run:
    """The curves and the config of a run.

    Attributes:
        name: The end of its path, as long as it takes to tell it from the others.
        path: Its folder.
        curves: Steps and values by ``<mode>/<name>``, all starts that trained joined.
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
    def changes(self) -> dict[str, list[dict[str, Any]]]:
        """What resumes changed in the config, by path, in order; refused changes changed nothing."""
        found: dict[str, list[dict[str, Any]]] = {}
        for change in (change for start in self.starts if start.kind == "train" for change in start.changes):
            if change.get("effect") != "refused":
                found.setdefault(change["path"], []).append(change)
        return found

    @property
    def branch(self) -> tuple[Path, int] | None:
        """The folder of the run that this one was forked from, and the iteration; None where it is no fork.

        The folder may not be there any more.
        """
        first = next((start for start in self.starts if start.kind == "train"), None)
        if first is None or first.origin is None or not first.is_fork:
            return None
        checkpoint = Path(first.env().get("cwd", ""), first.origin["path"])
        folder = next((each for each in checkpoint.parents if (each / RUN_FILE).is_file()), checkpoint.parent)
        return folder, first.origin["iter"]


def from_branch_point(run: Run) -> Run:
    """Return a fork with curves that begin with the last point that its parent had at the branch; others as they are.

    Curves that only the parent has are left out, and so are parents that cannot be read.
    """
    if run.branch is None:
        return run
    folder, iteration = run.branch
    try:
        parent = from_branch_point(read_run(folder))
    except (UsageFileNotFoundError, ValueError):
        return run
    curves = dict(run.curves)
    for key in run.curves.keys() & parent.curves.keys():
        before = [point for point in zip(*parent.curves[key]) if point[0] <= iteration]
        for step, value in before[-1:]:
            curves[key] = ([step, *run.curves[key][0]], [value, *run.curves[key][1]])
    return dataclasses.replace(run, curves=curves)


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
        ValueError: When a ``run.json`` is damaged.
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for path in paths:
        _check(path)
    return [_read(name, path) for name, path in zip(_names(paths), paths)]


def _read(name: str, path: Path) -> Run:
    starts = read_starts(path)
    training = [start for start in starts if start.kind == "train"]
    records = read_metrics([start.metrics for start in training or starts if start.metrics.is_file()])
    return Run(name, path, curves_of(records), _config(path, training or starts), starts, records)


def choose_keys(runs: Sequence[Run], patterns: Sequence[str] | None) -> list[str]:
    """Return the names of curves that match, in the order of the patterns.

    Args:
        runs: Where they are looked for.
        patterns: Names with or without the mode and the prefix, or patterns such as ``val/*``. None takes losses and
            metrics, and no times.

    Raises:
        ValueError: When nothing matches a pattern; lists what there is.
    """
    known = sorted({key for run in runs for key in run.curves}, key=lambda key: (not key.startswith("train/"), key))
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


def _check(path: Path) -> None:
    """Refuse what is not exactly one run, and say what it is instead."""
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


def _names(paths: Sequence[Path]) -> list[str]:
    for length in range(1, max(len(path.parts) for path in paths)):
        names = [os.path.join(*path.parts[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def curves_of(records: Sequence[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and values by ``<mode>/<name>`` of what was recorded."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in PLACE and isinstance(value, int | float) and not isinstance(value, bool):
                mode = f"{record['mode']}/"
                steps, values = curves.setdefault(name if name.startswith(mode) else mode + name, ([], []))
                steps.append(record["step"])
                values.append(float(value))
    return curves


def _config(path: Path, starts: Sequence[Start]) -> dict[str, str]:
    """Return the config as it was saved, without importing anything that it names."""
    places = [start.folder for start in reversed(starts)]
    for folder in places if begun_anew(path) is not None else [path, *places]:
        if (folder / "config.json").is_file():
            return flat_config((folder / "config.json").read_text(encoding="utf-8"))
    return {}

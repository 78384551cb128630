"""Runs side by side: what differs in their configs, and the best and last values of their curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluator import rule_of
from ..text import table
from .reading import Run

_MAX_CELL = 40
_PLACES = ("runner.work_dir", "runner.experiment_name")  # where and under which name: the heading says it


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found; each list has an entry for each run.

    Attributes:
        runs: Names of the runs.
        config: Values by path, of those that differ or were changed at a resume (``0.05 -> 0.5 @ 120``).
        best: Step and value by the name of the curve; None where the run has none, or nothing says what is better.
        last: The same of the last values.
        iterations: The last step.
        has_config: Whether a config was saved.
        forked_from: Folder and iteration of what a fork began as; empty for a run from its begin.
    """

    runs: list[str]
    config: dict[str, list[str]]
    best: dict[str, list[tuple[int, float] | None]]
    last: dict[str, list[tuple[int, float] | None]]
    iterations: list[int]
    has_config: list[bool]
    forked_from: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        points = {
            name: {key: [p and {"step": p[0], "value": p[1]} for p in row] for key, row in rows.items()}
            for name, rows in (("best", self.best), ("last", self.last))
        }
        return {
            "runs": self.runs,
            "config": self.config,
            **points,
            "iterations": self.iterations,
            "forked_from": self.forked_from,
        }

    def as_text(self) -> str:
        """Return the table: a column for each run, a row for each difference and each value."""
        rows: list[list[str]] = [["", *self.runs], [], ["config"]]
        rows += [[f"  {path}", *self._cells(path, values)] for path, values in self.config.items()]
        if not self.config:
            rows[2] = ["config: no difference" if any(self.has_config) else "config: none was saved"]
        if any(self.forked_from):
            rows += [[], ["forked from", *(place or "-" for place in self.forked_from)]]
        rows += [[], ["metrics"]]
        for key in self.last:
            for word, points in (("best", self.best[key]), ("last", self.last[key])):
                if word == "last" or any(points):
                    rows.append([f"  {key}  {word}", *("-" if p is None else f"{p[1]:.5g} @ {p[0]}" for p in points)])
        rows.append(["  iterations", *map(str, self.iterations)])
        return table([[_clip(cell) if i else cell for i, cell in enumerate(row)] for row in rows])

    def _cells(self, path: str, values: list[str]) -> list[str]:
        """Shorten classes to their names, where these tell them apart."""
        names = [value.rpartition(".")[2] for value in values]
        is_clear = path.endswith("_target_") and len(set(names)) == len(set(values))
        return names if is_clear else values


def compare_runs(runs: Sequence[Run], keys: Sequence[str]) -> Comparison:
    """Compare runs.

    Args:
        runs: The runs.
        keys: Names of the curves whose best and last values are wanted.
    """
    config: dict[str, list[str]] = {}
    changed = dict.fromkeys(path for run in runs for path in run.changes)
    for path in dict.fromkeys([*(path for run in runs for path in run.config), *changed]):
        values = {run.config.get(path) for run in runs if run.config}
        if path not in _PLACES and (len(values) > 1 or path in changed):
            config[path] = [_value_of(run, path) for run in runs]
    return Comparison(
        runs=[run.name for run in runs],
        config=config,
        best={key: [_best(run, key) for run in runs] for key in keys},
        last={key: [_point(run, key, -1) for run in runs] for key in keys},
        iterations=[max((steps[-1] for steps, _ in run.curves.values()), default=0) for run in runs],
        has_config=[bool(run.config) for run in runs],
        forked_from=[f"{run.branch[0].name} @ {run.branch[1]}" if run.branch else "" for run in runs],
    )


def _value_of(run: Run, path: str) -> str:
    """Return a value of the config, with what resumes changed and from which iteration on."""
    changes = run.changes.get(path, [])
    if not changes:
        return run.config.get(path, "-" if run.config else "?")
    text = _shown(changes[0].get("was"))
    for change in changes:
        if change.get("effect") == "in force":
            text += f" -> {_shown(change.get('is'))} @ {change.get('from_iter')}"
        else:
            text += f" ({_shown(change.get('is'))} without effect)"
    return text


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _best(run: Run, key: str) -> tuple[int, float] | None:
    """Return the best value with its step; None where the name does not say what is better."""
    values = [value for value in run.curves.get(key, ([], []))[1] if math.isfinite(value)]
    try:
        better = max if rule_of(key) == "greater" else min
    except ValueError:
        return None
    return _point(run, key, run.curves[key][1].index(better(values))) if values else None


def _point(run: Run, key: str, index: int) -> tuple[int, float] | None:
    if key not in run.curves:
        return None
    steps, values = run.curves[key]
    return steps[index], values[index]


def _clip(cell: str) -> str:
    """Shorten what is long in its middle."""
    half = (_MAX_CELL - 1) // 2
    return cell if len(cell) <= _MAX_CELL else f"{cell[:half]}…{cell[-half:]}"

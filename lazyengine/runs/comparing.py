"""Many runs side by side: a row for each, or for those that differ in the seed alone; only the columns that differ."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import interpreter
from ..errors import UsageValueError
from ..evaluator import rule_of
from ..record import CODE_FOLDER, code_fingerprints, load_code
from ..text import csv_table, did_you_mean, latex_table, listed, table
from .index import Outline
from .lineage import branch_of
from .reading import Run, run_names
from .significance import Verdict, deviation, judge

SEED = "runner.seed"
_MAX_CELL = 40
_PLACES = ("runner.work_dir", "runner.experiment_name", "runner.resume", "runner.device", "runner.launcher")
"""What of a config makes no other experiment."""


@dataclass(frozen=True)
class Value:
    """A value of a curve over the runs of a row.

    Attributes:
        values: That of each run.
        steps: At which step it stands, for each run.
    """

    values: list[float]
    steps: list[float]

    @property
    def mean(self) -> float:
        """The mean over the runs."""
        return math.fsum(self.values) / len(self.values) if all(map(math.isfinite, self.values)) else math.nan

    @property
    def std(self) -> float | None:
        """The standard deviation over the runs (``n - 1``); None of one run."""
        return deviation(self.values) if math.isfinite(self.mean) else None

    def __str__(self) -> str:
        std = self.std
        return f"{self.mean:.5g}" if std is None else f"{self.mean:.5g} ± {std:.2g}"


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone.

    Attributes:
        names: Their names.
        config: Values of the config as text, by path, of those that differ between rows.
        seeds: Their seeds as text.
        best: The best value by curve; of curves whose name says what is better.
        last: The last value by curve.
        iterations: The last step of each.
        states: ``"finished"`` and so on, of each.
    """

    names: list[str]
    config: dict[str, str] = field(default_factory=dict)
    seeds: list[str] = field(default_factory=list)
    best: dict[str, Value] = field(default_factory=dict)
    last: dict[str, Value] = field(default_factory=dict)
    iterations: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} (+{len(self.names) - 1})"


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found.

    Attributes:
        rows: The rows.
        paths: Paths of the config that differ.
        keys: Names of the curves.
        has_config: Whether any run has a saved config.
    """

    rows: list[Row]
    paths: list[str]
    keys: list[str]
    has_config: bool = True

    @property
    def main_key(self) -> str | None:
        """The first curve whose name says what is better, of those of validations before others; None for none."""
        ruled = [key for key in self.keys if rule_of_key(key)]
        return next((key for key in ruled if not key.startswith("train/")), next(iter(ruled), None))

    def sorted_by(self, name: str | None) -> Comparison:
        """Return it sorted: by a curve, the best row first, or by a path of the config; rows without it come last.

        Args:
            name: Its name, or the end of it; None takes the `main_key`.

        Raises:
            ValueError: There is no such column.
        """
        name = self.main_key if name is None else name
        if name is None:
            return self
        known = [*self.paths, *self.keys]
        found = [each for each in known if each == name or each.endswith((f".{name}", f"/{name}"))]
        if not found:
            hint = did_you_mean(name, known)
            raise UsageValueError(f"no column is called {name!r}.{hint} There are: {listed(known, 30)}.")

        def place(row: Row) -> tuple[bool, float, str]:
            if found[0] in self.paths:
                text = row.config[found[0]]
                number = as_number(text)
                return number is None, number or 0.0, text
            value = row.best.get(found[0], row.last.get(found[0]))
            number = math.nan if value is None else value.mean
            return math.isnan(number), -number if rule_of_key(found[0]) == "greater" else number, row.name

        return Comparison(sorted(self.rows, key=place), self.paths, self.keys, self.has_config)

    def verdicts(self) -> list[tuple[str, Verdict]]:
        """Return whether the second of two rows is better than the first, by curve and which value of it."""
        if len(self.rows) != 2:
            return []
        one, two, found = *self.rows, []
        for key in self.keys:
            for word, a, b in (("best", one.best, two.best), ("last", one.last, two.last)):
                if key in a and key in b and (rule := rule_of_key(key)) is not None:
                    found.append((f"{key} {word}", judge(a[key].values, b[key].values, rule == "greater")))
        return found

    # ------------------------------------------------------------------------------------------------- as text
    def columns(self) -> dict[str, list[str]]:
        """Return the cells by the heads of the columns, numbers in full where there is one run."""
        has_seeds = any(len(row.names) > 1 for row in self.rows)
        found = {"run": [row.name for row in self.rows]}
        if has_seeds:
            found["seeds"] = [str(len(row.names)) for row in self.rows]
        found.update({path: [row.config[path] for row in self.rows] for path in self.paths})
        for key in self.keys:
            for word in ("best", "last"):
                cells = [getattr(row, word).get(key) for row in self.rows]
                if any(cells):
                    found[f"{key} {word}"] = ["-" if cell is None else str(cell) for cell in cells]
        found["iterations"] = [_span(row.iterations) for row in self.rows]
        found["state"] = [", ".join(dict.fromkeys(row.states)) for row in self.rows]
        if all(state == "finished" for state in found["state"]):
            del found["state"]
        return found

    def short_columns(self) -> tuple[dict[str, list[str]], list[str]]:
        """Return `columns` with numbers and classes shortened where that tells them apart, and short heads for them."""
        heads = _short_heads(self.paths, self.keys)
        columns = {name: list(_shortened(name, cells)) for name, cells in self.columns().items()}
        return columns, [heads.get(name, name) for name in columns]

    def as_text(self, width: int | None = None) -> str:
        """Return the table.

        Args:
            width: Characters of a line; columns that find no place are named below. None for those of the terminal.
        """
        columns, heads = self.short_columns()
        shown = {name: [head, *map(_clip, cells)] for head, (name, cells) in zip(heads, columns.items())}
        names, hidden = self._fitting(shown, width or shutil.get_terminal_size((160, 24)).columns)
        lines = [table(zip(*(shown[name] for name in names)))]
        if not self.paths:
            lines.append("config: no difference" if self.has_config else "config: none was saved")
        if hidden:
            lines.append(f"not shown: {listed(hidden, 6)}; --keys chooses curves, --csv and --json have all")
        return "\n".join([*lines, *self._verdict_lines()])

    def _verdict_lines(self) -> list[str]:
        if not (verdicts := self.verdicts()):
            return []
        tests = {verdict.test if verdict.word == "unknown" else "" for _, verdict in verdicts}
        if len(tests) == 1 and "" not in tests:  # one reason for all
            return [f"which one is better: unknown ({tests.pop()})"]
        one, two, lines = *self.rows, []
        for key, verdict in verdicts:
            if verdict.word == "unknown":
                lines.append(f"{key}: unknown which one is better ({verdict.test})")
            elif verdict.word == "within noise":
                lines.append(f"{key}: the difference is within noise ({verdict.test})")
            else:
                lines.append(f"{key}: {two.name} is {verdict.word} than {one.name} ({verdict.test})")
        return lines

    def _fitting(self, shown: Mapping[str, Sequence[str]], width: int) -> tuple[list[str], list[str]]:
        """Return the names of the columns that find a place, and of those that do not."""
        values = [name for name in shown if name.endswith((" best", " last"))]
        values.sort(key=lambda name: not name.startswith(f"{self.main_key} "))
        order = ["run", "seeds", *values[:1], *self.paths, *values[1:], "state", "iterations"]
        kept, left = set(), width
        for name in (name for name in order if name in shown):
            need = max(map(len, shown[name])) + 2
            if need <= left or name == "run":
                kept.add(name)
                left -= need
        return [name for name in shown if name in kept], [name for name in shown if name not in kept]

    def as_csv(self) -> str:
        """Return all columns as CSV: means and standard deviations of curves in columns of their own."""
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            cells: dict[str, Any] = {"run": " ".join(row.names), "seeds": len(row.names), **row.config}
            for key in self.keys:
                for word, value in (("best", row.best.get(key)), ("last", row.last.get(key))):
                    if value is not None:
                        cells[f"{key} {word}"] = value.mean
                        cells[f"{key} {word} std"] = value.std
                        cells[f"{key} {word} step"] = value.steps[0] if len(value.steps) == 1 else None
            rows.append({**cells, "iterations": _span(row.iterations), "state": ", ".join(dict.fromkeys(row.states))})
        found = dict.fromkeys(name for row in rows for name in row)
        names = [name for name in found if any(row.get(name) is not None for row in rows)]
        return csv_table([names, *([row.get(name) for name in names] for row in rows)])

    def as_latex(self) -> str:
        """Return the table as LaTeX (booktabs)."""
        columns, heads = self.short_columns()
        return latex_table([heads, *(list(row) for row in zip(*columns.values()))])

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data: a dict for each row, with each run's own values."""
        rows = []
        for row in self.rows:
            points = {
                word: {key: {"mean": each.mean, "std": each.std, **vars(each)} for key, each in values.items()}
                for word, values in (("best", row.best), ("last", row.last))
            }
            about = {"runs": row.names, "seeds": row.seeds, "config": row.config, "iterations": row.iterations}
            rows.append({**about, "states": row.states, **points})
        verdicts = {key: vars(verdict) for key, verdict in self.verdicts()}
        return {"paths": self.paths, "keys": self.keys, "rows": rows, "verdicts": verdicts}


@interpreter.paused()
def compare_runs(
    runs: Sequence[Outline], keys: Sequence[str], *, each: bool = False, sort: str | None = None
) -> Comparison:
    """Compare runs.

    Args:
        runs: The runs.
        keys: Names of the curves whose best and last values are wanted.
        each: Whether each run has a row of its own, whatever its seed.
        sort: The column to sort by, see `Comparison.sorted_by`; by default two rows stay in their order.

    Raises:
        ValueError: There is no such column.
    """
    names = run_names([run.path for run in runs])
    cells = differences(runs)
    if len(set(filter(None, codes := codes_of(runs)))) > 1:
        cells["code"] = [code or "-" for code in codes]
    branches = [branch_of(run.starts) for run in runs]
    if any(branches):
        cells["forked from"] = [f"{branch[0].name} @ {branch[1]}" if branch else "-" for branch in branches]
    groups: dict[Any, list[int]] = {}
    seeds = [run.config.get(SEED, "0") for run in runs]
    seen: dict[Any, int] = {}
    shown_seed = cells.pop(SEED, None) if not each else None
    columns = list(cells.values())
    for i, seed in enumerate(seeds):
        key = tuple(column[i] for column in columns)
        count = seen[key, seed] = seen.get((key, seed), -1) + 1  # the same once more is no other seed
        groups.setdefault((i,) if each or not runs[i].config else (key, count), []).append(i)
    rows = []
    for members in groups.values():
        config = {path: column[members[0]] for path, column in cells.items()}
        if shown_seed is not None and all(len(others) == 1 for others in groups.values()):
            config = {SEED: shown_seed[members[0]], **config}
        rows.append(_row([names[i] for i in members], [runs[i] for i in members], config, keys))
    paths = list(rows[0].config) if rows else []
    found = Comparison(rows, paths, list(keys), any(run.config for run in runs))
    return found if sort is None and len(rows) < 3 else found.sorted_by(sort)  # of two the first is the base


def _row(names: list[str], runs: list[Outline], config: dict[str, str], keys: Sequence[str]) -> Row:
    best, last = {}, {}
    for key in keys:
        extents = [run.extents[key] for run in runs if key in run.extents]
        rule = rule_of_key(key)
        points = [extent.most if rule == "greater" else extent.least for extent in extents] if rule else []
        if points and all(points):
            best[key] = Value([p.value for p in points if p], [p.step for p in points if p])
        if extents:
            last[key] = Value([extent.last.value for extent in extents], [extent.last.step for extent in extents])
    seeds = [run.config.get(SEED, "0") for run in runs]
    return Row(names, config, seeds, best, last, [run.iterations for run in runs], [run.state for run in runs])


def differences(runs: Sequence[Run | Outline]) -> dict[str, list[str]]:
    """Return the values by path of what differs in the configs of runs, or was changed at a resume.

    A change is shown with the iteration from which it is in force, as in ``0.05 -> 0.5 @ 120``; where a run has no such
    value ``-`` stands, and ``?`` where it has no config.
    """
    changed = dict.fromkeys(path for run in runs for path in run.changes)
    paths = dict.fromkeys([*(path for run in runs for path in run.config), *changed])
    first = next((run.config for run in runs if run.config), {})
    same = set(first.items())
    for run in runs:
        if run.config:
            same = run.config.items() & same
    different = (paths.keys() - dict(same) | changed.keys()) - set(_PLACES)
    return {path: [_value_of(run, path) for run in runs] for path in paths if path in different}


def _value_of(run: Run | Outline, path: str) -> str:
    """Return a value of the config, with what resumes changed and from which iteration on."""
    changes = run.changes.get(path, [])
    if not changes:
        default = "0" if path == SEED else "-"
        return run.config.get(path, default if run.config else "?")
    if changes[0].get("why") in ("code", "data"):
        return f"changed @ {', '.join(str(change.get('from_iter')) for change in changes)}"
    text = _shown(changes[0].get("was"))
    for change in changes:
        if change.get("effect") == "in force":
            text += f" -> {_shown(change.get('is'))} @ {change.get('from_iter')}"
        else:
            text += f" ({_shown(change.get('is'))} without effect)"
    return text


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def rule_of_key(key: str) -> str | None:
    """Return whether ``"greater"`` or ``"less"`` of a curve is better; None where its name does not tell."""
    try:
        return rule_of(key)
    except ValueError:
        return None


def as_number(text: str) -> float | None:
    """Return the finite number that a text is; None for another text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low}–{high}"


def _short_heads(paths: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Return short heads of the columns: the end of each path, and of each curve, that tells it from the others."""
    heads = {}
    for path in paths:
        parts = path.split(".") if ": " not in path else [path]  # else a line about code or data
        heads[path] = _short_end(path, [".".join(parts[i:]) for i in range(len(parts) - 1, 0, -1)], paths)
    for key in keys:
        parts = key.split("/")
        ends = [] if parts[0] == "train" else ["/".join(parts[i:]) for i in range(len(parts) - 1, 0, -1)]
        short = _short_end(key, ends, keys)
        heads.update({f"{key} {word}": f"{short} {word}" for word in ("best", "last")})
    return heads


def _short_end(name: str, ends: Sequence[str], known: Sequence[str]) -> str:
    for end in ends:
        if end != "_target_" and sum(other.endswith((f".{end}", f"/{end}")) or other == end for other in known) == 1:
            return end
    return name


def _shortened(name: str, cells: Sequence[str]) -> Sequence[str]:
    """Shorten classes to their names and numbers to six digits, where these tell them apart."""
    if name.endswith("_target_"):
        short = [cell if " " in cell else cell.rpartition(".")[2] for cell in cells]
    else:
        short = [cell if len(cell) < 9 or as_number(cell) is None else f"{float(cell):.6g}" for cell in cells]
    return short if len(set(short)) == len(set(cells)) else cells


def _clip(cell: str) -> str:
    """Shorten what is long in its middle."""
    half = (_MAX_CELL - 1) // 2
    return cell if len(cell) <= _MAX_CELL else f"{cell[:half]}…{cell[-half:]}"


def codes_of(runs: Sequence[Outline]) -> list[str]:
    """Return the version of each run's code: the same where no function of a file that both have differs.

    What only one of them imported belongs to its options, and so do the config files.
    """
    known: dict[str, str] = {}
    kept: dict[str, dict[str, str]] = {}
    for run in runs:
        if not run.code or run.code in known:
            continue
        try:
            own = code_fingerprints(load_code(str(run.path / CODE_FOLDER / f"{run.code}.zip")))
        except (OSError, ValueError):
            known[run.code] = run.code
            continue
        alike = (other for other, each in kept.items() if all(each[name] == own[name] for name in each.keys() & own))
        known[run.code] = same = next(alike, run.code)
        kept.setdefault(same, own)
    return [known.get(run.code, "") for run in runs]

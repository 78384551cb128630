"""A paper's table as a Python file: cells that ask runs, and are refused where the answer would not be sound."""

from __future__ import annotations

import math
import os
import runpy
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ..errors import UsageFileNotFoundError, UsageKeyError, UsageTypeError, UsageValueError
from ..text import columns_of, csv_table, did_you_mean, html_table, latex_table, listed
from ..text import table as text_table
from .comparing import SEED, Value, codes_of, differences, rule_of_key
from .filtering import parse_conditions
from .index import Outline, read_below
from .reading import choose_keys

WORDS = ("best", "last")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: which runs, and which of their values.

    Attributes:
        where: A condition as for ``lazyengine compare --where``: ``"model.width = 8 and optimizer.lr = 0.001"``.
        value: The curve, and ``best`` or ``last``: ``"val/accuracy/top1 best"``; ``last`` if neither is said.
        seeds: The seeds that the cell stands for; one that no finished run has is missing.
        varies: Options in which runs of the cell may differ beside the seed.
    """

    where: str
    value: str
    seeds: Sequence[int] = (0,)
    varies: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table: cells by the names of their row and column.

    Attributes:
        root: The folder with the runs, or several.
        cells: Cells by row, and in it by column.
        varies: Options in which the cells differ; ``"code"`` and ``"data"`` are two.
        config: The config file from which ``--redo`` trains what is missing.
        caption: A caption for LaTeX and HTML.
        digits: Digits behind the point.
    """

    root: str | Sequence[str]
    cells: Mapping[str, Mapping[str, Cell]]
    varies: Sequence[str] = ()
    config: str = ""
    caption: str = ""
    digits: int = 4

    def __post_init__(self) -> None:
        for name, cell in self.named():
            if not isinstance(cell, Cell):
                raise UsageTypeError(f"{name} is {cell!r}; expected a Cell.")
            if len(set(cell.seeds)) != len(cell.seeds) or not cell.seeds:
                raise UsageValueError(f"{name}: seeds={list(cell.seeds)}: expected one or more seeds, each once.")

    def named(self) -> Iterable[tuple[str, Cell]]:
        """Return the cells with their names, ``row/column``."""
        return [(f"{row}/{column}", cell) for row, cells in self.cells.items() for column, cell in cells.items()]


@dataclass
class Filled:
    """A cell with its answer.

    Attributes:
        name: ``row/column``.
        cell: The question.
        runs: The runs that it asks.
        missing: Seeds without a finished run.
        refusals: Why it is refused; empty where it is not.
        value: The value of each run; None where it is refused.
    """

    name: str
    cell: Cell
    runs: list[Outline] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    value: Value | None = None

    def text(self, digits: int) -> str:
        """Return what stands in the table."""
        if self.value is None:
            return "refused"
        std = self.value.std
        return f"{self.value.mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


@dataclass(frozen=True)
class FilledTable:
    """A table with its answers; `as_text`, `as_latex`, `as_csv` and `as_html` return it.

    Attributes:
        table: The table.
        cells: The answers by the names of the cells.
    """

    table: Table
    cells: dict[str, Filled]

    @property
    def refused(self) -> list[Filled]:
        """The cells that are refused."""
        return [cell for cell in self.cells.values() if cell.refusals]

    def _grid(self) -> list[list[str]]:
        columns = list(dict.fromkeys(column for cells in self.table.cells.values() for column in cells))
        rows = [["", *columns]]
        for row in self.table.cells:
            found = (self.cells.get(f"{row}/{column}") for column in columns)
            rows.append([row, *("" if cell is None else cell.text(self.table.digits) for cell in found)])
        return rows

    def as_text(self) -> str:
        """Return it for the terminal, with the reasons of refusals below."""
        return "\n".join([text_table(self._grid(), columns=columns_of(sys.stdout)), *self.reasons()])

    def reasons(self) -> list[str]:
        """Return why cells are refused, as lines."""
        return [f"{cell.name}: {reason}" for cell in self.refused for reason in cell.refusals]

    def as_latex(self) -> str:
        """Return it as LaTeX (booktabs); comments name the runs of each cell."""
        runs = [f"% {cell.name}: {' '.join(run.path.name for run in cell.runs)}" for cell in self.cells.values()]
        return "\n".join([latex_table(self._grid(), self.table.caption), *runs])

    def as_csv(self) -> str:
        """Return a row for each cell: row, column, mean, std, number of runs, the runs, refusals."""
        lines: list[Sequence[object]] = [("row", "column", "mean", "std", "num_runs", "runs", "refused")]
        for row, cells in self.table.cells.items():
            for column in cells:
                cell = self.cells[f"{row}/{column}"]
                numbers = (cell.value.mean, cell.value.std) if cell.value else (None, None)
                paths = " ".join(str(run.path) for run in cell.runs)
                lines.append((row, column, *numbers, len(cell.runs), paths, "; ".join(cell.refusals)))
        return csv_table(lines)

    def as_html(self) -> str:
        """Return it as an HTML table; the title of a cell names its runs, or says why it is refused."""
        head, *rows = self._grid()

        def attributes(row: int, column: int) -> str:
            cell = self.cells.get(f"{rows[row][0]}/{head[column]}")
            if cell is None:
                return ""
            about = "; ".join(cell.refusals) or " ".join(run.path.name for run in cell.runs)
            return f'{" class=refused" if cell.refusals else ""} title="{escape(about)}"'

        return html_table(head, rows, caption=self.table.caption, attributes=attributes)


def load_table(path: str | os.PathLike[str]) -> Table:
    """Return the `table` that a Python file defines.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It defines none.
    """
    if not os.path.isfile(path):
        raise UsageFileNotFoundError(f"{os.fspath(path)} is no file; name a Python file that defines `table`.")
    found = runpy.run_path(os.fspath(path)).get("table")
    if not isinstance(found, Table):
        raise UsageValueError(f"{os.fspath(path)} defines no `table`; write table = Table(...), from lazyengine.runs.")
    return found


def fill(table: Table) -> FilledTable:
    """Answer the questions of a table.

    A cell is refused, with the reason, where its runs

    - differ in an option that is neither the seed nor in `Cell.varies`,
    - have an option that `Table.varies` does not name and most other cells have otherwise,
    - differ in code (a comment is no difference) or in the data of the evaluation, from each other or from most cells,
    - are not finished, lack the value, or have one that is not finite,
    - are two of the same seed, or lack one.

    Raises:
        FileNotFoundError: The root is not there.
    """
    roots = [table.root] if isinstance(table.root, str) else list(table.root)
    for root in roots:
        if not os.path.isdir(root):
            raise UsageFileNotFoundError(f"Table.root={root!r} is no folder; it is relative to the current one.")
    outlines = [outline for root in roots for outline in read_below(root) if outline.state != "evaluated"]
    cells = {name: _filled(name, cell, outlines) for name, cell in table.named()}
    _compare_cells(table, [cell for cell in cells.values() if cell.runs])
    for cell in cells.values():
        if not cell.refusals:
            cell.value = _value(cell)
    return FilledTable(table, cells)


def _filled(name: str, cell: Cell, outlines: Sequence[Outline]) -> Filled:
    found = Filled(name, cell)
    try:
        conditions = parse_conditions([cell.where], outlines)
        found.runs = [each for each in outlines if all(condition.holds(each) for condition in conditions)]
    except UsageValueError as error:
        if outlines:  # of none nothing is known
            found.refusals.append(str(error))
    by_seed: dict[str, list[Outline]] = {}
    for run in found.runs:
        by_seed.setdefault(run.config.get(SEED, "0"), []).append(run)
    found.runs = [run for run in found.runs if run.config.get(SEED, "0") in set(map(str, cell.seeds))]
    found.missing = [seed for seed in cell.seeds if not any(r.state == "finished" for r in by_seed.get(str(seed), ()))]
    if found.missing:
        found.refusals.append(f"no finished run with seed {listed(found.missing)}")
    for run in found.runs:
        if run.state != "finished":
            found.refusals.append(f"{run.path.name} is not finished but {run.state}")
    for seed, runs in by_seed.items():
        if len(runs) > 1 and seed in set(map(str, cell.seeds)):
            found.refusals.append(f"{listed(run.path.name for run in runs)} have the same seed {seed}")
    for path, values in differences(found.runs).items():
        if path not in (SEED, *cell.varies) and len(set(values)) > 1:
            found.refusals.append(f"its runs differ in {path}: {_which(found.runs, values)}")
    for what, values in (("code", codes_of(found.runs)), ("data", [_data(run, cell) for run in found.runs])):
        known = [value for value in values if value]
        if len(set(known)) > 1 and what not in cell.varies:
            names = {"code": "code", "data": "the data of the evaluation"}
            found.refusals.append(f"its runs differ in {names[what]}: {_which(found.runs, values)}")
    return found


def _which(runs: Sequence[Outline], values: Sequence[str]) -> str:
    """Return the values with the runs that have them, rare ones first."""
    groups: dict[str, list[str]] = {}
    for run, value in zip(runs, values):
        groups.setdefault(value, []).append(run.path.name)
    ordered = sorted(groups.items(), key=lambda group: len(group[1]))
    return "; ".join(f"{value} in {listed(names, 4)}" for value, names in ordered)


def _compare_cells(table: Table, cells: Sequence[Filled]) -> None:
    """Refuse cells that have, of what the table does not say to vary, something else than most of them."""
    runs = [run for cell in cells for run in cell.runs]
    owner = [cell for cell in cells for _ in cell.runs]
    columns = {path: values for path, values in differences(runs).items() if path != SEED}
    columns["code"] = codes_of(runs)
    columns["data"] = [_data(run, cell.cell) for run, cell in zip(runs, owner)]
    names = {"code": "the code", "data": "the data of the evaluation"}
    for path, values in columns.items():
        if path in table.varies:
            continue
        known = [value for value in values if value]
        if len(set(known)) < 2:
            continue
        usual, _ = Counter(known).most_common(1)[0]
        for cell in cells:
            others = {v for v, each in zip(values, owner) if each is cell and v and v != usual}
            is_known = any(path in reason or names.get(path, path) in reason for reason in cell.refusals)
            if others and path not in cell.cell.varies and not is_known:
                cell.refusals.append(
                    f"{names.get(path, path)} is {listed(sorted(others), 3)}, and {usual} in most cells; "
                    f"Table(varies=[{path!r}]) allows it"
                )


def _data(run: Outline, cell: Cell) -> str:
    """Return what tells the data of the evaluation from others; empty where it was not recorded."""
    mode = _split(cell.value)[0].partition("/")[0]
    data = run.environment.get("data") or {}
    found = {n: (d.get("length"), d.get("hash")) for n, d in data.items() if n.partition("/")[0] == mode != "train"}
    return ", ".join(f"{name}: {length} samples, {hash_}" for name, (length, hash_) in sorted(found.items()))


def _split(value: str) -> tuple[str, str]:
    name, _, word = value.rpartition(" ")
    return (name, word) if word in WORDS and name else (value, "last")


def _value(cell: Filled) -> Value | None:
    """Return the value of each run, or refuse the cell."""
    key, word = _split(cell.cell.value)
    points = []
    for run in cell.runs:
        name = key if key in run.extents else _full_name(run, key)
        extent = run.extents.get(name) if name else None
        if extent is None:
            cell.refusals.append(f"{run.path.name} has no curve {key!r}.{did_you_mean(key, run.extents)}")
            continue
        rule = rule_of_key(name or key) if word == "best" else None
        if word == "best" and rule is None:
            cell.refusals.append(f"whether more of {name!r} is better is not known; write '{key} last'")
            break
        point = extent.last if word == "last" else extent.most if rule == "greater" else extent.least
        if point is None or not math.isfinite(point.value):
            cell.refusals.append(f"{run.path.name}: {name} is not finite")
        else:
            points.append(point)
    return None if cell.refusals else Value([point.value for point in points], [point.step for point in points])


def _full_name(run: Outline, key: str) -> str | None:
    try:
        found = choose_keys([run], [key])
    except UsageValueError:
        return None
    return found[0] if len(found) == 1 else None


# ------------------------------------------------------------------------------------------------------------- redo
def commands_for(found: FilledTable, name: str) -> list[list[str]]:
    """Return the arguments of ``lazyengine train`` that make what a cell lacks: one for each missing seed.

    A run that was begun goes on in its folder; others begin in ``<root>/<name of the cell>_<seed>``.

    Args:
        found: The table.
        name: The cell, ``row/column``.

    Raises:
        KeyError: There is no such cell.
        ValueError: The table names no config, or the cell's condition is no list of values.
    """
    if name not in found.cells:
        hint = did_you_mean(name, found.cells)
        raise UsageKeyError(f"no cell is called {name!r}.{hint} There are: {listed(found.cells, 20)}.")
    cell, table = found.cells[name], found.table
    if not cell.missing:
        return []
    if not table.config:
        raise UsageValueError(f"{name}: nothing says how its runs are made; write Table(config='path/to/config.py').")
    root = table.root if isinstance(table.root, str) else table.root[0]
    overrides = []
    for text in cell.cell.where.split(" and "):
        path, sign, value = (part.strip() for part in text.replace("==", "=").partition("="))
        if not sign or path[-1:] in "<>!" or not path:
            raise UsageValueError(f"{name}: {text!r} names no value that a run could be made with; use '=' alone.")
        overrides.append(f"{path}={value}")
    commands = []
    for seed in cell.missing:
        begun = [run for run in cell.runs if run.config.get(SEED, "0") == str(seed)]
        folder = begun[0].path if begun else Path(root) / f"{_as_file_name(name)}_{seed}"
        more = ["--resume"] if begun else []
        commands.append([table.config, *overrides, f"{SEED}={seed}", f"runner.work_dir={folder}", *more])
    return commands


def _as_file_name(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in name)

"""SQL over run folders: the views `runs`, `metrics` and `events`, by DuckDB or, where it is not installed, SQLite."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import UsageRuntimeError, UsageValueError
from ..text import did_you_mean, listed
from .columns import Curve
from .filtering import plain_value
from .index import Index, Outline
from .reading import run_names

ENGINES = ("duckdb", "sqlite")
METRICS = ("run", "name", "mode", "step", "epoch", "value")
EVENTS = ("run", "start", "event", "iter", "time_utc", "what", "detail")
ABOUT = (
    *("run", "path", "run_id", "state", "reason", "iterations", "num_starts", "started_utc", "host", "command", "code"),
    *("parent", "parent_iter"),
)


@dataclass(frozen=True)
class Answer:
    """What a query returned.

    Attributes:
        columns: Names of the columns.
        rows: The rows.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def as_frame(self) -> Any:
        """Return it as a data frame of pandas.

        Raises:
            RuntimeError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise UsageRuntimeError("a data frame needs pandas: pip install pandas; `rows` needs nothing.") from error
        return DataFrame(self.rows, columns=self.columns)


def query(root: str | os.PathLike[str], sql: str, *, engine: str | None = None) -> Answer:
    """Answer a question about the runs in a folder and below it.

    Three views are there:

    - ``runs``: a row for each run: what `ABOUT` lists; the environment as ``env.<name>``; each value of the configs by
      its path, as ``"optimizer.lr"``; the last, smallest and largest value of each curve as ``"last val/loss"``,
      ``"min val/loss"`` and ``"max val/loss"``.
    - ``metrics``: a row for each recorded number: run, name (``val/loss``), mode, step, epoch, value. Starts of resumed
      runs are joined as `read_run` joins them; forks have the records of the run that they branched off.
    - ``events``: a row for each start, change at a resume, and end: run, start, event, iter, time_utc, what, detail.

    Args:
        root: The folder.
        sql: A statement that reads.
        engine: ``"duckdb"`` or ``"sqlite"``; None takes DuckDB where it is installed.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The statement is wrong, as the engine says, or answers nothing.
    """
    if engine is not None and engine not in ENGINES:
        raise UsageValueError(f"engine={engine!r}: expected {' or '.join(map(repr, ENGINES))}.")
    if engine is None:
        engine = "duckdb" if find_spec("duckdb") is not None else "sqlite"
    if changing := re.match(r"\s*(?:delete|insert|update|drop|alter|truncate|create)\b", sql, re.IGNORECASE):
        raise UsageValueError(f"{sql!r}: {changing[0].strip()} changes nothing in a run; write a statement that reads.")
    with closing(Index(root)) as index:
        outlines = index.read()
        names = run_names([outline.path for outline in outlines]) if outlines else []
        views: dict[str, Callable[[], dict[str, Any]]] = {
            "runs": lambda: _columns_of(_runs(names, outlines), ABOUT),
            "events": lambda: _columns_of(list(_events(names, outlines)), EVENTS),
            "metrics": lambda: _metrics(names, [index.curves(outline) for outline in outlines]),
        }
        asked = {name: views[name]() for name in views if re.search(rf"\b{name}\b", sql, re.IGNORECASE)}
        found = (_by_duckdb if engine == "duckdb" else _by_sqlite)(sql, asked)
    if not found.columns:
        raise UsageValueError(f"{sql!r} answers nothing; write a statement such as 'select run, state from runs'.")
    return found


# ------------------------------------------------------------------------------------------------------------ views
def _runs(names: Sequence[str], outlines: Sequence[Outline]) -> list[dict[str, Any]]:
    rows = []
    for name, outline in zip(names, outlines):
        first = outline.training[0] if outline.starts else None
        last = outline.last if outline.starts else None
        parent = first.origin if first is not None and first.is_fork and first.origin else {}
        row = {
            "run": name,
            "path": str(outline.path),
            "run_id": outline.run_id,
            "state": outline.state,
            "reason": outline.mistake or ((last.ended or {}).get("reason") if last else None),
            "iterations": outline.iterations,
            "num_starts": len(outline.starts),
            "started_utc": first.about.get("time_utc") if first else None,
            "host": last.about.get("host") if last else None,
            "command": " ".join(map(str, last.about.get("command", ()))) if last else None,
            "code": outline.code or None,
            "parent": parent.get("run_id"),
            "parent_iter": parent.get("iter"),
        }
        for key, value in outline.environment.items():
            row[f"env.{key}"] = value if isinstance(value, str | int | float | None) else json.dumps(value)
        row.update({path: plain_value(text) for path, text in outline.config.items()})
        for key, extent in outline.extents.items():
            row[f"last {key}"] = extent.last.value
            row[f"min {key}"] = extent.least and extent.least.value
            row[f"max {key}"] = extent.most and extent.most.value
        rows.append(row)
    return rows


def _events(names: Sequence[str], outlines: Sequence[Outline]) -> Iterator[dict[str, Any]]:
    for name, outline in zip(names, outlines):
        for start in outline.starts:
            origin = start.origin or {}
            about = {"run": name, "start": start.number, "time_utc": start.about.get("time_utc")}
            event = (
                "evaluation" if start.kind != "train" else "fork" if start.is_fork else "resume" if origin else "start"
            )
            yield {**about, "event": event, "iter": origin.get("iter", 0), "what": origin.get("path")}
            for change in start.changes:
                detail = f"{change.get('was')} -> {change.get('is')}: {change.get('effect')}"
                more = {"iter": change.get("from_iter"), "what": change.get("path"), "detail": detail}
                yield {**about, "event": "change", **more}
            for kind, entries in start.about.items():  # what others note in run.json, such as a supervisor's decisions
                for entry in entries if isinstance(entries, list) and kind != "command" else ():
                    text = entry if isinstance(entry, str) else json.dumps(entry)
                    iteration = entry.get("iter") if isinstance(entry, dict) else None
                    yield {**about, "event": kind, "iter": iteration, "detail": text}
            if start.ended is not None:
                more = {"iter": start.ended.get("iter"), "what": start.ended.get("how")}
                yield {**about, "time_utc": None, "event": "end", **more, "detail": start.ended.get("reason")}


def _columns_of(rows: Sequence[dict[str, Any]], first: Sequence[str]) -> dict[str, list[Any]]:
    """Return rows as columns, each of one type: where texts and numbers mix, all are texts."""
    names = dict.fromkeys([*first, *(name for row in rows for name in row)])
    found: dict[str, list[Any]] = {}
    taken: dict[str, int] = {}
    for name in names:
        count = taken[name.lower()] = taken.get(name.lower(), 0) + 1  # SQL does not tell capitals apart
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if str in kinds and len(kinds) > 1:
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        elif len(kinds) > 1:
            values = [value if value is None else float(value) for value in values]
        found[name if count == 1 else f"{name} ({count})"] = values
    return found


def _metrics(names: Sequence[str], runs: Sequence[Sequence[Curve]]) -> dict[str, Any]:
    """Return a row for each recorded number: arrays of numbers, and of places in lists of names."""
    pieces: dict[str, list[np.ndarray]] = {"step": [], "epoch": [], "value": []}
    places: dict[str, list[tuple[int, int]]] = {"run": [], "name": [], "mode": []}  # which, how often
    known: dict[str, dict[str, int]] = {"run": {name: i for i, name in enumerate(names)}, "name": {}, "mode": {}}
    for name, curves in zip(names, runs):
        epochs = {curve.mode: curve for curve in curves if curve.label == "epoch"}
        for curve in curves:
            if curve.label == "epoch":
                continue
            steps = np.asarray(curve.steps, dtype=np.float64)
            pieces["step"].append(steps)
            pieces["value"].append(np.asarray(curve.values, dtype=np.float64))
            pieces["epoch"].append(_epochs_at(steps, epochs.get(curve.mode)))
            for column, text in (("run", name), ("name", curve.name), ("mode", curve.mode)):
                places[column].append((known[column].setdefault(text, len(known[column])), len(steps)))
    found: dict[str, Any] = {}
    for column in METRICS:
        if column in places:
            which, counts = np.array(places[column] or np.zeros((0, 2)), dtype=np.int64).T
            found[column] = (np.repeat(which, counts), list(known[column]))
        else:
            found[column] = np.concatenate(pieces[column]) if pieces[column] else np.zeros(0)
    return found


def _epochs_at(steps: np.ndarray, epochs: Curve | None) -> np.ndarray:
    """Return the epochs of records by their steps; NaN where none was recorded."""
    if epochs is None:
        return np.full(len(steps), np.nan)
    at, values = np.asarray(epochs.steps, dtype=np.float64), np.asarray(epochs.values, dtype=np.float64)
    if len(at) == len(steps) and (at == steps).all():
        return values
    order = np.argsort(at, kind="stable")
    place = order[np.clip(np.searchsorted(at[order], steps), 0, len(at) - 1)]
    return np.where(at[place] == steps, values[place], np.nan)


# ---------------------------------------------------------------------------------------------------------- engines
def _by_duckdb(sql: str, views: dict[str, dict[str, Any]]) -> Answer:
    import duckdb

    database = duckdb.connect(":memory:", config={"threads": str(min(8, os.cpu_count() or 1))})
    try:
        for name, columns in views.items():
            if name == "metrics":
                _fill_metrics(database, columns)
            else:
                _fill(database, name, columns)
        database.execute("set enable_external_access = false")
        if (done := database.execute(sql)) is None:  # nothing but a comment
            return Answer([], [])
        columns = [column[0] for column in done.description or ()]
        return Answer(columns, done.fetchall())
    except duckdb.Error as error:
        raise _mistake(sql, error, views) from error
    finally:
        database.close()


def _fill(database: Any, name: str, columns: dict[str, list[Any]]) -> None:
    kinds = {str: "varchar", int: "bigint", float: "double", bool: "boolean"}
    parts, arrays = [], {}
    for number, (column, values) in enumerate(columns.items()):
        kind = next((type(value) for value in values if value is not None), str)
        arrays[f"c{number}"] = _masked(values, kind)
        parts.append(f"c{number}::{kinds[kind]} as {_quoted(column)}")
    database.register("given", arrays)
    database.execute(f"create table {name} as select {', '.join(parts)} from given")
    database.unregister("given")


def _masked(values: Sequence[Any], kind: type) -> np.ndarray:
    missing = [value is None for value in values]
    if kind is str:
        return np.array(values, dtype=object)
    plain = np.array([0 if value is None else value for value in values], dtype=np.int64 if kind is int else kind)
    return np.ma.masked_array(plain, missing) if any(missing) else plain


def _fill_metrics(database: Any, columns: dict[str, Any]) -> None:
    arrays, parts, joins = {}, [], []
    for name, values in columns.items():
        if isinstance(values, tuple):
            arrays[name], texts = values[0].astype(np.int32), values[1]
            database.execute(f"create temp table names_{name} (i integer, text varchar)")
            names = {"i": np.arange(len(texts), dtype=np.int32), "text": np.array(texts, dtype=object)}
            database.register("given", names)
            database.execute(f"insert into names_{name} select i, text from given")
            database.unregister("given")
            parts.append(f"names_{name}.text as {name}")
            joins.append(f"join names_{name} on given.{name} = names_{name}.i")
        elif name == "value":
            arrays[name] = values
            parts.append("given.value")
        else:
            arrays[name] = values
            parts.append(f"case when isnan(given.{name}) then null else given.{name}::bigint end as {name}")
    database.register("numbers", arrays)
    database.execute("create temp table given as select * from numbers")
    database.unregister("numbers")
    database.execute(f"create temp view metrics as select {', '.join(parts)} from given {' '.join(joins)}")


def _by_sqlite(sql: str, views: dict[str, dict[str, Any]]) -> Answer:
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for name, columns in views.items():
            rows = zip(*map(_as_list, columns.values()))
            names = ", ".join(map(_quoted, columns))
            database.execute(f"create table {name} ({names})")
            database.execute("begin")
            database.executemany(f"insert into {name} values ({', '.join('?' * len(columns))})", rows)
            database.execute("commit")
        done = database.execute(sql)
        return Answer([column[0] for column in done.description or ()], done.fetchall())
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _mistake(sql, error, views) from error
    finally:
        database.close()


def _as_list(values: Any) -> list[Any]:
    if isinstance(values, tuple):
        return [values[1][i] for i in values[0].tolist()]
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _mistake(sql: str, error: Exception, views: dict[str, dict[str, Any]]) -> UsageValueError:
    """Return an error of an engine with what could have been meant."""
    text = str(error).strip().partition("\n")[0]
    known = [column for columns in views.values() for column in columns]
    missing = re.search(r"column:? \"?([^\"\s]+)\"?", text)
    hint = did_you_mean(missing[1], known) if missing else ""
    if not views:
        hint = " The views are runs, metrics and events."
    return UsageValueError(f'{sql!r}: {text}.{hint} Columns: {listed(known, 20)}. Names with dots stand in "quotes".')

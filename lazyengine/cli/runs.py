"""Runs on disk, as ``plot_run.py`` and ``compare_runs.py`` read them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..logging import read_metrics

_METRICS = "metrics.jsonl"
_NO_CURVES = {"step", "epoch", "iter", "mode"}
_TECHNICAL = {"time", "data_time", "memory", "grad_norm"}


@dataclass(frozen=True)
class Run:
    """The curves and the config of a run.

    Attributes:
        name: The end of its path, as long as it takes to tell it from the others.
        path: Its folder.
        curves: Steps and values by ``<mode>/<name>``, all starts joined.
        config: Values of the saved config as text, by path; empty where none was saved.
    """

    name: str
    path: Path
    curves: dict[str, tuple[list[int], list[float]]]
    config: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which runs to read, and which of their curves."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--keys", nargs="+", metavar="KEY", help="train/loss, loss, top1 or a pattern such as 'val/*' (losses, metrics)"
    )


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read runs.

    Args:
        folders: Run folders, folders of single starts, or ``metrics.jsonl`` files.

    Raises:
        FileNotFoundError: When something is no run; the message says what is there.
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for path in paths:
        _check(path)
    return [Run(name, path, _curves(path), _config(path)) for name, path in zip(_names(paths), paths)]


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
            near = get_close_matches(pattern, names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no curve is called {pattern!r}{hint or '.'} There are: {', '.join(known) or 'none'}")
        found.update(dict.fromkeys(matches))
    return list(found)


def _spellings(key: str) -> tuple[str, str, str]:
    return key, key.partition("/")[2], _short(key)


def _short(key: str) -> str:
    return key.rpartition("/")[2]


def _check(path: Path) -> None:
    """Refuse what is not exactly one run, and say what it is instead."""
    if path.is_file() or (path / _METRICS).is_file() or any(path.glob(f"*/{_METRICS}")):
        return
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1)
        raise FileNotFoundError(f"{path} does not exist" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    runs = sorted({str(p.parent.parent) for p in path.glob(f"*/*/{_METRICS}")})
    if runs:
        raise FileNotFoundError(f"{path} holds several runs; name them: {' '.join(runs)}")
    inside = sorted(p.name for p in path.iterdir())
    shown = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
    raise FileNotFoundError(
        f"{path} is no run that has logged: it has no {_METRICS}, nor has a folder in it; it holds {shown or 'nothing'}"
    )


def _names(paths: Sequence[Path]) -> list[str]:
    for length in range(1, max(len(path.parts) for path in paths)):
        names = [os.path.join(*path.parts[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _curves(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record in read_metrics(path):
        for name, value in record.items():
            if name not in _NO_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
                mode = f"{record['mode']}/"
                steps, values = curves.setdefault(name if name.startswith(mode) else mode + name, ([], []))
                steps.append(record["step"])
                values.append(float(value))
    return curves


def _config(path: Path) -> dict[str, str]:
    """The config as it was saved, without importing anything that it names."""
    for file in (path / "config.json", *sorted(path.glob("*/config.json"), reverse=True)):
        if file.is_file():
            found: dict[str, str] = {}
            _flatten(json.loads(file.read_text(encoding="utf-8"))["values"], "", found)
            return found
    return {}


def _flatten(value: Any, path: str, found: dict[str, str]) -> None:
    """Walk over the JSON form of a config, see `lazyengine.config.saving_json`."""
    if isinstance(value, dict) and ("$call" in value or "$partial" in value):
        found[f"{path}._target_"] = str(value.get("$call", value.get("$partial"))).replace(":", ".")
        value = {**value.get("$with", {}), **({"*": value["$args"]} if "$args" in value else {})}
    if isinstance(value, dict) and list(value) == ["$tuple"]:
        value = value["$tuple"]
        if not any(isinstance(entry, dict | list) for entry in value):
            found[path] = f"({', '.join(map(json.dumps, value))})"
            return
    if isinstance(value, dict) and not any(key.startswith("$") for key in value):
        for key, entry in value.items():
            _flatten(entry, f"{path}.{key}" if path else key, found)
    elif isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        for i, entry in enumerate(value):
            _flatten(entry, f"{path}[{i}]", found)
    elif isinstance(value, dict):  # {"$same": "model"}, {"$object": "torch:float16"} …
        found[path] = " ".join(str(content) for content in value.values())
    else:
        found[path] = json.dumps(value)

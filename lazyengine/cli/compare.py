"""The command line that puts runs side by side: ``tools/compare_runs.py``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from .mistakes import refuse, tell
from .runs import Run, add_arguments, choose_keys, read_runs

_DESCRIPTION = """\
Put runs side by side: what differs in their configs, and the best and last values of their metrics.

RUN is the folder of a run, or of one start. Configs are compared as they were saved (config.json); nothing is imported.
"""
_EPILOG = """\
examples:
  %(prog)s work_dirs/lr1e-3 work_dirs/lr3e-3
  %(prog)s work_dirs/* --keys top1 val/loss

exit codes: 0 done; 2 a folder is no run, or a key is not there.
"""
_MAX_CELL = 40
_PLACES = ("runner.work_dir", "runner.experiment_name")  # where and under which name: the heading says it


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        runs = read_runs(args.runs)
        keys = choose_keys(runs, args.keys)
    except Exception as error:
        return refuse(error)
    tell(compare(runs, keys))
    return 0


def compare(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """Return the table: a column for each run, a row for each difference and each value.

    Args:
        runs: The runs.
        keys: Names of the curves whose best and last values are shown.
    """
    rows: list[list[str]] = [["", *(run.name for run in runs)], [], ["config"]]
    paths = dict.fromkeys(path for run in runs for path in run.config if path not in _PLACES)
    with_config = [run for run in runs if run.config]
    for path in paths:
        if len({run.config.get(path) for run in with_config}) > 1:
            cells = [run.config.get(path, "-" if run.config else "?") for run in runs]
            names = [cell.rpartition(".")[2] for cell in cells]
            is_clear = path.endswith("_target_") and len(set(names)) == len(set(cells))
            rows.append([f"  {path}", *(names if is_clear else cells)])
    if len(rows) == 3:
        rows[2] = ["config: no difference" if with_config else "config: none was saved"]
    rows += [[], ["metrics"]]
    for key in keys:
        if (best := [_best(run, key) for run in runs]) != ["-"] * len(runs):
            rows.append([f"  {key}  best", *best])
        rows.append([f"  {key}  last", *(_value(run, key, -1) for run in runs)])
    last = [max((steps[-1] for steps, _ in run.curves.values()), default=0) for run in runs]
    rows.append(["  iterations", *map(str, last)])
    return _format(rows)


def _best(run: Run, key: str) -> str:
    """The best value with its step; ``-`` where the name does not say what is better."""
    from ..hooks.best import BestTracker

    values = [value for value in run.curves.get(key, ([], []))[1] if math.isfinite(value)]
    try:
        better = max if BestTracker([key]).rule_of(key) == "greater" else min
    except ValueError:
        return "-"
    return _value(run, key, run.curves[key][1].index(better(values))) if values else "-"


def _value(run: Run, key: str, index: int) -> str:
    if key not in run.curves:
        return "-"
    steps, values = run.curves[key]
    return f"{values[index]:.5g} @ {steps[index]}"


def _format(rows: Sequence[Sequence[str]]) -> str:
    """Align the columns and shorten what is long in its middle."""
    clipped = [[_clip(cell) if i else cell for i, cell in enumerate(row)] for row in rows]
    columns = max(map(len, clipped))
    widths = [max(len(row[i]) for row in clipped if len(row) > max(i, 1)) for i in range(columns)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in clipped]
    return "\n".join(lines)


def _clip(cell: str) -> str:
    half = (_MAX_CELL - 1) // 2
    return cell if len(cell) <= _MAX_CELL else f"{cell[:half]}…{cell[-half:]}"

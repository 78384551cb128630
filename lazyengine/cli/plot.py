"""Draw the curves of one run or of several in the terminal and, with --output, in one picture.

RUN is the folder of a run (its resumed starts are joined), of one start, or a metrics.jsonl. Without --keys, losses and
metrics are drawn; a fork from the point where it branched off. Curves of training are smoothed, except learning rates;
the picture shows the logged values behind.

examples:
  %(prog)s work_dirs/digits
  %(prog)s work_dirs/lr1e-3 work_dirs/lr3e-3 --output curves.png
  %(prog)s work_dirs/* --keys train/loss 'val/*' --smooth 0.9
  %(prog)s work_dirs/digits --keys lr grad_norm --smooth 0

exit codes: 0 done; 2 a folder is no run, or a key is not there.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import Any

from ..analysis.curves import draw_curves, smooth, write_curves
from ..errors import UsageValueError
from ..runs import Run, choose_keys, from_branch_point, read_runs
from ..text import listed
from .command import Arguments, CommandParser, add_keys, as_json, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    add_keys(parser)
    parser.add_argument(
        "--smooth",
        type=_weight,
        default=0.6,
        metavar="W",
        help="weight of the past in training curves, from 0 (as logged) to below 1 (default 0.6)",
    )
    parser.add_argument("--output", metavar="PNG", help="also write a picture (needs matplotlib)")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Draw curves."""
    runs = read_runs(args.runs)
    keys = choose_keys(runs, args.keys)
    if not keys:
        raise UsageValueError(f"{listed(args.runs)}: nothing is recorded there yet.")
    drawn = [from_branch_point(run) for run in runs]
    print(as_json(_values(runs, keys)) if args.json else draw(drawn, keys, args.smooth))
    if args.output is not None:
        write_picture(drawn, keys, args.smooth, args.output)
        if not args.json:
            print(f"\nwritten: {args.output}")
    return 0


def draw(runs: Sequence[Run], keys: Sequence[str], weight: float, width: int | None = None) -> str:
    """Return the curves as text, key by key.

    Args:
        runs: The runs; one without a curve is left out of its frame.
        keys: Names of curves.
        weight: Smoothing of training curves, see `smooth`.
        width: Columns; None for those of the terminal, at most 100.
    """
    width = width or min(shutil.get_terminal_size().columns, 100)
    parts = []
    for key in keys:
        curves = {run.name: (run.curves[key][0], _shown(runs, run, key, weight)) for run in runs if key in run.curves}
        parts.append(draw_curves(key, curves, x_title="iteration {}", width=width))
    return "\n\n".join(parts)


def write_picture(runs: Sequence[Run], keys: Sequence[str], weight: float, path: str) -> None:
    """Write the curves as a PNG, a panel for each key; arguments as those of `draw`."""
    of_runs = {key: {run.name: run for run in runs if key in run.curves} for key in keys}
    shown = {
        key: {name: (run.curves[key][0], _shown(runs, run, key, weight)) for name, run in found.items()}
        for key, found in of_runs.items()
    }
    smoothed = [key for key in keys if weight and _is_smoothed(key)]
    logged = {key: {name: run.curves[key] for name, run in of_runs[key].items()} for key in smoothed}
    note = f"training curves smoothed by {weight:g}, the logged values behind" if smoothed else ""
    write_curves(shown, path, behind=logged, columns=2 if len(keys) == 4 else min(len(keys), 3), note=note)


def _values(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Return the curves as they were logged: steps and values by run and key."""
    return {
        run.name: {key: dict(zip(("steps", "values"), run.curves[key])) for key in keys if key in run.curves}
        for run in runs
    }


def _shown(runs: Sequence[Run], run: Run, key: str, weight: float) -> list[float]:
    """The values as they are drawn; runs that log at other intervals are smoothed over as many iterations."""
    steps, values = run.curves[key]
    if not weight or not _is_smoothed(key):
        return values
    lengths = [(each[-1] - each[0], len(each) - 1) for r in runs if len(each := r.curves.get(key, ([], []))[0]) > 1]
    return smooth(steps, values, weight, min((span / n for span, n in lengths if span > 0), default=1.0))


def _is_smoothed(key: str) -> bool:
    """What is drawn from single batches; a learning rate or a metric of a whole set has no noise to take away."""
    return key.startswith("train/") and "lr" not in key.rpartition("/")[2].split(".")


def _weight(text: str) -> float:
    weight = float(text)
    if not 0 <= weight < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to below 1")
    return weight

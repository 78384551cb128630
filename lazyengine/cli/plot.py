"""The command line that draws the curves of runs: ``tools/plot_run.py``."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from typing import Any

from ..runs import Run, choose_keys, from_branch_point, read_runs
from .mistakes import as_json, refuse, tell

_DESCRIPTION = """\
Draw the curves of one run or of several in the terminal and, with --output, in one picture.

RUN is the folder of a run (its resumed starts are joined), of one start, or a metrics.jsonl. Without --keys, losses and
metrics are drawn; a fork from the point where it branched off. Curves of training are smoothed, except learning rates;
the picture shows the logged values behind.
"""
_EPILOG = """\
examples:
  %(prog)s work_dirs/digits
  %(prog)s work_dirs/lr1e-3 work_dirs/lr3e-3 --output curves.png
  %(prog)s work_dirs/* --keys train/loss 'val/*' --smooth 0.9
  %(prog)s work_dirs/digits --keys lr grad_norm --smooth 0

exit codes: 0 done; 2 a folder is no run, or a key is not there.
"""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which runs to read, which of their curves, and how to print them."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--keys", nargs="+", metavar="KEY", help="train/loss, loss, top1 or a pattern such as 'val/*' (losses, metrics)"
    )
    parser.add_argument("--json", action="store_true", help="print the values as JSON, for other programs")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--smooth",
        type=_weight,
        default=0.6,
        metavar="W",
        help="weight of the past in training curves, from 0 (as logged) to below 1 (default 0.6)",
    )
    parser.add_argument("--output", metavar="PNG", help="also write a picture (needs matplotlib)")
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
    drawn = [from_branch_point(run) for run in runs]
    text = as_json(_values(runs, keys)) if args.json else draw(drawn, keys, args.smooth)
    if args.output is not None:
        write_picture(drawn, keys, args.smooth, args.output)
        text += "" if args.json else f"\n\nwritten: {args.output}"
    tell(text)
    return 0


def smooth(steps: Sequence[int], values: Sequence[float], weight: float, spacing: float = 1.0) -> list[float]:
    """Return the exponential average ``s_i = w s_{i-1} + (1 - w) v_i`` without the bias towards its start of 0.

    Args:
        steps: Positions of the values, ascending.
        values: What to average. NaN and infinities stay where they are and do not enter the average.
        weight: `w` of two values that are ``spacing`` apart, in [0, 1); the farther apart, the less the past counts.
            0 changes nothing.
        spacing: Distance in steps for which ``weight`` holds.
    """
    average, total, last, smoothed = 0.0, 0.0, steps[0] if steps else 0, []
    for step, value in zip(steps, values):
        if math.isfinite(value):
            past = weight ** max((step - last) / spacing, 0.0) if weight and total else weight
            average, total, last = past * average + (1 - past) * value, past * total + (1 - past), step
            value = average / total
        smoothed.append(value)
    return smoothed


def draw(runs: Sequence[Run], keys: Sequence[str], weight: float, width: int | None = None) -> str:
    """Return the curves as text, key by key.

    Args:
        runs: The runs; one without a curve is left out of its frame.
        keys: Names of curves.
        weight: Smoothing of training curves, see `smooth`.
        width: Columns; None for those of the terminal, at most 100.
    """
    from ..analysis.text_plot import draw_curves

    width = width or min(shutil.get_terminal_size().columns, 100)
    parts = []
    for key in keys:
        curves = {run.name: (run.curves[key][0], _shown(runs, run, key, weight)) for run in runs if key in run.curves}
        parts.append(draw_curves(key, curves, x_title="iteration {}", width=width))
    return "\n\n".join(parts)


def write_picture(runs: Sequence[Run], keys: Sequence[str], weight: float, path: str) -> None:
    """Write the curves as a PNG, a panel for each key; arguments as those of `draw`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 if len(keys) == 4 else min(len(keys), 3)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(1 + 5 * columns, 0.8 + 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles = {}
    last = max(run.curves[key][0][-1] for run in runs for key in keys if key in run.curves) or 1
    for axis, key in zip(axes, keys):
        for number, run in enumerate(runs):
            if key not in run.curves:
                continue
            steps, values = run.curves[key]
            if _is_smoothed(key) and weight:
                axis.plot(steps, values, color=f"C{number % 10}", alpha=0.25, linewidth=1)
            marker = "" if key.startswith("train/") and len(steps) > 1 else "o"
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            (handles[run.name],) = axis.plot(
                steps, _shown(runs, run, key, weight), marker=marker, markersize=3.5, linewidth=1.6, **style
            )
        axis.set_title(key, fontsize="medium")
        axis.set_xlabel("iteration")
        axis.set_xlim(0, last * 1.02)
        axis.grid(alpha=0.3)
    for axis in axes[len(keys) :]:
        axis.set_visible(False)
    if weight and any(map(_is_smoothed, keys)):
        figure.supxlabel(f"training curves smoothed by {weight:g}, the logged values behind", fontsize="small")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)


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

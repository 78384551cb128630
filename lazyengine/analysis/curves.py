"""Curves: smoothed, as text and as pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import UsageRuntimeError

_MARKS = "●○■□▲△◆◇"
_MARGIN = 11

Curve = tuple[Sequence[float], Sequence[float]]


def draw_curves(
    title: str,
    curves: Mapping[str, Curve],
    *,
    x_title: str,
    width: int = 72,
    height: int = 10,
    x_from: float | None = None,
) -> str:
    """Draw curves in one frame of characters.

    Args:
        title: Written above, with the mark and the name of each curve beside it.
        curves: Positions, ascending, and values by name (``""`` for a lone one without); values that are not finite
            are left out, and counted above.
        x_title: Written below, with the last position in the place of ``{}``.
        width: Columns of the text.
        height: Rows of the frame.
        x_from: Position of the left edge; None for the first of all positions.
    """
    columns = max(width - _MARGIN, 10)
    finite = {name: _finite(curve) for name, curve in curves.items()}
    xs, ys = (np.concatenate([curve[i] for curve in finite.values()]) for i in (0, 1))
    if not len(xs):
        return f"{title}: no finite value"
    low, high = float(ys.min()), float(ys.max())
    if high - low <= 1e-12 * abs(high):  # a smoothed constant
        high = low
    left, right = float(xs.min()) if x_from is None else x_from, float(xs.max())
    centres = np.linspace(left, right, columns)
    grid = [[" "] * columns for _ in range(height)]
    marks = dict(zip(finite, _MARKS))
    for name, mark in reversed(marks.items()):  # the first is drawn last, over the others
        for column, value in enumerate(_resample(*finite[name], centres)):
            if np.isfinite(value):
                grid[height - 1 - round((value - low) / (high - low or 1.0) * (height - 1))][column] = mark
    edges = {0: _number(high), height - 1: _number(low)}
    rows = [f"{edges.get(row, ''):>{_MARGIN - 2}} ┤{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    below = x_title.format(f"{right:g}")
    rows.append(" " * (_MARGIN - 1) + "└" + "─" * columns)
    rows.append(" " * _MARGIN + f"{left:g}".ljust(columns - len(below)) + below)
    if list(finite) != [""]:
        title += ": " + "   ".join(f"{marks.get(name, '·')} {name}" for name in finite)
    if len(finite) > len(_MARKS):
        title += f"   (the first {len(_MARKS)} of {len(finite)} are drawn)"
    if (num := sum(len(curve[1]) for curve in curves.values())) > len(ys):
        title += f"   ({num - len(ys)} of {num} values are not finite)"
    return "\n".join([title, *rows])


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


def write_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    path: str | os.PathLike[str],
    *,
    behind: Mapping[str, Mapping[str, Curve]] | None = None,
    columns: int = 1,
    note: str = "",
    epoch_length: int | None = None,
) -> None:
    """Write curves as a PNG, one panel for each group of them.

    Args:
        panels: Curves by name, by the title of their panel; a name has the same colour in all panels.
        path: The file.
        behind: Curves that are drawn pale behind those of the same panel and name.
        columns: Panels beside one another.
        note: Written below.
        epoch_length: Iterations of an epoch, which makes a second axis; None for none.

    Raises:
        UsageRuntimeError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageRuntimeError(
            f"{path} was not written: it needs matplotlib: pip install 'lazyengine[plot]'"
        ) from error

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1 + 5 * columns if columns > 1 else 8, 0.8 + 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    lines = {}
    for axis, (title, curves) in zip(axes, panels.items()):
        for name, (x, y) in curves.items():
            number = names.index(name)
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            if behind and name in behind.get(title, ()):
                axis.plot(*behind[title][name], color=style["color"], alpha=0.25, linewidth=1)
            (lines[name],) = axis.plot(x, y, marker="o" if len(x) < 20 else "", markersize=3.5, linewidth=1.6, **style)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
        if epoch_length and axis.get_xlim()[1] >= epoch_length:
            change = (lambda x: x / epoch_length, lambda x: x * epoch_length)
            axis.secondary_xaxis("top", functions=change).set_xlabel("epoch")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel(note, fontsize="small")
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)


def _finite(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(part, dtype=float) for part in curve)
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _resample(x: np.ndarray, y: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The mean of the values around each position; between sparse ones the straight line; NaN outside."""
    if not len(x):
        return np.full(len(centres), np.nan)
    values = np.interp(centres, x, y)
    step = centres[1] - centres[0]
    values[(centres < x[0] - step / 2) | (centres > x[-1] + step / 2)] = np.nan
    if step > 0:
        column = np.clip(np.round((x - centres[0]) / step).astype(int), 0, len(centres) - 1)
        counts = np.bincount(column, minlength=len(centres))
        means = np.bincount(column, y, minlength=len(centres)) / np.maximum(counts, 1)
        values = np.where(counts > 0, means, values)
    return values


def _number(value: float) -> str:
    return f"{value:.3e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"

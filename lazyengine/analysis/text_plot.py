"""Curves as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
            are left out.
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
    return "\n".join([title, *rows])


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

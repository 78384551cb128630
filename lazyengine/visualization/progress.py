"""A progress bar on the terminal, by rich; nothing anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from .. import dist
from ..errors import UsageValueError
from ..logging import is_rich_terminal


class ProgressBar:
    """Shows one bar for each mode that is running, with values beside it.

    Without a terminal, or where rich is not installed, every method does nothing. Log lines of `MMLogger` appear above
    the bars. Where the terminal has no room for all values, the last are left out. The thread that calls draws, at most
    ``refreshes_per_s`` times a second: no thread competes with training.

    Args:
        refreshes_per_s: How often the bars are drawn.
    """

    def __init__(self, refreshes_per_s: float = 4.0) -> None:
        if not refreshes_per_s > 0:
            raise UsageValueError(f"ProgressBar: refreshes_per_s must be positive, got {refreshes_per_s!r}")
        self._interval_s = 1.0 / refreshes_per_s
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}  # by mode
        self._done: dict[str, int] = {}
        self._room: dict[str, int] = {}  # columns for values
        self._next_draw = 0.0

    def start(self) -> bool:
        """Begin to show bars where ``sys.stdout`` is a terminal and rich is installed, on the main process: whether."""
        if self._progress is None and dist.is_main_process() and is_rich_terminal(sys.stdout):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            console = Console(highlight=False, soft_wrap=True)
            self._bar_width = min(max(console.width - 72, 8), 24)
            self._progress = Progress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(self._bar_width),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}", style="cyan"),
                console=console,
                auto_refresh=False,
                transient=True,
            )
            try:
                self._progress.start()
            except OSError:
                self.stop()
        return self._progress is not None

    def begin(self, mode: str, total: int | None, description: str | None = None, completed: int = 0) -> None:
        """Show the bar of ``mode`` from ``completed`` of ``total`` (None: no known end)."""
        if self._progress is not None:
            self.end(mode)
            self._done[mode] = completed
            taken = len(description or mode) + self._bar_width + 2 * len(str(total or "?")) + 4
            self._room[mode] = self._progress.console.width - taken
            self._tasks[mode] = self._progress.add_task(description or mode, total=total, values="")
            self._draw()

    def advance(self, mode: str, values: Callable[[], Mapping[str, Any]] | None = None) -> None:
        """Count one iteration. Cheap: the bar is drawn when it is due, and ``values`` is called then.

        Args:
            mode: Whose bar it is.
            values: Returns what is shown beside the bar: numbers already on the host, and text such as the ETA.
        """
        if mode in self._tasks:
            self._done[mode] += 1
            if time.monotonic() >= self._next_draw:
                shown = values() if values is not None else {}
                texts = [f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in shown.items()]
                while texts and len("  ".join(texts)) > self._room[mode]:
                    texts.pop()
                self._progress.update(self._tasks[mode], values="  ".join(texts))
                self._draw()

    def end(self, mode: str) -> None:
        """Remove the bar of ``mode``."""
        if mode in self._tasks:
            self._progress.remove_task(self._tasks.pop(mode))
            self._draw()

    def stop(self) -> None:
        """Remove all bars and leave the terminal as it was. Call it also when training fails."""
        for mode in list(self._tasks):
            self.end(mode)
        if self._progress is not None:
            progress, self._progress = self._progress, None
            with contextlib.suppress(OSError):
                progress.stop()

    def _draw(self) -> None:
        for mode, task in self._tasks.items():
            self._progress.update(task, completed=self._done[mode])
        try:
            self._progress.refresh()
        except OSError:  # the terminal is closed; the log says so
            self._tasks.clear()
            self.stop()
        self._next_draw = time.monotonic() + self._interval_s

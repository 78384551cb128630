"""A progress bar on the terminal, by rich; nothing anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .terminal import count_bars, rich_terminal


class ProgressBar:
    """Shows one bar for each mode that is running, with values beside it.

    Without a terminal, or where rich is not installed, every method does nothing. Log lines of `MMLogger` appear above
    the bars. The thread that calls draws, at most ``refreshes_per_s`` times a second: no thread competes with training.

    Args:
        refreshes_per_s: How often the bars are drawn.
    """

    def __init__(self, refreshes_per_s: float = 4.0) -> None:
        if not refreshes_per_s > 0:
            raise ValueError(f"ProgressBar: refreshes_per_s must be positive, got {refreshes_per_s!r}")
        self._interval_s = 1.0 / refreshes_per_s
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}
        self._done: dict[str, int] = {}
        self._next_draw = 0.0

    @property
    def enabled(self) -> bool:
        """Whether bars are shown: between `start` and `stop`, on a terminal, with rich."""
        return self._progress is not None

    def start(self) -> None:
        """Begin to show bars, if ``sys.stdout`` is a terminal, rich is installed and this is the main process."""
        from ..dist import is_main_process

        console = rich_terminal() if is_main_process() else None
        if console is None or self._progress is not None:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}", style="cyan"),
        )
        self._progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._progress.start()
        count_bars(1)

    def begin(self, mode: str, total: int | None, description: str | None = None, completed: int = 0) -> None:
        """Show the bar of ``mode`` from ``completed`` of ``total`` (None: no known end)."""
        if self._progress is None:
            return
        self.end(mode)
        self._done[mode] = completed
        self._tasks[mode] = self._progress.add_task(description or mode, total=total, completed=completed, values="")
        self._draw()

    def advance(self, mode: str, values: Callable[[], Mapping[str, Any]] | None = None) -> None:
        """Count one iteration. Cheap: the bar is drawn when it is due, and ``values`` (see `show`) is called then."""
        if self._progress is None or mode not in self._tasks:
            return
        self._done[mode] += 1
        if time.monotonic() >= self._next_draw:
            if values is None:
                self._draw()
            else:
                self.show(mode, values())

    def show(self, mode: str, values: Mapping[str, Any]) -> None:
        """Show values beside the bar of ``mode``: numbers already on the host, and text such as the ETA."""
        if self._progress is None or mode not in self._tasks:
            return
        text = "  ".join(f"{name} {_text(value)}" for name, value in values.items())
        self._progress.update(self._tasks[mode], values=text)
        if time.monotonic() >= self._next_draw:
            self._draw()

    def end(self, mode: str) -> None:
        """Remove the bar of ``mode``."""
        if self._progress is not None and mode in self._tasks:
            self._progress.remove_task(self._tasks.pop(mode))
            self._draw()

    def stop(self) -> None:
        """Remove all bars and give the terminal back. Call it also when training fails."""
        if self._progress is not None:
            for mode in list(self._tasks):
                self._progress.remove_task(self._tasks.pop(mode))
            self._progress.stop()
            count_bars(-1)
            self._progress = None

    def _draw(self) -> None:
        for mode, task in self._tasks.items():
            self._progress.update(task, completed=self._done[mode])
        self._progress.refresh()
        self._next_draw = time.monotonic() + self._interval_s


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

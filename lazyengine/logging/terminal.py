"""The terminal that log lines and the progress bar share, by rich where it is installed."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any, TextIO

_STYLES = {
    "DEBUG": "dim",
    "INFO": "cyan",
    "WARNING": "bold yellow",
    "ERROR": "bold red",
    "CRITICAL": "bold white on red",
}
_console: Any = None
_num_bars = 0


@functools.cache
def has_rich() -> bool:
    """Tell whether rich is installed, without importing it."""
    return importlib.util.find_spec("rich") is not None


def rich_terminal(stream: TextIO | None = None) -> Any:
    """Return the shared ``rich.console.Console`` if ``stream`` (default ``sys.stdout``) is a terminal, else None."""
    global _console
    stream = sys.stdout if stream is None else stream
    if stream is None:
        return None
    if _console is not None and (stream is _console.file or _is_live(stream)):
        return _console
    if not stream.isatty() or not has_rich():
        return None
    from rich.console import Console

    _console = Console(file=stream, highlight=False, soft_wrap=True)
    return _console if _console.is_terminal else None


def _is_live(stream: TextIO) -> bool:
    """While a progress bar is shown, rich puts its own object in the place of ``sys.stdout``."""
    return getattr(stream, "rich_proxied_file", None) is _console.file


def print_line(time: str, level: str, place: str, message: str) -> None:
    """Print a log line: time and place dim, the level coloured, the message as it is."""
    if _num_bars:  # rich has to redraw the bars below
        _console.print(_coloured(time, level, place).append(f"  {message}", ""))
        return
    file = _console.file
    file.write(_template(_console, level).replace("<time>", time).replace("<place>", place) + f"  {message}\n")
    file.flush()


def _coloured(time: str, level: str, place: str) -> Any:
    from rich.text import Text

    return Text.assemble((time, "dim"), " ", (level, _STYLES.get(level, "")), " ", (place, "dim"))


@functools.lru_cache(maxsize=32)
def _template(console: Any, level: str) -> str:
    """The coloured head of a line as rich renders it for this terminal; done once, as it takes 0.2 ms."""
    with console.capture() as capture:
        console.print(_coloured("<time>", level, "<place>"), end="")
    return capture.get()


def count_bars(change: int) -> None:
    """Tell that a progress bar appears (1) or goes (-1)."""
    global _num_bars
    _num_bars += change

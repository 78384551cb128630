"""The logger of a run: standard logging underneath, every line with the place that wrote it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from .. import dist
from ..errors import UsageTypeError, UsageValueError
from ..text import ignore_broken_pipe, listed, short
from .manager import ManagerMixin
from .terminal import terminal_line, wrap_message

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LINE = "{time} {level} {place}  {message}"
_STYLES = {"DEBUG": "2", "INFO": "36", "WARNING": "1;33", "ERROR": "1;31", "CRITICAL": "1;37;41"}


class LineFormatter(logging.Formatter):
    """``2026-01-31 12:00:00 INFO hooks/logger_hook.py:57  message``, then the traceback if there is one.

    Args:
        for_terminal: Whether to write for people, whose columns are few: ``12:00:00  message``; level and place only
            where the level is another than INFO, without the folders of this package's own files; see also
            `terminal_line`. Where stdout is a terminal, lines are broken between words at its width.
        is_coloured: Whether time and place are dim, and the level is coloured.
    """

    def __init__(self, for_terminal: bool = False, is_coloured: bool = False) -> None:
        super().__init__()
        self._for_terminal = for_terminal
        self._is_coloured = is_coloured

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        message = "\n".join(part for part in (message, record.exc_text, record.stack_info) if part)
        when, path, level = _time_text(int(record.created)), _short_path(record.pathname), record.levelname
        if not self._for_terminal:
            return _LINE.format(time=when, level=level, place=f"{path}:{record.lineno}", message=message)
        if record.pathname.startswith(_PACKAGE):
            path = record.filename
        when, place, is_info = when[11:], f"{path}:{record.lineno}", record.levelno == logging.INFO
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
            begin = len(when) + 2 + (0 if is_info else len(level) + len(place) + 2)
            message = wrap_message(terminal_line(message, min(columns, 100) - 10), columns, begin)
        else:
            message = terminal_line(message)
        when, place = self._in_style("2", when), self._in_style("2", place)
        level = self._in_style(_STYLES.get(level, "0"), level)
        return f"{when}  {message}" if is_info else _LINE.format(time=when, level=level, place=place, message=message)

    def _in_style(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._is_coloured else text


@functools.lru_cache(maxsize=1)
def _time_text(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@functools.cache
def _short_path(pathname: str) -> str:
    """Return a path relative to the working directory, or the last folders of one that lies elsewhere."""
    path = os.path.abspath(pathname)
    is_inside = path.startswith(os.getcwd() + os.sep) and "site-packages" not in path
    return os.path.relpath(path) if is_inside else os.sep.join(path.split(os.sep)[-3:])


@functools.cache
def has_rich() -> bool:
    """Return whether rich is installed, without importing it."""
    return importlib.util.find_spec("rich") is not None


def is_rich_terminal(stream: TextIO | None) -> bool:
    """Return whether text on a stream is coloured and bars are shown: on a terminal, where rich is installed."""
    is_terminal = stream is not None and stream.isatty() and has_rich()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _TerminalHandler(logging.Handler):
    """Writes to the present ``sys.stdout``; while a progress bar is shown, that is rich's, which writes above it."""

    _formatters = (LineFormatter(for_terminal=True), LineFormatter(for_terminal=True, is_coloured=True))

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "is_for_file", False):
            return
        try:
            stream = sys.stdout
            with ignore_broken_pipe():  # the run goes on, and its log file has the lines
                stream.write(self._formatters[is_rich_terminal(stream)].format(record) + "\n")
                stream.flush()
        except Exception:
            self.handleError(record)


class MMLogger(logging.Logger, ManagerMixin):
    """A logger that is found by its instance name.

    It is no part of the tree of ``logging.getLogger``: nothing that other libraries configure changes it, and nothing
    is printed twice. The text file is written line by line: a killed process loses none.

    Args:
        name: Name of the instance.
        logger_name: ``logger.name``.
        log_file: File to write to; its folder is created. None: no file.
        log_level: Least level that is written, a name or a number of ``logging``.
        file_mode: Mode in which the file is opened; ``"a"`` never destroys an earlier log.
        distributed: True: each rank of several writes its own file, ``<stem>.rank<k><suffix>``. False: only rank 0
            writes. Ranks other than 0 print errors only.

    Attributes:
        log_file: Path of this process' log file, or None.
        folder: Path of the folder of the log, also where this process writes none; None: there is no log.

    Raises:
        ValueError: When ``log_level`` is no level.
    """

    _default_name = "lazyengine"

    def __init__(
        self,
        name: str,
        logger_name: str = "lazyengine",
        log_file: str | os.PathLike[str] | None = None,
        log_level: int | str = "INFO",
        file_mode: str = "a",
        distributed: bool = False,
    ) -> None:
        logging.Logger.__init__(self, logger_name, _level_of(log_level))
        ManagerMixin.__init__(self, name)
        self.propagate = False
        rank = dist.get_rank()
        self.addHandler(_TerminalHandler(logging.NOTSET if rank == 0 else logging.ERROR))
        self.log_file: str | None = None
        self.folder = None if log_file is None else os.path.dirname(os.path.abspath(os.fspath(log_file)))
        if log_file is not None and (rank == 0 or distributed):
            path = os.path.abspath(os.fspath(log_file))
            if distributed and dist.get_world_size() > 1:
                stem, suffix = os.path.splitext(path)
                path = f"{stem}.rank{rank}{suffix}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handler = logging.FileHandler(path, file_mode, encoding="utf-8")  # flushes after every record
            handler.setFormatter(LineFormatter())
            self.addHandler(handler)
            self.log_file = path

    def setLevel(self, level: int | str) -> None:
        """Set the least level that is written."""
        self.level = _level_of(level)

    def isEnabledFor(self, level: int) -> bool:
        """Return whether a level is written; never remembered, since `logging.disable` does not know this logger."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()

    def to_file(self, message: str, *args: Any, level: int = logging.INFO) -> None:
        """Write a message to the log file alone: what is long, or is on the terminal already."""
        self.log(level, message, *args, extra={"is_for_file": True}, stacklevel=2)

    @contextlib.contextmanager
    def keeping_warnings(self) -> Iterator[None]:
        """Write Python's warnings to the log file too, while the block runs."""
        show = warnings.showwarning

        def write(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            self.to_file("%s: %s (%s:%d)", category.__name__, message, filename, lineno, level=logging.WARNING)
            show(message, category, filename, lineno, *rest)

        warnings.showwarning = write
        try:
            yield
        finally:
            warnings.showwarning = show

    def close(self) -> None:
        """Close the file, and remove the logger from those that are found by name.

        A line that still comes opens the file again (in mode ``"a"``), until the next `close`.
        """
        for handler in self.handlers:
            handler.close()
        super().close()


def print_log(msg: Any, logger: logging.Logger | str | None = None, level: int | str = logging.INFO) -> None:
    """Write a message; the line names the file and line that called this function.

    Args:
        msg: The message.
        logger: None: plain ``print``. ``"current"``: that of the running runner, else the one created last.
            ``"silent"``: nowhere. Another str: the `MMLogger` of that name. Or a logger.
        level: A level of ``logging``, by number or name.

    Raises:
        ValueError: When no logger has the name.
        TypeError: When ``logger`` is something else.
    """
    if logger is None:
        print(msg)
    if logger is None or logger == "silent":
        return
    if logger == "current":
        logger = MMLogger.get_current_instance()
    elif isinstance(logger, str):
        if not MMLogger.check_instance_created(logger):
            raise UsageValueError(
                f"print_log: no MMLogger is called {logger!r}; there are: {listed(MMLogger._instances)}. "
                "Create it by MMLogger.get_instance, or pass 'current', 'silent' or None"
            )
        logger = MMLogger.get_instance(logger)
    if not isinstance(logger, logging.Logger):
        raise UsageTypeError(f"print_log: logger must be a Logger, a str or None, got {short(logger)}")
    logger.log(_level_of(level), msg, stacklevel=2)


def output_path(path: str | os.PathLike[str]) -> str:
    """Return the full path of a file or folder that a metric or a hook writes, and make the folder that it lies in.

    Args:
        path: A relative one lies in the folder of the running start; outside a run, in the current folder.
    """
    running = MMLogger.get_running_instance()
    folder = running.folder if running is not None else None
    full = os.path.abspath(os.path.join(folder or "", os.path.expanduser(os.fspath(path))))
    os.makedirs(os.path.dirname(full), exist_ok=True)
    return full


def log_error(message: str) -> None:
    """Write an error that training survives to the current logger."""
    print_log(f"{message}, training goes on", logger="current", level=logging.ERROR)


def _level_of(level: int | str) -> int:
    names = logging.getLevelNamesMapping()
    number = names.get(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise UsageValueError(f"unknown log level {level!r}; known are {listed(names)}, or an int")
    return number

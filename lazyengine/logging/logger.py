"""The logger of a run: standard logging underneath, every line with the place that wrote it."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any, TextIO

from .manager import ManagerMixin
from .terminal import print_line, rich_terminal


class LineFormatter(logging.Formatter):
    """``2026-01-31 12:00:00 INFO hooks/logger_hook.py:57  message``, then the traceback if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self._second, self._time = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time_text, message = self.parts(record)
        return f"{time_text} {record.levelname} {place_of(record)}  {message}"

    def parts(self, record: logging.LogRecord) -> tuple[str, str]:
        """Return the time, and the message with what follows it; the time is formatted once a second."""
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        message = record.getMessage()
        if record.exc_info or record.exc_text or record.stack_info:  # whole, on lines of their own
            if record.exc_info and not record.exc_text:
                record.exc_text = self.formatException(record.exc_info)
            message = "\n".join(part for part in (message, record.exc_text, record.stack_info) if part)
        return self._time, message


_places: dict[str, str] = {}
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def place_of(record: logging.LogRecord) -> str:
    """Return ``file:line`` of a record: relative to the working directory, else with the last two folders."""
    place = _places.get(record.pathname)
    if place is None:
        path = os.path.abspath(record.pathname)
        inside = path.startswith(os.getcwd() + os.sep) and "site-packages" not in path
        place = os.path.relpath(path) if inside else os.sep.join(path.split(os.sep)[-3:])
        _places[record.pathname] = place
    return f"{place}:{record.lineno}"


class _TerminalHandler(logging.Handler):
    """Writes to the present ``sys.stdout``: by rich on a terminal (above a progress bar), else plain text.

    On a terminal, where columns are few, the year and the folders of this package's own files are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._line = LineFormatter()
        self.setFormatter(self._line)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream: TextIO | None = sys.stdout
            if stream is None:
                return
            if rich_terminal(stream) is not None:
                time_text, message = self._line.parts(record)
                is_own = record.pathname.startswith(_PACKAGE)
                place = f"{record.filename}:{record.lineno}" if is_own else place_of(record)
                print_line(time_text.partition("-")[2], record.levelname, place, message)
            else:
                stream.write(self.format(record) + "\n")
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
        rank: Rank of this process; None asks ``lazyengine.dist``.
        world_size: Number of processes; None asks ``lazyengine.dist``.

    Raises:
        ValueError: When ``log_level`` is no level.
    """

    def __init__(
        self,
        name: str,
        logger_name: str = "lazyengine",
        log_file: str | os.PathLike[str] | None = None,
        log_level: int | str = "INFO",
        file_mode: str = "a",
        distributed: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        level = _level_of(log_level)
        logging.Logger.__init__(self, logger_name, level)
        ManagerMixin.__init__(self, name)
        self.propagate = False
        rank, world_size = _ranks(rank, world_size)
        terminal = _TerminalHandler()
        terminal.setLevel(logging.NOTSET if rank == 0 else logging.ERROR)
        self.addHandler(terminal)
        self._log_file: str | None = None
        if log_file is not None and (rank == 0 or distributed):
            path = os.path.abspath(os.fspath(log_file))
            if distributed and world_size > 1:
                stem, suffix = os.path.splitext(path)
                path = f"{stem}.rank{rank}{suffix}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handler = logging.FileHandler(path, file_mode, encoding="utf-8")  # flushes after every record
            handler.setFormatter(LineFormatter())
            self.addHandler(handler)
            self._log_file = path

    @property
    def log_file(self) -> str | None:
        """Path of this process' log file, or None."""
        return self._log_file

    @classmethod
    def get_current_instance(cls) -> MMLogger:
        """Return the logger that was created last; without any, create one called ``lazyengine``."""
        return super().get_current_instance() if cls._instances else cls.get_instance("lazyengine")

    def setLevel(self, level: int | str) -> None:
        """Set the least level that is written."""
        self.level = _level_of(level)
        self._cache: dict[int, bool] = {}  # the tree of loggers, which normally clears it, does not know this one

    def close(self) -> None:
        """Close the file. Lines that still come go to the terminal only."""
        for handler in self.handlers[:]:
            if isinstance(handler, logging.FileHandler):
                self.removeHandler(handler)
                handler.close()


def print_log(msg: Any, logger: logging.Logger | str | None = None, level: int | str = logging.INFO) -> None:
    """Write a message; the line names the file and line that called this function.

    Args:
        msg: The message.
        logger: None: plain ``print``. ``"current"``: the logger created last. ``"silent"``: nowhere. Another str: the
            `MMLogger` of that name. Or a logger.
        level: A level of ``logging``, by number or name.

    Raises:
        ValueError: When no logger has the name.
        TypeError: When ``logger`` is something else.
    """
    if logger is None:
        print(msg)
        return
    if isinstance(logger, str):
        if logger == "silent":
            return
        if logger == "current":
            logger = MMLogger.get_current_instance()
        elif MMLogger.check_instance_created(logger):
            logger = MMLogger.get_instance(logger)
        else:
            known = ", ".join(MMLogger._instances) or "none"
            raise ValueError(
                f"print_log: no MMLogger is called {logger!r}; there are: {known}. "
                "Create it by MMLogger.get_instance, or pass 'current', 'silent' or None"
            )
    if not isinstance(logger, logging.Logger):
        raise TypeError(f"print_log: logger must be a Logger, a str or None, got {logger!r} ({type(logger).__name__})")
    logger.log(_level_of(level), msg, stacklevel=2)


def _level_of(level: int | str) -> int:
    if isinstance(level, bool) or not isinstance(level, int | str):
        raise TypeError(f"log level must be an int or the name of a level, got {level!r}")
    if isinstance(level, int):
        return level
    names = logging.getLevelNamesMapping()
    if level.upper() not in names:
        raise ValueError(f"unknown log level {level!r}; known are {', '.join(names)}, or a number")
    return names[level.upper()]


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is None or world_size is None:
        from ..dist import get_rank, get_world_size

        rank = get_rank() if rank is None else rank
        world_size = get_world_size() if world_size is None else world_size
    return rank, world_size

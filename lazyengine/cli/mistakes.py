"""Tell a mistake in the config or the command line from a failed run, and report it without the engine's frames."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from types import TracebackType

from ..errors import UsageError, UsageOSError
from ..text import fit

_ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_HIDDEN = (_ENGINE, contextlib.__file__, functools.__file__)  # what stands between the engine and the code it calls

_STANDARD = sysconfig.get_path("stdlib") + os.sep
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT}
_WHOLE = "LAZYENGINE_WHOLE_TRACEBACK"


def report(error: Exception) -> None:
    """Print an error to stderr: its message and notes, below the frames of code that is not the engine's."""
    if isinstance(error, UsageError):  # its message says where
        lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        print(*(fit(line, sys.stderr) for line in lines), sep="\n", file=sys.stderr)
        return
    shown = traceback.TracebackException.from_exception(error)
    shown.stack = traceback.StackSummary.from_list([f for f in shown.stack if not f.filename.startswith(_HIDDEN)])
    print("".join(shown.format() if shown.stack else shown.format_exception_only()), end="", file=sys.stderr)


def refuse(error: Exception) -> int:
    """Report a mistake and return its exit code (2, or its own); an error that is none is raised again as it was."""
    if isinstance(error, OSError) and _is_closed_place(error):
        error = UsageOSError(f"{error.filename} cannot be read or written: {error.strerror}. Name another place.")
    if not is_mistake(error):
        raise error
    report(error)
    return getattr(error, "exit_code", 2)


def show_failure(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a failed run's traceback from the user's first frame on; the log file of the run has the whole.

    It stands in for ``sys.excepthook``. What no code of the user's is in, a defect of the engine, is printed whole.
    """
    shown = traceback.TracebackException(kind, error, trace)
    files = [frame.filename for frame in shown.stack]
    begun = next((number for number, file in enumerate(files) if file.startswith(_ENGINE)), 0)  # before: the command
    own = [number for number, file in enumerate(files) if number > begun and _is_users(file)]
    if own and not os.environ.get(_WHOLE):
        shown.stack = traceback.StackSummary.from_list(shown.stack[own[0] :])
        print(f"{own[0]} frames before those of your code are left out; {_WHOLE}=1 shows them.", file=sys.stderr)
    print("".join(shown.format()), end="", file=sys.stderr)


def _is_users(file: str) -> bool:
    return not file.startswith((_ENGINE, "<frozen", _STANDARD)) and f"{os.sep}site-packages{os.sep}" not in file


def is_mistake(error: Exception) -> bool:
    """Whether an error refuses what the user gave, by its type; or comes from a config file, or code that it calls.

    An exception of the engine of any other type is a defect of the engine, and keeps its traceback.
    """
    if isinstance(error, UsageError) or hasattr(error, "config_file"):
        return True
    if not (hasattr(error, "config_path") and isinstance(error, ValueError | TypeError | OSError)):
        return False
    return not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_ENGINE)


def _is_closed_place(error: OSError) -> bool:
    """Whether a command came upon a file or folder that is not open to it; not a run, nor code of the user's."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    begun = next((number for number, file in enumerate(files) if file.startswith(_ENGINE)), 0)
    is_run = any(file.startswith(f"{_ENGINE}runner{os.sep}") or _is_users(file) for file in files[begun:])
    return error.errno in _CLOSED and error.filename is not None and not is_run


@contextlib.contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """End the block without an error when the reader of stdout, such as ``head``, has seen enough."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""Tell a mistake in the config or the command line from a failed run, and report it without the engine's frames."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Iterator

from ..config import ConfigError

_ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_HIDDEN = (_ENGINE, contextlib.__file__, functools.__file__)  # what stands between the engine and the code it calls
_MISTAKES = ("while loading config", "the run folder")  # how the notes of errors begin that are always mistakes
_IN_THE_RUN = ("in training iteration", "in val batch", "in test batch", "raised in hook")


def report(error: Exception) -> None:
    """Print an error to stderr: its message and notes, below the frames of code that is not the engine's."""
    if isinstance(error, ConfigError):  # its message says where
        print(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return
    shown = traceback.TracebackException.from_exception(error)
    shown.stack = traceback.StackSummary.from_list([f for f in shown.stack if not f.filename.startswith(_HIDDEN)])
    print("".join(shown.format() if shown.stack else shown.format_exception_only()), end="", file=sys.stderr)


def refuse(error: Exception) -> int:
    """Report a mistake and return its exit code, 2; an error that is none is raised again as it was."""
    if not is_mistake(error):
        raise error
    report(error)
    return 2


@contextlib.contextmanager
def until_the_reader_leaves() -> Iterator[None]:
    """End the block without an error when the reader of stdout, such as ``head``, has seen enough."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Print to stdout; a reader such as ``head`` that has seen enough is no error."""
    with until_the_reader_leaves():
        print(text, flush=True)


def is_mistake(error: Exception) -> bool:
    """Whether an error comes from the config file, or from a value that the engine refuses before any batch is read."""
    notes = getattr(error, "__notes__", ())
    if isinstance(error, ConfigError) or any(note.startswith(_MISTAKES) for note in notes):
        return True
    if not isinstance(error, ValueError | TypeError | RuntimeError | FileNotFoundError):
        return False
    if any(note.startswith(_IN_THE_RUN) for note in notes):
        return False
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return innermost.startswith(_ENGINE) or any(note.startswith("while building") for note in notes)

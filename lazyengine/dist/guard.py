"""Errors of communication say which call failed, on which rank and at which step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .info import get_rank, get_world_size, is_distributed

_WORDS_OF_A_LOST_RANK = ("timed out", "timeout", "connection closed", "connection reset", "broken pipe")
_describe_position: Callable[[], str] | None = None


def set_position_source(source: Callable[[], str] | None) -> None:
    """Set where errors of communication learn how far the run is.

    Args:
        source: Returns something like `"epoch 3, iteration 1200"`; None for nothing.
    """
    global _describe_position
    _describe_position = source


@contextlib.contextmanager
def named_communication(name: str) -> Iterator[None]:
    """Add a note with the call, the rank and the step to an error, such as a timeout, raised by communication inside.

    A context, or a decorator of a function.

    Args:
        name: What is done inside, such as `"train_step"`.
    """
    try:
        yield
    except RuntimeError as error:
        add_communication_note(error, name)
        raise


def note_lost_rank(error: BaseException, name: str) -> None:
    """Add the note of `named_communication` to an error that says that another rank has gone or hangs."""
    if _is_lost_rank(error):
        add_communication_note(error, name)


def _is_lost_rank(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS_OF_A_LOST_RANK)


@contextlib.contextmanager
def named_rank() -> Iterator[None]:
    """Add a note with the rank, where there are several, to any error raised inside."""
    try:
        yield
    except Exception as error:
        if get_world_size() > 1:
            error.add_note(f"on rank {get_rank()} of {get_world_size()}")
        raise


def add_communication_note(error: BaseException, name: str) -> None:
    """Add the note of `named_communication`, unless the error has one."""
    if not is_distributed() or any(note.startswith("in the communication") for note in getattr(error, "__notes__", ())):
        return
    position = ""
    if _describe_position is not None:
        with contextlib.suppress(Exception):  # a note must never replace the error that it is for
            position = f", {_describe_position()}"
    error.add_note(f"in the communication {name} on rank {get_rank()} of {get_world_size()}{position}")
    if _is_lost_rank(error):
        error.add_note("another rank did not take part in time: it failed, left, or is slower than the timeout allows")

"""What Python itself costs: its garbage collector, which takes a sixth of a short run, and the end of its stack."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

_kept = False


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Leave the collector out while much is made that stays: modules, or records. It would find nothing among them.

    What is there at the end counts as old. Otherwise the next two collections would look at all of it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            if not _kept:
                gc.unfreeze()
            gc.enable()


def keep() -> None:
    """Let the collector never look at what is imported from here on: for processes of our own commands.

    Else each full collection within a training takes a few tenths of a second, and each worker that is forked copies
    what the collector marks.
    """
    global _kept
    _kept = True
    gc.freeze()


def with_room(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function with room on Python's stack for the frames of all that it calls.

    Python has its frames in pieces of 16 kB. Where a loop happens to stand at the end of one, each call in it asks the
    system for another piece, and gives it back: a tenth of a small model's iteration. This frame counts as a large one,
    for which Python takes a piece that is larger still.
    """
    return function(*args)


with_room.__code__ = with_room.__code__.replace(co_stacksize=1 << 14)

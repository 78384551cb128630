"""Python's garbage collector, which takes a sixth of a short run where it looks at what imports have made."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

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

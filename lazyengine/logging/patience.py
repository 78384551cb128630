"""Going on while a file of the run cannot be written."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .logger import print_log


class Patience:
    """Lets the writing of a file fail for a while, as on a full disk, and says so once each time that it begins to.

    Attributes:
        is_failing: Whether the last attempt failed.
    """

    def __init__(self) -> None:
        self.is_failing = False

    def attempt(self, write: Callable[[], None], what: str, kept: str) -> bool:
        """Call ``write`` and return whether it succeeded; an `OSError` is logged.

        Args:
            write: Writes what waits, and keeps it when it raises.
            what: For the message: what could not be written.
            kept: For the message: what becomes of it.
        """
        try:
            write()
        except OSError as error:
            if not self.is_failing:
                print_log(f"{what} ({error}): {kept}, training goes on", logger="current", level=logging.ERROR)
            self.is_failing = True
        else:
            self.is_failing = False
        return not self.is_failing

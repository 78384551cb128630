"""What the command could not do by itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageValueError


class PortError(UsageValueError):
    """A file that cannot be ported at all; the message says which and why."""


@dataclass(frozen=True)
class Todo:
    """One place that needs a hand.

    Attributes:
        file: The file that was written, or the old file where none was.
        line: Its line, from 1; 0 for the whole file.
        reason: What is to be done, and why the command did not.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"

"""A mistake of the user, told apart from a failure by its type."""

from __future__ import annotations


class UsageError(Exception):
    """Mixed into an error that refuses what the user gave: a value, a file, a combination of parts.

    Raised where the value is refused, with a message that says what failed, the value, what is accepted and what to do
    next. The command line prints such an error without a traceback and exits with code 2; every other exception keeps
    its traceback. The built-in base says what kind of error it is, so `except ValueError` goes on to work.
    """


class UsageValueError(UsageError, ValueError):
    """A value of the right type that is not accepted."""


class UsageTypeError(UsageError, TypeError):
    """A value of a type that is not accepted."""


class UsageKeyError(UsageError, KeyError):
    """A name that is not there."""

    __str__ = Exception.__str__  # KeyError shows the repr of its message


class UsageRuntimeError(UsageError, RuntimeError):
    """Parts, files or a state that do not go together."""


class UsageFileNotFoundError(UsageError, FileNotFoundError):
    """A file or folder that was named and is not there."""


class UsageOSError(UsageError, OSError):
    """A file or folder that cannot be used as it was asked for."""

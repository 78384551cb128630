"""What can go wrong in a config. `ConfigError` is the base of every documented error of this package.

`strip_frames` leaves the machinery out of tracebacks, so that they show the user's files only.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import TracebackType

from ..errors import UsageError

_OWN = (os.path.dirname(__file__) + os.sep, os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")


class ConfigError(UsageError):
    """Base of all errors that this package raises on purpose: what the user wrote is refused."""


class ConfigWarning(UserWarning):
    """Something legal in a config that is more likely a mistake."""


class UnknownNameError(ConfigError, AttributeError, TypeError):
    """A name that the target of a node (or the config file) does not have."""


class UnsetError(ConfigError, AttributeError, LookupError):
    """An argument was read that the config does not set."""


class MissingArgumentError(ConfigError, TypeError):
    """A required argument has no value when its node is built."""


class TargetError(ConfigError, TypeError):
    """A target that cannot be imported or is not callable."""


class TargetDependencyError(UsageError, ModuleNotFoundError):
    """The module of a target imports something that is not there."""


class RefError(ConfigError, ValueError):
    """A `ref` names a path that does not exist, or refs form a cycle."""


class SharingError(ConfigError, ValueError):
    """A change of a shared node that would reach too far, or not far enough."""


class ConfigFileError(ConfigError, ValueError):
    """A file that cannot be loaded as a config."""


class ConfigNotFoundError(ConfigFileError, FileNotFoundError):
    """The config file does not exist."""


class ConfigImportError(ConfigFileError, ImportError):
    """An import of one config by another that cannot work."""


class OverrideError(ConfigError, ValueError):
    """An override (`a.b=1`) that cannot be applied; nothing has been changed."""


class SaveError(ConfigError, ValueError):
    """A config that cannot be written."""


def warn(message: str) -> None:
    """Show a `ConfigWarning` at the line of the user's that led here."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    warnings.warn(ConfigWarning(message), stacklevel=level)


def entries_of(error: BaseException) -> list[TracebackType]:
    """Return the entries of an error's traceback, outermost first."""
    entries: list[TracebackType] = []
    tb = error.__traceback__
    while tb is not None:
        entries.append(tb)
        tb = tb.tb_next
    return entries


def strip_frames(error: BaseException) -> None:
    """Drop the frames of this package and of `importlib` from an error's traceback.

    The innermost frame of an error that is not ours stays even if it is in this package: that is a bug of ours, or a
    call that the target's signature refused.
    """
    entries = entries_of(error)
    kept = [entry for entry in entries if not entry.tb_frame.f_code.co_filename.startswith(_OWN)]
    if entries and entries[-1] not in kept and not isinstance(error, ConfigError):
        kept.append(entries[-1])
    for entry, following in zip(kept, [*kept[1:], None]):
        entry.tb_next = following
    error.__traceback__ = kept[0] if kept else None

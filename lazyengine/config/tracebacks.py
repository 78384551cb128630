"""Leave the machinery's frames out of a traceback, so that it shows the user's files only."""

from __future__ import annotations

import importlib
import os
from types import TracebackType

from .errors import ConfigError

_OWN = (os.path.dirname(__file__) + os.sep, os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")


def strip_frames(error: BaseException) -> None:
    """Drop the frames of this package and of `importlib` from an error's traceback.

    The innermost frame of an error that is not ours stays even if it is in this package: that is a bug of ours, or a
    call that the target's signature refused.
    """
    kept: list[TracebackType] = []
    tb, is_own = error.__traceback__, False
    last = tb
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        is_own = name.startswith(_OWN)
        if not is_own:
            kept.append(tb)
        last, tb = tb, tb.tb_next
    if is_own and last is not None and not isinstance(error, ConfigError):
        kept.append(last)
    following: TracebackType | None = None
    for entry in reversed(kept):
        entry.tb_next = following
        following = entry
    error.__traceback__ = following

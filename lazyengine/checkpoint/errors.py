"""The errors of this package, and what reading a damaged file leads to as one of them."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
from collections.abc import Iterator

from ..errors import UsageError


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, is not one, holds what may not be loaded, or cannot be saved as plain data."""


class UsageCheckpointError(UsageError, CheckpointError):
    """A file that the user named, or found in a folder that the user named, cannot be used for what it is named for."""


@contextlib.contextmanager
def damage_explained(path: str) -> Iterator[None]:
    """Raise whatever reading a damaged file leads to as a CheckpointError that names the file."""
    try:
        yield
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|asks for (\S+)", str(error))
        what = f"an object of {found[1] or found[2]}" if found else "what torch does not load safely"
        raise UsageCheckpointError(
            f"{path} holds {what}, which was not loaded because loading it can run code. "
            "If you trust where the file comes from, say so with trusted=True; skip_objects=True loads the rest of it."
        ) from error
    except Exception as error:
        is_of_disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # EINVAL: no such position
        is_of_gpu = isinstance(error, RuntimeError) and "CUDA" in str(error).replace(path, "")
        if isinstance(error, (CheckpointError, MemoryError, UsageError)) or is_of_disk or is_of_gpu:
            raise
        raise UsageCheckpointError(
            f"{path} is damaged and cannot be loaded ({os.path.getsize(path)} bytes): {type(error).__name__}: {error}. "
            "It was cut off or changed after it was saved; use another one."
        ) from error

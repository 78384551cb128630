"""Projects that a test makes, and imports in its own process: no later test finds them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def forget_modules_of(folder: str | os.PathLike[str]) -> None:
    """Let what was imported from a folder, or from below it, be imported anew."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@contextlib.contextmanager
def imports_from(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Afterwards `sys.path` is as it was before, and what was imported from the folder is forgotten."""
    path = [*sys.path]
    try:
        yield
    finally:
        sys.path[:] = path
        forget_modules_of(folder)

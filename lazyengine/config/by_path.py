"""Modules named by the folder they lie in, for code beside a config that no import path leads to.

`lazyengine.config.by_path.<folder>.<module>` can be imported by every process, so that classes of such files pickle to
spawned workers and load in a fresh process. The folder is spelled with `_2f` for `/` and so on.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from .finding import folder_spec

__path__: list[str] = []  # makes this module a package; the finder below supplies its submodules


class _FolderFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        prefix, _, spelled = name.rpartition(".")
        if prefix != __name__:
            return None
        folder = os.fsdecode(re.sub(rb"_([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), spelled.encode()))
        return folder_spec(name, folder) if os.path.isdir(folder) else None


sys.meta_path.append(_FolderFinder)

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
from importlib.util import spec_from_file_location
from types import ModuleType

__path__: list[str] = []  # makes this module a package; the finder below supplies its submodules


def module_name(folder: str, stem: str) -> str:
    """Return the name under which every process can import `folder/stem.py` (or the package `folder/stem`)."""
    spelled = "".join(chr(b) if chr(b).isalnum() and b < 128 else f"_{b:02x}" for b in os.fsencode(folder))
    return f"{__name__}.{spelled}.{stem}"


class _FolderFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        prefix, _, spelled = name.rpartition(".")
        if prefix != __name__:
            return None
        spelled_bytes = re.sub(rb"_([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), spelled.encode())
        folder = os.fsdecode(spelled_bytes)
        if not os.path.isdir(folder):
            return None
        init = os.path.join(folder, "__init__.py")
        if os.path.isfile(init):
            return spec_from_file_location(name, init, submodule_search_locations=[folder])
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [folder]
        return spec


sys.meta_path.append(_FolderFinder)

"""Paths that may be local or remote, and files that are either whole or absent."""

from .atomic import atomic_write, remove_leftovers
from .paths import exists, get_local_path, is_remote, isdir, isfile, join, ls, mkdirs, open, rm
from .remote import path_manager

__all__ = [  # noqa: RUF022 - in reading order
    "open",
    "exists",
    "isfile",
    "isdir",
    "ls",
    "mkdirs",
    "rm",
    "join",
    "is_remote",
    "get_local_path",
    "atomic_write",
    "remove_leftovers",
    "path_manager",
]

"""Paths that may be local or remote, and files that are either whole or absent."""

from .atomic import atomic_write, check_writable, remove_leftovers
from .host_share import open_publishable, share_within_host
from .paths import get_local_path, is_remote, isfile, join, open
from .queued import QueuedFile
from .remote import path_manager

__all__ = [  # noqa: RUF022 - in reading order
    "open",
    "isfile",
    "join",
    "is_remote",
    "get_local_path",
    "atomic_write",
    "QueuedFile",
    "check_writable",
    "remove_leftovers",
    "open_publishable",
    "share_within_host",
    "path_manager",
]

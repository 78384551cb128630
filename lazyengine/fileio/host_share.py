"""One copy of equal data for all ranks of a host.

Ranks are started independently of one another, so they meet in a folder: each rank writes its records into a file
without a name, and the first one leaves a link there, named after the digest of the content, that says where its open
file is found under ``/proc``. The others open that file and drop their own. No rank waits for another. The data goes
with the last process that has it open, however it ends; a link that leads nowhere is removed by the next run.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from multiprocessing.util import Finalize
from typing import IO


def _meeting_folder() -> str | None:
    """Return this user's private folder, or None where another user took the name."""
    folder = os.path.join(tempfile.gettempdir(), f"lazyengine-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if is_ours else None


def open_publishable() -> IO[bytes] | None:
    """Open an unnamed file that `share_within_host` can publish, or return None where the system cannot do that."""
    if not hasattr(os, "O_TMPFILE") or (folder := _meeting_folder()) is None:
        return None
    try:
        file_descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # a file system without unnamed files
        return None
    return os.fdopen(file_descriptor, "w+b", buffering=1 << 20)


def _link_to(file: str, file_descriptor: int | str) -> str:
    """Return what a link says: where a file is found, and which one it is, since numbers are given out again."""
    status = os.stat(file_descriptor)
    return f"{file}?{status.st_dev}-{status.st_ino}-{status.st_size}"


def _open_linked(path: str) -> int | None:
    """Open the file that a link leads to; where there is none (any more), remove the link and return None."""
    link = ""
    with contextlib.suppress(OSError):
        link = os.readlink(path)
        file = link.partition("?")[0]
        if _link_to(file, file) == link:
            return os.open(file, os.O_RDONLY)
    _remove(path, link)
    return None


def _remove(path: str, link: str) -> None:
    """Remove a link, unless another process has replaced it."""
    with contextlib.suppress(OSError):
        if os.readlink(path) == link:
            os.unlink(path)


def share_within_host(file_descriptor: int, num_bytes: int, digest: str) -> int:
    """Exchange a file for the copy that the ranks of this host share.

    Args:
        file_descriptor: The file from `open_publishable` that this rank wrote; closed if another one is returned.
        num_bytes: Its size in bytes.
        digest: Digest of its content, in hexadecimal digits.

    Returns:
        A descriptor of a file with the same content: the shared one, or the given one where sharing is impossible.
    """
    folder = _meeting_folder()
    if folder is None:
        return file_descriptor
    path = os.path.join(folder, f"{digest}-{num_bytes}")
    for other in os.listdir(folder):
        if (opened := _open_linked(os.path.join(folder, other))) is not None:
            os.close(opened)
    ours = _link_to(f"/proc/{os.getpid()}/fd/{file_descriptor}", file_descriptor)
    for _ in range(10):  # a link may vanish between being seen and being opened
        if (shared := _open_linked(path)) is not None:
            os.close(file_descriptor)
            return shared
        with contextlib.suppress(FileExistsError):
            os.symlink(ours, path)
            Finalize(None, _remove, (path, ours), exitpriority=0)  # atexit is not for every child
            break
    return file_descriptor

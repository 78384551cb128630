"""One copy of equal data for all ranks of a host.

Ranks are started independently of one another, so they meet in a folder: each rank writes its records, the first one
publishes its file under the digest of the content, and the others find that name, take that file and drop their own. No
rank waits for another. A file is held by a lock that the kernel releases with the last process that uses it, however it
ends; whoever holds the last lock, or the next run, removes the name.
"""

import contextlib
import os
import stat
import tempfile
from multiprocessing.util import Finalize
from typing import IO

try:
    import fcntl
except ImportError:  # not a POSIX system: every rank keeps its own copy
    fcntl = None


def _meeting_folder() -> str | None:
    """Return this user's private folder, or None where another user took the name."""
    folder = os.path.join(tempfile.gettempdir(), f"lazyengine-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if is_ours else None


def _take_lock(file_descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(file_descriptor, operation | fcntl.LOCK_NB)  # type: ignore[union-attr]
    except OSError:
        return False
    return True


def _remove_if_unused(path: str, file_descriptor: int) -> None:
    if _take_lock(file_descriptor, fcntl.LOCK_EX):  # type: ignore[union-attr]
        with contextlib.suppress(OSError):
            os.unlink(path)


def _remove_unused(folder: str) -> None:
    """Remove what killed runs left behind: files that no process holds."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            file_descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            _remove_if_unused(path, file_descriptor)
            os.close(file_descriptor)


def _leave(path: str, file_descriptor: int) -> None:
    """At exit: remove the name if this process is the last that holds the file."""
    _remove_if_unused(path, file_descriptor)
    os.close(file_descriptor)


def _join_existing(path: str, num_bytes: int) -> int | None:
    """Open the published file and hold it, or return None if there is none (any more)."""
    try:
        file_descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    is_held = _take_lock(file_descriptor, fcntl.LOCK_SH)  # type: ignore[union-attr]
    status = os.fstat(file_descriptor)
    if is_held and status.st_nlink > 0 and status.st_size == num_bytes:
        return file_descriptor
    os.close(file_descriptor)
    return None


def _publish(file_descriptor: int, path: str) -> int | None:
    """Give our unnamed file the name `path`, held; None if another rank was faster."""
    if not _take_lock(file_descriptor, fcntl.LOCK_SH):  # type: ignore[union-attr]
        return None
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:  # with a folder given, Python asks the kernel to follow the link to the open file
        os.link(f"/proc/self/fd/{file_descriptor}", path, src_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return None
    finally:
        os.close(folder)
    return file_descriptor


def open_publishable() -> IO[bytes] | None:
    """Open an unnamed file that `share_within_host` can publish, or return None where the system cannot do that."""
    folder = _meeting_folder() if fcntl is not None and hasattr(os, "O_TMPFILE") else None
    if folder is None:
        return None
    try:
        file_descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # a file system without unnamed files
        return None
    return os.fdopen(file_descriptor, "w+b", buffering=1 << 20)


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
    _remove_unused(folder)
    path = os.path.join(folder, f"{digest}-{num_bytes}")
    for _ in range(10):  # a name may vanish between being seen and being opened
        shared = _join_existing(path, num_bytes)
        if shared is None:
            shared = _publish(file_descriptor, path)
        if shared is not None:
            Finalize(None, _leave, (path, os.dup(shared)), exitpriority=0)  # atexit is not called in every child
            if shared != file_descriptor:
                os.close(file_descriptor)
            return shared
    return file_descriptor

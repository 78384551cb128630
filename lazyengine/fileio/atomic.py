"""Files that are either whole or absent, whatever kills the writer."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: leftovers of killed writers are then kept
    fcntl = None

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(?:[0-9a-f]{8})?\.tmp")
_YOUNG_S = 60.0  # an empty file this young may belong to a writer that has not locked it yet


def sync_folder(folder: str) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut, where the system can."""
    with contextlib.suppress(OSError):  # Windows cannot open folders, some network file systems refuse to flush them
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but not where a link leads; one to be made must not be there yet."""
    is_new = os.O_EXCL if flags & os.O_CREAT else 0
    return os.open(path, flags | is_new | getattr(os, "O_NOFOLLOW", 0), 0o666)


def check_writable(folder: str | os.PathLike[str], advice: str) -> None:
    """Make a folder where it is missing, and see that a file can be written into it.

    Raises:
        OSError: When it cannot, with `advice` as a note.
    """
    probe = os.path.join(folder, f".probe_{os.urandom(4).hex()}")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "xb"):
            pass
        os.remove(probe)
    except OSError as error:
        error.add_note(advice)
        raise


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: str = "wb", ready: Callable[[str], object] | None = None, **kwargs: Any
) -> Iterator[IO[Any]]:
    """Open a hidden file beside ``path`` for writing; on leaving, flush it to disk and rename it to ``path``.

    A reader sees the old file or the new one, never a part. When the body raises, the hidden file is removed and
    ``path`` stays as it was. The hidden file is locked while its writer lives, which is how ``remove_leftovers`` tells
    a running writer from a killed one.

    Args:
        path: A local path in an existing folder.
        mode: ``"w"`` or ``"wb"``.
        ready: Called with the path of the hidden file when it is complete and on disk; what it raises keeps the file
            from getting its name.
        **kwargs: Passed to ``open`` (``encoding``, ``buffering``).

    Yields:
        The opened file.

    Raises:
        OSError: The folder is missing, the disk is full or the file cannot be written; ``filename`` is the target.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write writes whole files: mode must be 'w' or 'wb', not {mode!r}")
    target = os.path.expanduser(os.fspath(path))
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, mode, opener=_open_no_link, **kwargs) as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # file systems without locks
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if ready is not None:
                ready(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, temporary):
            error.filename = target
        raise
    sync_folder(folder)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Delete the hidden files that killed writers of ``atomic_write`` left in ``folder``.

    A file whose writer still runs, on this host or on another one that shares the file system's locks, is kept.

    Returns:
        The paths deleted.
    """
    removed: list[str] = []
    folder = os.fspath(folder)
    if fcntl is None or not os.path.isdir(folder):
        return removed
    for name in os.listdir(folder):
        if _TEMPORARY.fullmatch(name) is None:
            continue
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError), open(path, "rb+", opener=_open_no_link) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(file.fileno())
            if status.st_size == 0 and time.time() - status.st_mtime < _YOUNG_S:
                continue
            os.remove(path)
            removed.append(path)
    return removed

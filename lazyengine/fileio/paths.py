"""The functions of ``os`` and ``os.path`` that also understand ``scheme://`` paths.

Local paths never touch iopath, so that a run without remote files does not pay for importing it.
"""

import builtins
import os
import re
from typing import IO, Any

from .remote import path_manager

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` has a scheme, such as ``https://`` or one that was registered with ``path_manager()``.

    ``file://`` counts as local.
    """
    text = os.fspath(path)
    return _SCHEME.match(text) is not None and not text.startswith("file://")


def _local(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return os.path.expanduser(text.removeprefix("file://"))


def open(path: str | os.PathLike[str], mode: str = "r", **kwargs: Any) -> IO[Any]:
    """Open a local or remote file like the built-in ``open``.

    Args:
        path: A local path (``~`` is expanded) or a URL. An ``http(s)`` URL is downloaded into the cache first.
        mode: As for the built-in.
        **kwargs: ``encoding``, ``newline`` and ``buffering`` for local files; what the handler takes for remote ones.

    Returns:
        The opened file.
    """
    if is_remote(path):
        return path_manager().open(os.fspath(path), mode, **kwargs)  # pyright: ignore[reportReturnType]
    return builtins.open(_local(path), mode, **kwargs)


def isfile(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a file."""
    return path_manager().isfile(os.fspath(path)) if is_remote(path) else os.path.isfile(_local(path))


def join(path: str | os.PathLike[str], *parts: str | os.PathLike[str]) -> str:
    """Join path parts: with ``/`` below a remote path, as ``os.path.join`` does below a local one."""
    if not is_remote(path):
        return os.path.join(os.fspath(path), *(os.fspath(part) for part in parts))
    return "/".join([os.fspath(path).rstrip("/"), *(os.fspath(part).strip("/") for part in parts)])


def get_local_path(path: str | os.PathLike[str]) -> str:
    """Return a local path with the content of ``path``, downloading a remote file into the cache if needed.

    The cache folder is ``$LAZYENGINE_CACHE``, else ``$XDG_CACHE_HOME/lazyengine``, else ``~/.cache/lazyengine``.

    Raises:
        ValueError: The URL would leave the cache folder.
        OSError: The download failed.
    """
    return path_manager().get_local_path(os.fspath(path)) if is_remote(path) else _local(path)

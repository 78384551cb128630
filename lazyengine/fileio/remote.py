"""The one iopath ``PathManager`` of the process, made when a remote path is first used."""

import contextlib
import functools
import hashlib
import os
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from iopath.common.file_io import PathManager


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a local file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_root() -> str:
    """Return the folder that downloads are kept in (see ``get_local_path``)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.expanduser(os.environ.get("LAZYENGINE_CACHE") or os.path.join(base, "lazyengine"))


def cache_path(url: str) -> str:
    """Return where the content of ``url`` is cached: ``<cache>/<host>/<path>``.

    iopath 0.1.10 joins the URL's path into its cache folder without looking at it, and leaves the host out; so a
    path with ``..`` would write anywhere, and two hosts would share a name. Both end here.

    Raises:
        ValueError: The URL has no host or no file name, or a part of its path would leave the folder.
    """
    parsed = urlsplit(url)
    parts = [part for part in parsed.path.split("/") if part]
    if not parsed.netloc or not parts:
        raise ValueError(f"cannot download {url!r}: a host and a file name are needed, as in https://host/file.pth")
    host = parsed.netloc.rpartition("@")[2].replace(":", "_")
    if parsed.query or len(parts[-1]) > 200:
        parts[-1] = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{parts[-1][-100:]}"
    root = os.path.realpath(cache_root())
    for part in [host, *parts]:
        plain = unquote(part)
        if plain in (".", "..") or any(c in plain for c in "/\\\0"):
            raise ValueError(
                f"refused to download {url!r}: its part {part!r} would leave the cache folder {root}; "
                "download the file yourself and give its local path"
            )
    target = os.path.realpath(os.path.join(root, host, *parts))
    if os.path.commonpath([root, target]) != root:
        raise ValueError(f"refused to download {url!r}: it would be written to {target}, outside of {root}")
    return target


def _check_end(path: str) -> None:
    """Raise an OSError for an archive without its end, and remove it; the length that a server gives was compared."""
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive and not zipfile.is_zipfile(path):
        size = os.path.getsize(path)
        os.remove(path)
        raise OSError(
            f"the download was cut off after {size} bytes: the archive has no end; nothing was kept in {path}"
        )


@functools.cache
def path_manager() -> "PathManager":
    """Return the process's iopath ``PathManager``; register handlers for further schemes with it.

    ``http://``, ``https://`` and ``ftp://`` are registered. Its telemetry is switched off.
    """
    from urllib.error import HTTPError

    from iopath.common.download import download
    from iopath.common.file_io import HTTPURLHandler, PathManager, file_lock

    class GuardedURLHandler(HTTPURLHandler):
        """iopath's handler, with the place in the cache decided by ``cache_path``."""

        def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
            self._check_kwargs(kwargs)
            target = cache_path(path)
            if force or not os.path.isfile(target):
                with file_lock(target):  # the ranks of one host: the first downloads, the others find the file
                    if force and os.path.isfile(target):
                        os.remove(target)
                    if not os.path.isfile(target):
                        part = f"{target}.part"
                        try:
                            with contextlib.suppress(FileNotFoundError):
                                os.remove(part)  # of a download that was killed
                            download(path, os.path.dirname(part), filename=os.path.basename(part), progress=False)
                            _check_end(part)
                            os.replace(part, target)
                        except OSError as error:
                            if isinstance(error, HTTPError):
                                error.close()  # it holds the connection
                            error.add_note(f"{path} could not be downloaded; give the path of a file that you have")
                            raise
            return target

    manager = PathManager()
    manager.set_logging(False)
    manager.register_handler(GuardedURLHandler())
    return manager

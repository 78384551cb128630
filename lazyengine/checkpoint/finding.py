"""Find the checkpoint to resume from."""

import os
import re
from collections.abc import Callable

from .errors import CheckpointError
from .reading import verify_checkpoint
from .saving import POINTER

_EXTENSIONS = (".pth", ".pt", ".ckpt")


def find_latest_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Return the checkpoint that the file ``last_checkpoint`` in ``folder`` names.

    Returns:
        Its path, or None where there is no ``last_checkpoint``.

    Raises:
        CheckpointError: The name leads out of the folder, or the file does not exist.
    """
    folder = os.path.expanduser(os.fspath(folder))
    pointer = os.path.join(folder, POINTER)
    try:
        with open(pointer, encoding="utf-8") as file:
            name = file.read(4096).strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{pointer} is damaged: it is not text") from error
    path = os.path.join(folder, name)  # mmengine writes an absolute path, which join keeps
    if not name or "\0" in name or not _is_inside(path, folder):
        raise CheckpointError(
            f"{pointer} names {name!r}, which is not in the folder {folder}; nothing outside is loaded because of it. "
            "Give the path of the checkpoint itself."
        )
    if not os.path.exists(path):
        raise CheckpointError(f"{pointer} names {name!r}, which does not exist; give the path of another checkpoint")
    return path


def _is_inside(path: str, folder: str) -> bool:
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)


def list_checkpoints(folder: str | os.PathLike[str]) -> list[str]:
    """Return the checkpoint files in a folder, newest first: by time, then by the numbers in their names."""
    folder = os.path.expanduser(os.fspath(folder))
    found = []
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if not entry.name.startswith(".") and entry.name.endswith(_EXTENSIONS) and entry.is_file():
            numbers = [int(digits) for digits in re.findall(r"\d{1,18}", entry.name)]
            found.append((entry.stat().st_mtime_ns, numbers, entry.name, entry.path))
    return [path for *_, path in sorted(found, reverse=True)]


def find_valid_checkpoint(
    folder: str | os.PathLike[str],
    on_reject: Callable[[str, str], object] | None = None,
    reject_if: Callable[[str], str | None] | None = None,
) -> str | None:
    """Return the newest checkpoint in a folder whose content has the checksums saved with it.

    The pointer file is not asked: a run killed between renaming a checkpoint and replacing the pointer has a newer one.

    Args:
        folder: Where to look.
        on_reject: Called with the path and the reason for every newer file that is not taken.
        reject_if: Called with each path whose content is whole; a reason that it returns rejects the file.

    Returns:
        The path, or None where no valid checkpoint is.
    """
    for path in list_checkpoints(folder):
        try:
            verify_checkpoint(path)
            reason = reject_if(path) if reject_if is not None else None
        except (CheckpointError, OSError) as error:
            reason = str(error)
        if reason is None:
            return path
        if on_reject is not None:
            on_reject(path, reason)
    return None

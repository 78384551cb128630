"""Save checkpoints: atomically, and if wished in the background."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import IO, Any

import torch

from ..errors import UsageKeyError
from ..fileio import atomic_write, remove_leftovers
from ..fileio.remote import sha256_of
from ..plain import NotPlainError, on_host, to_plain
from .errors import CheckpointError
from .frozen import left_out_of
from .reading import read_checkpoint

POINTER = "last_checkpoint"
"""Name of the file in a work folder that holds the name of its last checkpoint."""
_PIECE = 1 << 24  # bytes


def save_checkpoint(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Save a checkpoint so that ``path`` is either the whole new file or what it was before.

    Values are made plain first (see ``to_plain``); the file is what ``torch.load(path, weights_only=True)`` reads. It
    is written beside ``path``, flushed to disk and renamed. Tensors on other devices are saved as CPU tensors.

    Args:
        checkpoint: Any nesting of tensors and plain data, usually ``{"state_dict": ..., "optimizer": ...}``.
        path: A local path; its folder is created.

    Raises:
        CheckpointError: A value has no plain form; its key path is named. Nothing was written.
        OSError: The file could not be written; ``filename`` is ``path``. Nothing is left behind.
    """
    CheckpointWriter().save(checkpoint, path)


def mark_latest_checkpoint(path: str | os.PathLike[str]) -> None:
    """Make ``last_checkpoint`` in the folder of ``path`` name it, relative to that folder; replaced atomically."""
    folder, name = os.path.split(os.path.expanduser(os.fspath(path)))
    with atomic_write(os.path.join(folder, POINTER), "w", encoding="utf-8") as file:
        file.write(name + "\n")


class _Output:
    """What torch.save writes to. Keeps the error of a write, which torch replaces by a RuntimeError of its own.

    The system starts writing to disk every 16 MB, and then drops what it has written from its memory. Otherwise the
    disk stands still until the fsync at the end, and the file takes as much fresh memory as it is long, which costs a
    virtual machine more than the writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self._num_unsent = 0
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        left = data
        try:
            while left:  # the interpreter's lock is free meanwhile
                num_written = os.write(self._descriptor, left[:_PIECE])
                left, self._num_unsent = left[num_written:], self._num_unsent + num_written
                if self._num_unsent >= _PIECE and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    self._num_unsent = 0
        except BaseException as error:
            self.error = self.error or error
            raise
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


class CheckpointWriter:
    """Saves checkpoints one after the other, optionally in a background thread.

    With ``async_save`` the caller waits until the previous file is on disk and the tensors are copied into host memory,
    which is kept and reused by the next save (pinned where there is a GPU). A value that cannot be saved is reported
    before that. The thread is not a daemon: Python waits for it at exit.

    Args:
        async_save: Write in the background.
    """

    def __init__(self, async_save: bool = False) -> None:
        self.async_save = async_save
        self._thread: ThreadPoolExecutor | None = None
        self._is_writing = False
        self._error: BaseException | None = None  # of the write in the background
        self._memory: list[torch.Tensor] = []

    def save(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        then: Callable[[], object] | None = None,
        ready: Callable[[str], object] | None = None,
        before: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """Save a checkpoint (see ``save_checkpoint``), then call ``then``.

        Args:
            checkpoint: As for ``save_checkpoint``. When this returns, the caller may change its tensors.
            path: The target; its folder is created.
            then: Called once the file is in place, in the writing thread: replace the pointer, prune old files.
            ready: Called before, when the file is complete, with its temporary path; what it raises keeps the file
                from getting its name.
            before: Called first, in the writing thread; the plain data that it returns becomes part of the checkpoint.

        Raises:
            CheckpointError: A value has no plain form.
            BaseException: What the previous background write or its ``then`` raised; this checkpoint is then not saved.
        """
        self.wait()
        target = os.path.expanduser(os.fspath(path))
        folder = os.path.dirname(target) or "."
        try:
            plain = to_plain(checkpoint)
        except NotPlainError as error:
            raise CheckpointError(str(error)) from None
        os.makedirs(folder, exist_ok=True)
        remove_leftovers(folder)
        copied = on_host(plain, self._memory if self.async_save else None)

        def write() -> None:
            whole = copied if before is None else {**copied, **before()}
            with atomic_write(target, ready=ready, buffering=0) as file:
                output: Any = _Output(file)
                try:
                    torch.save(whole, output)
                except Exception as error:
                    raise output.error or error from None
            if then is not None:
                then()

        self.call(write, target)

    def call(self, write: Callable[[], object], path: str | os.PathLike[str]) -> None:
        """Call what writes a part of the checkpoint ``path`` as `save` writes a whole one: in the background or now."""
        self.wait()
        if not self.async_save:
            write()
            return
        if self._thread is None:
            thread = ThreadPoolExecutor(1, "checkpoint-writer")
            wait([thread.submit(lambda: None)])  # one whose start is interrupted would get a second thread beside it
            self._thread = thread
        run = contextvars.copy_context().run  # what is logged there goes to the logger of this run
        self._is_writing = True  # before the write begins: an interrupt in between must not lose it
        self._thread.submit(run, self._run, write, path)

    def wait(self) -> None:
        """Wait until the background write is done.

        Raises:
            BaseException: What the write or its ``then`` raised, once.
        """
        if self._thread is not None and self._is_writing:
            wait([self._thread.submit(lambda: None)])  # comes after the write; interrupted, the next call waits again
            error, self._error, self._is_writing = self._error, None, False
            if error is not None:
                raise error

    def _run(self, write: Callable[[], object], target: str | os.PathLike[str]) -> None:
        with contextlib.suppress(AttributeError, OSError):  # Linux: threads have priorities; leave the loop the cores
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            write()
        except BaseException as error:
            error.add_note(f"while writing the checkpoint {target} in the background")
            logging.getLogger(__name__).error("the checkpoint %s was not saved: %r", target, error)
            self._error = error


def publish_checkpoint(path: str, keys: Sequence[str]) -> str:
    """Write a copy of a checkpoint with some of its keys, named after its content.

    Args:
        path: The checkpoint.
        keys: Top-level keys to keep, such as ``["meta", "state_dict"]``. ``meta`` stays in any case where frozen
            weights are left out: it says which.

    Returns:
        The path of the copy: the stem of `path`, a hyphen, and the first eight characters of the file's SHA-256.

    Raises:
        KeyError: When the checkpoint does not have one of the keys.
    """
    checkpoint = read_checkpoint(path)
    missing = [key for key in keys if key not in checkpoint]
    if missing:
        raise UsageKeyError(f"published_keys: {path} has no {missing}; it has {list(checkpoint)}")
    if left_out_of(checkpoint):
        keys = [*{*keys, "meta"}]
    stem = os.path.splitext(path)[0]
    draft = f"{stem}-published.pth"
    save_checkpoint({key: checkpoint[key] for key in keys}, draft)
    final = f"{stem}-{sha256_of(draft)[:8]}.pth"
    os.replace(draft, final)
    return final

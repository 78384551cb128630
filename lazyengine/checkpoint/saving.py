"""Save checkpoints: atomically, and if wished in the background."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import torch

from ..fileio import atomic_write, remove_leftovers
from .archive import Archive, WriteBehind, pickle_archive, storage_bytes, write_archive
from .errors import CheckpointError
from .plain import to_plain

POINTER = "last_checkpoint"
"""Name of the file in a work folder that holds the name of its last checkpoint."""


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
    target = _prepare(path)
    _write(pickle_archive(to_plain(checkpoint)), target, is_waited_for=True)


def mark_latest_checkpoint(path: str | os.PathLike[str]) -> None:
    """Make ``last_checkpoint`` in the folder of ``path`` name it, relative to that folder; replaced atomically."""
    folder, name = os.path.split(os.path.expanduser(os.fspath(path)))
    with atomic_write(os.path.join(folder, POINTER), "w", encoding="utf-8") as file:
        file.write(name + "\n")


def _prepare(path: str | os.PathLike[str]) -> str:
    target = os.path.expanduser(os.fspath(path))
    folder = os.path.dirname(target)
    if folder:
        os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder or ".")
    return target


def _write(archive: Archive, target: str, is_waited_for: bool) -> None:
    with atomic_write(target) as file:
        if is_waited_for:  # a second thread; beside the training loop it would take a core away from that
            with WriteBehind(file) as behind:
                write_archive(archive, behind)
        else:
            write_archive(archive, file)
        file.flush()
        size = os.fstat(file.fileno()).st_size
        if size < archive.num_bytes or size != file.tell():
            raise CheckpointError(f"{target}: {size} bytes were written where {file.tell()} are needed; not kept")


def _wide(data: torch.Tensor) -> torch.Tensor:
    """View bytes as 64-bit numbers where they fill them: torch copies those faster."""
    return data if data.numel() % 8 else data.view(torch.int64)


class CheckpointWriter:
    """Saves checkpoints one after the other, optionally in a background thread.

    With ``async_save`` the caller waits until the previous file is on disk and the tensors are copied into host memory,
    which is kept and reused by the next save (pinned where there is a GPU). Pickling happens before the copy, so a
    value that cannot be saved is reported at once. The thread is not a daemon: Python waits for it at exit.

    Args:
        async_save: Write in the background.
    """

    def __init__(self, async_save: bool = False) -> None:
        self.async_save = async_save
        self._thread: threading.Thread | None = None
        self._is_done = threading.Event()
        self._error: BaseException | None = None
        self._buffers: list[torch.Tensor] = []

    def save(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], then: Callable[[], object] | None = None
    ) -> None:
        """Save a checkpoint (see ``save_checkpoint``), then call ``then``.

        Args:
            checkpoint: As for ``save_checkpoint``. When this returns, the caller may change its tensors.
            path: The target; its folder is created.
            then: Called once the file is in place, in the writing thread: replace the pointer, prune old files.

        Raises:
            CheckpointError: A value has no plain form.
            BaseException: What the previous background write or its ``then`` raised; this checkpoint is then not saved.
        """
        self.wait()
        target = _prepare(path)
        archive = pickle_archive(to_plain(checkpoint))
        if not self.async_save:
            _write(archive, target, is_waited_for=True)
            if then is not None:
                then()
            return
        staged = Archive(archive.pickled, self._stage(archive.storages))
        self._is_done.clear()
        self._thread = threading.Thread(target=self._run, args=(staged, target, then), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the background write is done.

        Raises:
            BaseException: What the write or its ``then`` raised, once.
        """
        if self._thread is not None:
            self._is_done.wait()  # a join that Ctrl-C interrupts would take the thread for ended ever after
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @property
    def is_writing(self) -> bool:
        """Whether a background write is running."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, archive: Archive, target: str, then: Callable[[], object] | None) -> None:
        with contextlib.suppress(
            AttributeError, OSError
        ):  # Linux: threads have priorities; leave the cores to the loop
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            _write(archive, target, is_waited_for=False)
            if then is not None:
                then()
        except BaseException as error:
            error.add_note(f"while writing the checkpoint {target} in the background")
            logging.getLogger(__name__).error("the checkpoint %s was not saved: %r", target, error)
            self._error = error
        finally:
            self._is_done.set()

    def _stage(self, storages: list[torch.UntypedStorage]) -> list[torch.UntypedStorage]:
        """Copy storages into the kept buffers: all copies are queued before one wait per device."""
        buffers, devices = [], set()
        for index, storage in enumerate(storages):
            source = storage_bytes(storage)
            buffer = self._buffers[index] if index < len(self._buffers) else None
            is_pinned = storage.device.type == "cuda"
            if buffer is None or buffer.numel() != source.numel() or buffer.is_pinned() != is_pinned:
                buffer = torch.empty(source.numel(), dtype=torch.uint8, pin_memory=is_pinned)
            _wide(buffer).copy_(_wide(source), non_blocking=is_pinned)
            buffers.append(buffer)
            if is_pinned:
                devices.add(storage.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        self._buffers = buffers
        return [buffer.untyped_storage() for buffer in buffers]

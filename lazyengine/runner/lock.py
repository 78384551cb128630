"""One training at a time in a run folder: who holds it stands in a file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import UsageRuntimeError
from ..fileio import atomic_write

NAME = "lock.json"
REQUEST = "request"
"""A file beside it, in which somebody asks the owner for something by a word."""
LOOK_S = 1.0
"""Seconds between two looks for a request."""
BEAT_S = 10.0
"""Seconds between two changes of the counter that says that the owner lives."""
SILENT_S = 60.0
"""Seconds without a change after which another host's owner counts as dead, by the clock of who waits."""


class FolderBusyError(UsageRuntimeError):
    """Another training is at work in the run folder. Exit code 75: try again later."""

    exit_code = 75


class FolderLock:
    """Holds a run folder for one process.

    The file names host, process and when that process was started, so that a process number that was given out again,
    and a forked worker, own nothing. On the same host a dead owner is known at once; of another host, by a counter that
    does not move. Clocks of two hosts are never compared.

    Args:
        folder: The run folder.
        on_request: Called in the thread that keeps the lock, with the word of a request.
    """

    def __init__(self, folder: str, on_request: Callable[[str], object] | None = None) -> None:
        self._on_request = on_request or (lambda word: None)
        self.path = os.path.join(folder, NAME)
        pid, mark = os.getpid(), os.urandom(4).hex()  # the mark tells apart two trainings of one process
        self._own = {"host": socket.gethostname(), "pid": pid, "started": started_at(pid), "mark": mark}
        self._ended = threading.Event()
        self._count = 0
        self._thread: threading.Thread | None = None

    def acquire(self) -> str | None:
        """Take the folder, and return whose lock was taken over, or None. Waits for what another host may hold.

        Raises:
            FolderBusyError: When its owner lives; says who it is.
        """
        former = None
        while not self._create():
            owner = read_lock(self.path)
            if owner is None and not os.path.lexists(self.path):
                continue  # given back meanwhile
            if owner is not None:  # else a link that leads nowhere
                self._wait_while_alive(owner)
            former = _describe(owner)
            stale = f"{self.path}.{os.urandom(4).hex()}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path, stale)  # of two that take it over, one finds it gone
                if read_lock(stale) != owner:  # and it was the stale one
                    with contextlib.suppress(OSError):
                        os.link(stale, self.path)
                os.remove(stale)
        self._take_request()  # what the run before was asked for
        thread = threading.Thread(target=self._beat, name="run-folder-lock", daemon=True)
        thread.start()
        self._thread = thread  # one whose start is interrupted cannot be waited for
        return former

    def check(self, _: str = "") -> None:
        """Make sure that the folder is still this process's, before a file in it (the argument) is replaced.

        Raises:
            FolderBusyError: When another process has taken it over, as after this one was stopped for long.
        """
        owner = read_lock(self.path)
        if not self._is_own(owner):
            raise FolderBusyError(
                f"{os.path.dirname(self.path)} was taken over by {_describe(owner)} while this process stood still; "
                "nothing more is written here."
            )

    def release(self) -> None:
        """Give the folder back."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(BEAT_S)
        if self._is_own(read_lock(self.path)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({**self._own, "count": 0}, file)
        return True

    def _is_own(self, owner: dict[str, Any] | None) -> bool:
        return os.getpid() == self._own["pid"] and owner is not None and self._own.items() <= owner.items()

    def _wait_while_alive(self, owner: dict[str, Any]) -> None:
        if owner.get("host") == self._own["host"]:
            if lives_here(owner):
                raise self._busy(owner)
            return
        end = time.monotonic() + SILENT_S
        while time.monotonic() < end:
            if self._ended.wait(min(1.0, SILENT_S / 10)):
                return
            now = read_lock(self.path)
            if now is None:
                return
            if now != owner:
                raise self._busy(now)

    def _busy(self, owner: dict[str, Any]) -> FolderBusyError:
        return FolderBusyError(
            f"{os.path.dirname(self.path)} is in use: {_describe(owner)} trains in it. Wait for its end, stop it, or "
            "use another work_dir."
        )

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(min(LOOK_S, BEAT_S)):
            if (word := self._take_request()) is not None:
                self._on_request(word)
            if time.monotonic() - last < BEAT_S:
                continue
            last = time.monotonic()
            if not self._is_own(read_lock(self.path)):
                return
            self._count += 1
            renewing = atomic_write(self.path, "w", ready=self.check, encoding="utf-8")
            with contextlib.suppress(OSError, FolderBusyError), renewing as file:
                json.dump({**self._own, "count": self._count}, file)

    def _take_request(self) -> str | None:
        path = os.path.join(os.path.dirname(self.path), REQUEST)
        with contextlib.suppress(OSError):
            with open(path, encoding="utf-8", errors="replace") as file:
                word = file.read(100).strip()
            os.remove(path)
            return word
        return None


def read_lock(path: str) -> dict[str, Any] | None:
    """Return what a lock says; an empty dict for one that is being written, None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            owner = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe(owner: dict[str, Any] | None) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}" if owner else "nobody known"


def lives_here(owner: dict[str, Any]) -> bool:
    """Return whether an owner on this host is at work: its process, and not another one that got its number."""
    pid = owner.get("pid")
    started = started_at(pid) if isinstance(pid, int) else None
    return started is not None and started == owner.get("started")


def started_at(pid: int) -> str | None:
    """Return when a process of this host was started, in the system's ticks; None where it is dead or a zombie."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().decode(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    if os.path.isdir("/proc/self"):
        return None
    with contextlib.suppress(OSError):  # systems without /proc: whether it lives is all that can be known
        os.kill(pid, 0)
        return "alive"
    return None

"""Faults, put in from outside: at a hook point, or around a function that the engine calls."""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib
import json
import os
import signal
import socket
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from lazyengine.hooks import HOOK_POINTS, Hook
from lazyengine.runner import lock


def act(action: str) -> None:
    """Do what a fault does: a signal to this process, a sudden end, an error."""
    if action in ("KILL", "TERM", "USR1", "HUP"):
        os.kill(os.getpid(), getattr(signal, f"SIG{action}"))
    elif action == "GROUP":  # as Slurm and torchrun do, from another process: workers get it too
        sender = os.fork()
        if sender == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
            os._exit(0)
        os.waitpid(sender, 0)
    elif action.startswith("STOP "):
        _stop_and_take_over(action.removeprefix("STOP "))
    elif action == "TWICE":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.7)  # a long step, in which the second signal comes
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    elif action == "HANG":
        siblings = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children")
        deadline = time.monotonic() + 200
        while len(siblings.read_text().split()) > 1 and time.monotonic() < deadline:  # the other rank is there
            time.sleep(0.05)
        os._exit(7)
    elif action == "EXIT":
        os._exit(7)
    elif action in ("ENOSPC", "EROFS", "EACCES"):
        number = getattr(errno, action)
        raise OSError(number, os.strerror(number))
    elif action == "ERROR":
        raise RuntimeError("injected")
    else:
        raise ValueError(action)


def _stop_and_take_over(folder: str) -> None:
    """Stand still while another process of this host, and then one of another host, wants the run folder.

    What each was told, and what lay in the folder then, is in ``<folder>.seen``.
    """
    owner = os.getpid()
    sender = os.fork()
    if sender:
        os.waitpid(sender, 0)  # comes back after SIGCONT
        return
    os.kill(owner, signal.SIGSTOP)
    while (
        lock.started_at(owner) is None or Path(f"/proc/{owner}/stat").read_text().rpartition(")")[2].split()[0] != "T"
    ):
        os.sched_yield()
    told = []
    for host in (socket.gethostname(), "elsewhere"):
        lock.SILENT_S = 0  # as if the counter had been watched for long
        other = lock.FolderLock(folder)
        other._own["host"] = host
        try:
            told.append(f"took over {other.acquire()}")
        except lock.FolderBusyError as error:
            told.append(str(error))
    seen = {"owner": owner, "taker": os.getpid(), "told": told, "files": files_of(folder)}
    Path(f"{folder}.seen").write_text(json.dumps(seen))
    os.kill(owner, signal.SIGCONT)
    os._exit(0)


def files_of(folder: str | Path) -> dict[str, str]:
    """Return the hash of each file of a run folder; not of hidden ones, nor of those of a start alone."""
    files = [path for path in Path(folder).iterdir() if path.is_file() and path.name[0] != "."]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class AtPoint(Hook):
    """Acts at the `count`-th call of a hook point, last of all hooks."""

    priority = "LOWEST"

    def __init__(self, point: str, count: int, action: str) -> None:
        assert point in HOOK_POINTS
        self._calls = 0

        def call(*_: Any, **__: Any) -> None:
            self._calls += 1
            if self._calls == count:
                act(action)

        setattr(self, point, call)


def around(call: str, action: str, *, match: str = "", when: str = "before", first: int = 1, times: int = 1) -> None:
    """Act before or after the `first`-th call (and the next `times` - 1) of a function whose arguments show `match`."""
    module, _, name = call.rpartition(".")
    owner: Any = zipfile.ZipFile if module == "zipfile.ZipFile" else importlib.import_module(module)
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        shown = " ".join(_show(arg) for arg in args)
        if match not in shown:
            return original(*args, **kwargs)
        calls += 1
        is_due = first <= calls < first + times
        if is_due and when == "before":
            act(action)
        result = original(*args, **kwargs)
        if is_due and when == "after":
            act(action)
        return result

    setattr(owner, name, wrapped)


def _show(arg: Any) -> str:
    if isinstance(arg, int):  # a file descriptor
        try:
            return os.readlink(f"/proc/self/fd/{arg}")
        except OSError:
            return str(arg)
    return str(getattr(arg, "filename", arg))


def in_loss(model: Any, kind: str, count: int) -> None:
    """Disturb the `count`-th loss of the model: ``nan``, ``inf_gradient`` (of a finite loss), ``oom``, or
    ``unpool``, which changes nothing and uses an operator without a deterministic implementation."""
    calls = 0

    def fault(loss: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls != count:
            return loss
        if kind == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if kind == "unpool":
            indices = torch.tensor([[[[0, 3], [8, 11]]]])
            for _ in range(2):
                loss = loss + torch.nn.functional.max_unpool2d(torch.zeros(1, 1, 2, 2), indices, 2).sum()
            return loss
        return loss * float("nan") if kind == "nan" else loss + (model.head.weight * 0).sqrt().sum()

    model.fault = fault

"""Ports for process groups that tests start."""

from __future__ import annotations

import os
import socket

_FIRST, _NUMBER = 20_000, 10_000  # below those that the kernel gives to outgoing connections, which gloo has many of
_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on, and that no other test gets while this process lives.

    A port that the kernel chooses may be somebody else's by the time that it is opened again.
    """
    for place in range(_NUMBER):
        port = _FIRST + (os.getpid() + place) % _NUMBER
        lock = socket.socket(socket.AF_UNIX)  # a name of Linux without a file: held by one, gone with its process
        try:
            lock.bind(f"\0port {port} of lazyengine's tests")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
        else:
            _held.append(lock)
            return port
    raise RuntimeError(f"no port from {_FIRST} to {_FIRST + _NUMBER - 1} is free")

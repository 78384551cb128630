"""Signals that ask a run to stop: SIGTERM and SIGUSR1, as schedulers send them before they take a machine away."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = tuple(s for s in (getattr(signal, "SIGTERM", None), getattr(signal, "SIGUSR1", None)) if s is not None)


class Preemption:
    """Notes the first signal, so that the run can save at its next boundary; the second one exits at once.

    A context manager: the handlers are there while it is entered, and the former ones come back afterwards. Does
    nothing outside of the main thread, where Python allows no handlers.

    Attributes:
        is_requested: Whether a signal has arrived.
        signal_name: Its name, for the log.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self.signal_name = ""
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._former = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            os._exit(128 + number)
        self.is_requested = True
        self.signal_name = signal.Signals(number).name

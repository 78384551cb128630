"""Signals that ask a run to stop: SIGTERM and SIGUSR1, as schedulers send them before they take a machine away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from .. import dist
from ..dist.comm import start_max
from ..dist.launch import STOP_SIGNALS

ASK_S = 0.05
"""Seconds between two questions to the other ranks, about, and at least two optimizer steps."""
ECHO_S = 0.5
"""Seconds in which a further signal is the same one: Slurm signals torchrun and its ranks; torchrun passes it on."""


class Preemption:
    """Notes the first signal, so that the run can save at its next boundary; the second one exits at once.

    A context manager: the handlers are there while it is entered, and the former ones come back afterwards. Does
    nothing outside of the main thread, where Python allows no handlers.

    Attributes:
        is_requested: Whether a signal has arrived at this rank.
        reason: Which signal it was, and on which rank, for the log.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self.reason = ""
        self._number = 0
        self._arrived_s = 0.0
        self._num_ranks = 1
        self._num_left = 2  # boundaries until the answer is looked at
        self._interval = 2
        self._asked_s = 0.0
        self._answer: Callable[[], list[int]] | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        self._num_ranks = dist.get_world_size()
        self._asked_s = time.perf_counter()
        if threading.current_thread() is threading.main_thread():
            self._former = {s: signal.signal(s, self._handle) for s in STOP_SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def is_agreed(self) -> bool:
        """Return whether the whole job stops at this boundary.

        Collective: every rank must call it at the same boundaries. They ask one another from time to time and look at
        the answer a step later, when it has arrived, so that all stop at the same step although one of them alone may
        have got the signal. The same message tells how long the slowest rank's steps take, and so when to ask next.
        """
        if self._num_ranks == 1:
            return self.is_requested
        self._num_left -= 1
        if self._num_left == 1:
            now = time.perf_counter()
            step_us = int((now - self._asked_s) / self._interval * 1e6)
            self._asked_s = now
            signalled = self._number * self._num_ranks + dist.get_rank() if self._number else 0
            self._answer = start_max([signalled, step_us])
        if self._num_left or self._answer is None:
            return False
        signalled, step_us = self._answer()
        self._interval = self._num_left = max(2, int(ASK_S * 1e6 / max(step_us, 1)))
        number, rank = divmod(signalled, self._num_ranks)
        if number:
            self.reason = f"{signal.Signals(number).name} on rank {rank}"
        return number > 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.is_requested:
            self.is_requested, self._number, self._arrived_s = True, number, now
            self.reason = signal.Signals(number).name
        elif now - self._arrived_s > ECHO_S:
            os._exit(128 + number)

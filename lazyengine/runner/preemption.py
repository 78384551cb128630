"""Signals that ask a run to stop: SIGTERM and SIGUSR1 of job schedulers, SIGHUP of a lost connection, and Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from .. import dist
from ..dist import STOP_SIGNALS, start_max
from ..errors import UsageValueError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}

ASK_S = 0.05
"""Seconds between two questions to the other ranks, about, and at least two optimizer steps."""
ECHO_S = 0.5
"""Seconds in which a further signal is the same one: Slurm signals torchrun and its ranks; torchrun passes it on."""
REQUESTS = {"save": 1, "validate": 2}
"""What a run can be asked for besides stopping."""
END = 4
"""What a rank asks the others for whose hook has set `stop_training`."""
INTERRUPT_ECHO_S = 5.0
"""Seconds in which SIGTERM after SIGINT is the same request: torchrun ends its ranks so when Ctrl-C reached it too."""

_BITS = (*REQUESTS.values(), END)
now = time.monotonic


def seconds_of(duration: str | float) -> float:
    """Return a duration in seconds: a number of them, or text such as ``"3h50m"``, ``"2d"``, ``"90s"``.

    Raises:
        ValueError: It is neither, or not positive.
    """
    text = str(duration).strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text:
        total = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
    if not total > 0:
        raise UsageValueError(f"stop_after={duration!r}: expected seconds, or a text such as '3h50m' (d, h, m, s).")
    return total


class Preemption:
    """Notes the first signal, so that the run can stop at its next boundary; the second one stops it at once.

    A context manager: the handlers are there while it is entered, and the former ones come back afterwards. Does
    nothing outside of the main thread, where Python allows no handlers.

    Attributes:
        is_requested: Whether a signal has arrived at this rank.
        reason: Which signal it was, and on which rank, for the log.
        number: The signal that all ranks have agreed on, 0 before.
        has_begun: Whether an iteration has been trained; before, Ctrl-C stops at once.
        says: What Ctrl-C prints.
        asked: What all ranks have agreed on to do at this boundary, see `ask`: a sum of values of `REQUESTS` and `END`.
        wants_end: Says whether this rank wants training to end; of several, `asked` has `END` then on each.
        stop_at_s: When to stop without a signal, by `now`; infinite where nobody asked for that.
    """

    stop_at_s = math.inf
    wants_end: Callable[[], bool] = bool

    def __init__(self) -> None:
        self.says = "stopping after this iteration; Ctrl-C again stops now"
        self._former: dict[int, Any] = {}
        self._forget()

    def _forget(self) -> None:
        self.is_requested = self.has_begun = False
        self.reason = ""
        self.number = self._number = self.asked = self._asked = 0
        self._arrived_s = 0.0
        self._num_left = self._interval = 2  # boundaries until the answer is looked at
        self._asked_s = time.perf_counter()
        self._answer: Callable[[], list[int]] | None = None

    def __enter__(self) -> Preemption:
        self._forget()
        self._num_ranks = dist.get_world_size()
        if threading.current_thread() is threading.main_thread():
            heard = [s for s in STOP_SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]  # nohup ignores SIGHUP
            self._former = {s: signal.signal(s, self._handle) for s in heard}
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where somebody has set another one
                self._former[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    @property
    def is_interrupt(self) -> bool:
        """Whether what the ranks have agreed on is Ctrl-C."""
        return self.number == signal.SIGINT

    def ask(self, word: str) -> None:
        """Note what somebody asks this rank for, from any thread: ``"stop"``, or a word of `REQUESTS`."""
        if word == "stop" and not self.is_requested:
            self._note(signal.SIGTERM)
            self.reason = "asked to stop"
        self._asked |= REQUESTS.get(word, 0)

    def is_agreed(self) -> bool:
        """Return whether the whole job stops at this boundary.

        Collective: every rank must call it at the same boundaries. They ask one another from time to time and look at
        the answer a step later, when it has arrived, so that all stop at the same step although one of them alone may
        have got the signal. The same message tells how long the slowest rank's steps take, and so when to ask next.
        """
        self.has_begun = True
        if not self.is_requested and now() >= self.stop_at_s:
            self._note(signal.SIGTERM)
            self.reason = "the time of stop_after has passed"
        if self._num_ranks == 1:
            self.number = self._number
            if self._asked:
                self.asked, self._asked = self._asked, 0
            return self.is_requested
        self._num_left -= 1
        if self._num_left == 1:
            asked_s = time.perf_counter()
            step_us = int((asked_s - self._asked_s) / self._interval * 1e6)
            self._asked_s = asked_s
            signalled = self._number * self._num_ranks + dist.get_rank() if self._number else 0
            asked = self._asked | (END if self.wants_end() else 0)
            self._answer = start_max([signalled, step_us, *(asked & bit for bit in _BITS)])
            self._asked = 0
        if self._num_left or self._answer is None:
            return False
        signalled, step_us, *bits = self._answer()
        self.asked = sum(bits)
        self._interval = self._num_left = max(2, int(ASK_S * 1e6 / max(step_us, 1)))
        self.number, rank = divmod(signalled, self._num_ranks)
        if self.number:
            self.reason = f"{signal.Signals(self.number).name} on rank {rank}"
        return self.number > 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second one ends the process."""
        elapsed = time.monotonic() - self._arrived_s
        if not self.is_requested:
            self._note(number)
        elif elapsed > (INTERRUPT_ECHO_S if self._number == signal.SIGINT else ECHO_S):
            os._exit(128 + number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Note the first Ctrl-C, where an iteration is at work that can be finished; otherwise interrupt at once."""
        if self.is_requested or not self.has_begun:
            raise KeyboardInterrupt
        self._note(number)
        if dist.is_main_process():
            with contextlib.suppress(OSError):  # a terminal that was closed
                print(self.says, file=sys.stderr, flush=True)

    def _note(self, number: int) -> None:
        self.is_requested, self._number, self._arrived_s = True, number, time.monotonic()
        self.reason = signal.Signals(number).name

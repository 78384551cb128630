"""What can end a run, told apart, and what a policy makes of it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError, UsageValueError
from ..optim import NonFiniteError
from ..text import listed

OUT_OF_MEMORY, HANG, LOST_NODE, FULL_DISK = "out of memory", "hang", "lost node", "full disk"
BAD_SAMPLE, NON_FINITE, ERROR, MISTAKE = "bad sample", "non-finite", "error", "mistake"
ACTIONS = ("retry", "skip", "stop")

_SAMPLE = re.compile(r"while reading index (\d+) of (\w+) \(batch")
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "is killed by signal: killed")
_NO_SPACE = ("no space left on device", "disk quota exceeded")
_LOST = (
    "in the communication",
    "connection closed",
    "connection reset",
    "timed out waiting",
    "broken pipe",
    "lost connection to another rank",
)


@dataclass(frozen=True)
class Fault:
    """What ended an attempt of a run.

    Attributes:
        kind: ``"out of memory"``, ``"hang"``, ``"lost node"``, ``"full disk"``, ``"bad sample"``, ``"non-finite"``,
            ``"error"`` for any other one of a program, or ``"mistake"`` for what the user gave.
        error: Type of the exception, or the signal.
        text: Its message.
        iteration: How many iterations were done.
        sample: Index and class of the dataset of a sample that could not be read.
    """

    kind: str
    error: str
    text: str = ""
    iteration: int = 0
    sample: Sequence[Any] | None = None

    @property
    def identity(self) -> list[Any]:
        """What is equal when the same comes back at the same iteration."""
        return [self.kind, self.error, self.iteration, self.sample]


def fault_of(error: BaseException, iteration: int) -> Fault:
    """Return which fault an exception of a run is."""
    text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    whole = "\n".join(f"{each}\n" + "\n".join(getattr(each, "__notes__", ())) for each in _chain(error))
    sample = _SAMPLE.search(whole)
    found = [int(sample[1]), sample[2]] if sample else None
    return Fault(_kind_of(error, whole, found is not None), type(error).__name__, text[-4000:], iteration, found)


def _kind_of(error: BaseException, whole: str, is_of_sample: bool) -> str:
    if any(isinstance(each, NonFiniteError) for each in _chain(error)):
        return NON_FINITE
    if isinstance(error, UsageError):
        return MISTAKE
    if any(isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT) for each in _chain(error)):
        return FULL_DISK
    if any(isinstance(each, MemoryError) or type(each).__name__ == "OutOfMemoryError" for each in _chain(error)):
        return OUT_OF_MEMORY
    kind = kind_in(whole)  # a worker reports its error as text
    if kind == ERROR and hasattr(error, "config_path") and not isinstance(error, OSError) and "CUDA" not in whole:
        return MISTAKE  # a constructor refuses what it was given
    return BAD_SAMPLE if kind == ERROR and is_of_sample else kind


def kind_in(text: str) -> str:
    """Return which fault the text of an error, or the end of a log, tells of."""
    lower = text.lower()
    for words, kind in ((_NO_SPACE, FULL_DISK), (_NO_MEMORY, OUT_OF_MEMORY), (_LOST, LOST_NODE)):
        if any(word in lower for word in words):
            return kind
    return ERROR


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what caused it."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


@dataclass(frozen=True)
class Decision:
    """What a policy made of a fault: ``"retry"``, ``"skip"`` or ``"stop"``, and why."""

    action: str
    why: str


@dataclass(frozen=True)
class Supervision:
    """The policy of an unattended run: a config's top-level ``supervision``.

    Each kind of fault is answered by ``"retry"`` (from the newest checkpoint) or ``"stop"``; a bad sample also by
    ``"skip"``, which reads its neighbour instead from then on. What comes back at the same iteration stops the run,
    whatever the policy is.

    Args:
        out_of_memory: Memory of the GPU or the machine.
        hang: No iteration for `silence_s` seconds.
        lost_node: A process or machine that is gone.
        full_disk: No space is left; the retry waits until there is some.
        bad_sample: A sample that cannot be read.
        non_finite: A loss or gradient that is not finite.
        error: Any other exception.
        max_retries: So often without getting any further, at most.
        silence_s: After so many seconds without an iteration (of training or of a validation) the run counts as
            hanging: the stacks of all ranks and workers go to its log, and it is ended. Up to the first iteration it
            may take five times as long.
    """

    out_of_memory: str = "retry"
    hang: str = "retry"
    lost_node: str = "retry"
    full_disk: str = "retry"
    bad_sample: str = "retry"
    non_finite: str = "retry"
    error: str = "retry"
    max_retries: int = 3
    silence_s: float = 1800.0

    def __post_init__(self) -> None:
        for kind in (OUT_OF_MEMORY, HANG, LOST_NODE, FULL_DISK, BAD_SAMPLE, NON_FINITE, ERROR):
            known = ACTIONS if kind == BAD_SAMPLE else ("retry", "stop")
            if self.answer_to(kind) not in known:
                name, value = _name_of(kind), self.answer_to(kind)
                raise UsageValueError(f"Supervision({name}={value!r}): expected one of {listed(known)}.")
        if self.max_retries < 0 or not self.silence_s > 0:
            raise UsageValueError(
                f"Supervision(max_retries={self.max_retries}, silence_s={self.silence_s}): expected a number from 0 "
                "on, and seconds above 0."
            )

    def answer_to(self, kind: str) -> str:
        """Return what the policy says of a kind of fault."""
        return getattr(self, _name_of(kind))

    def decide(self, fault: Fault, former: Sequence[Mapping[str, Any]]) -> Decision:
        """Return what is to be done about a fault.

        Args:
            fault: The fault.
            former: The decisions about the run so far, as they stand in ``run.json``.
        """
        if fault.kind == MISTAKE:
            return Decision("stop", "a mistake in the config or the command line comes back each time")
        answer = self.answer_to(fault.kind)
        if answer == "stop":
            return Decision("stop", f"the policy stops at {fault.kind}")
        if any(each["identity"] == fault.identity for each in former):
            return Decision("stop", f"it came back at iteration {fault.iteration}, and would again")
        furthest, since = -1, 0
        for each in former:
            since = 0 if each["iter"] > furthest else since + 1
            furthest = max(furthest, each["iter"])
        since = 0 if fault.iteration > furthest else since + 1
        if since > self.max_retries or self.max_retries == 0:
            return Decision("stop", f"{since} retries came no further than iteration {furthest}")
        if answer == "skip" and fault.sample is not None:
            return Decision("skip", f"sample {fault.sample[0]} of {fault.sample[1]} is left out, its neighbour is read")
        return Decision("retry", "from the newest checkpoint")


def _name_of(kind: str) -> str:
    return kind.replace(" ", "_").replace("-", "_")

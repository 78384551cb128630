"""Where the time of an iteration goes: measured on one of many iterations, so that the others pay nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import _torch
from ..dataset.counting import count_batch
from ..dist import get_data_world_size
from .devices import find_device

EVERY = 17
"""One iteration of so many is measured; the first only says how much a batch holds. A prime, as is
`SELDOM`: of an accumulation no place is always met, such as one without a step."""
SELDOM = 137
"""The same, once it is known well: after as many iterations."""
_CALLS = {"backward": "backward", "step": "step", "zero_grad": "step"}


class PhaseTimer:
    """Times the parts of an iteration by standing in for methods of the optimizer wrapper while it runs.

    On an accelerator the parts that compute are timed by its own events, for which nobody waits: they are read when
    the next iteration is measured.

    Attributes:
        samples: Samples of an iteration, all ranks together, the mean of those looked at; None where nobody knows.
        tokens: Tokens of it.
        mfu_seconds: Seconds that an iteration would take at the peak of the device; None where that is not known.
    """

    def __init__(self) -> None:
        self.samples: float | None = None
        self.tokens: float | None = None
        self._num_counted = 0
        self.mfu_seconds: float | None = None
        self.num_measured = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._restore: list[Callable[[], Any]] = []
        self._pending: list[tuple[str, Any, Any]] = []  # phases, with the marks between which they were
        self._settled = 0.0
        self._on_device = False

    # ------------------------------------------------------------------ one iteration
    def begin(self, runner: Any, batch: Any, is_first: bool, now: float) -> None:
        """Measure the iteration that begins; of the first, its size alone."""
        self.restore()
        self._read()
        self._settled = 0.0
        counts, ranks = count_batch(batch, runner.train_dataloader), get_data_world_size()
        self._num_counted += 1
        means = zip((self.samples, self.tokens), counts, strict=True)
        self.samples, self.tokens = (
            None if n is None else (mean or 0.0) + (n * ranks - (mean or 0.0)) / self._num_counted for mean, n in means
        )
        if is_first:
            self._count_flops(runner)
            return
        wrapper, position = runner.optim_wrapper, runner.train_loop.position
        self._on_device = runner.device.type == "cuda"
        marks: dict[str, Any] = {"begun": now}
        spent = spent_by_hooks(runner)

        def begins_step() -> None:
            marks["stepping"] = marks["end"] = time.perf_counter()
            marks["last"] = self._mark()

        self._stand_in(wrapper, "begin_iteration", before=begins_step)
        for each in wrapper.named().values():
            for method, phase in _CALLS.items():
                self._time(each, method, phase, marks)
        self._stand_in(position, "settle", after=lambda: self._settle(runner, marks, spent))

    def note_data(self, now: float) -> None:
        """Note that the batch after the measured iteration is there."""
        if self._settled:
            self._seconds["data"] += now - self._settled
            self.num_measured += 1
            self._settled = 0.0

    def leave_out(self, seconds: float) -> None:
        """Leave an evaluation out that stood between."""
        self._settled += seconds if self._settled else 0.0

    def restore(self) -> None:
        """Let every method be the one that it was."""
        for restore in self._restore:
            restore()
        self._restore = []

    # ------------------------------------------------------------------ what was found
    def parts(self, train_s: float, exact: dict[str, float], between_s: float) -> dict[str, float]:
        """Return the seconds of training by phase.

        Args:
            train_s: Seconds of all training iterations.
            exact: Phases whose seconds are known; what is left is divided as the measured iterations were.
            between_s: How many of these were spent between iterations, such as on saving at the end of an epoch.
        """
        self._read()
        total = sum(self._seconds.values())
        left = max(train_s - (sum(exact.values()) - between_s), 0.0)
        order = ("data", "forward", "backward", "step", "hooks")
        shares = {name: self._seconds[name] / total * left for name in order} if total and self.num_measured else {}
        return {**shares, **exact}

    # ------------------------------------------------------------------ inside
    def _time(self, wrapper: Any, method: str, phase: str, marks: dict[str, Any]) -> None:
        def before() -> None:
            former, marks["last"] = marks["last"], self._mark()
            self._pending.append(("forward", former, marks["last"]))

        def after() -> None:
            former, marks["last"] = marks["last"], self._mark()
            self._pending.append((phase, former, marks["last"]))
            marks["end"] = time.perf_counter()

        self._stand_in(wrapper, method, before, after)

    def _settle(self, runner: Any, marks: dict[str, Any], spent: float) -> None:
        self.restore()
        now = self._settled = time.perf_counter()
        between = marks["stepping"] - marks["begun"] + now - marks["end"]
        self._seconds["hooks"] += max(between - (spent_by_hooks(runner) - spent), 0.0)

    def _stand_in(
        self, owner: Any, method: str, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        original = getattr(owner, method)
        own = owner.__dict__.get(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before()
            result = original(*args, **kwargs)
            if after is not None:
                after()
            return result

        setattr(owner, method, call)
        self._restore.append(
            lambda: owner.__dict__.pop(method, None) if own is None else owner.__dict__.update({method: own})
        )

    def _mark(self) -> Any:
        """Return the present moment of whatever computes."""
        if not self._on_device:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self) -> None:
        """Add what was timed; a device has long passed the events of an iteration measured before."""
        if self._pending and (not self._on_device or self._pending[-1][2].query()):
            for phase, begin, end in self._pending:
                self._seconds[phase] += begin.elapsed_time(end) / 1000 if self._on_device else end - begin
            self._pending = []

    def _count_flops(self, runner: Any) -> None:
        """Count the FLOPs of this iteration where the peak of the device is known and nothing is compiled."""
        if runner.device.type != "cuda" or runner.model_setup.compile:
            return
        device = find_device(torch.cuda.get_device_name(runner.device))
        if device is None or not _torch.PRIVATE:
            return
        formulas = FlopCounterMode(display=False).flop_registry  # entered, it refuses `autograd.grad` of a leaf
        flops: list[int] = []

        def run(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            outputs = operator(*args, **kwargs)
            if (formula := formulas.get(getattr(operator, "_overloadpacket", None))) is not None:
                flops.append(int(formula(*args, **kwargs, out_val=outputs)))
            return outputs

        watching = _torch.watching_operators(run)
        watching.__enter__()
        self._restore.append(lambda: watching.__exit__(None, None, None))  # also of an iteration that fails

        def leave() -> None:
            self.restore()
            dtype = str((runner.optim_wrapper.named().popitem()[1].precision or {}).get("dtype", "float32"))
            self.mfu_seconds = sum(flops) / device.peak(dtype.rpartition(".")[2]) or None

        self._stand_in(runner.train_loop.position, "advance", before=leave)


def spent_by_hooks(runner: Any) -> float:
    """Return the seconds that all hooks have spent on what they do seldom."""
    return sum(sum(hook.spent_s.values()) for hook in runner.hooks)

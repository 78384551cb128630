"""Where the time of an iteration goes: by phase, by operator, and what the engine itself takes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageValueError
from ..hooks import Hook, IterTimerHook, Priority, ProfilerHook
from ..text import table
from .cost import quietly

_WARM_UP = 3


@dataclass
class Profile:
    """What some iterations of a training took.

    Attributes:
        steps: Iterations that were measured, first without the profiler and then with it.
        phases: Seconds of an iteration by phase, without the profiler: ``"hooks"``, ``"logging"`` and ``"saving"`` are
            what the engine and the hooks take.
        items: The operators that take most, with calls and seconds of their own in an iteration, with the profiler.
        trace: File for Perfetto or chrome://tracing.
    """

    steps: int
    phases: dict[str, float]
    items: list[tuple[str, float, float]]
    trace: str

    @property
    def engine_s(self) -> float:
        """Seconds of an iteration outside of reading data and of the model's step."""
        return sum(self.phases.get(name, 0.0) for name in ("hooks", "logging", "saving"))

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "engine_s": self.engine_s}

    def as_text(self) -> str:
        """Return tables: phases, then operators."""
        total = sum(self.phases.values()) or 1.0
        rows = [("phase", "ms", "share")]
        rows += [(name, f"{s * 1e3:.3f}", f"{s / total:.1%}") for name, s in self.phases.items()]
        items = [("operator", "calls", "ms of its own")]
        items += [(name, f"{calls:.1f}", f"{seconds * 1e3:.3f}") for name, calls, seconds in self.items]
        engine = f"the engine and its hooks: {self.engine_s * 1e3:.3f} ms of {total * 1e3:.3f} ms an iteration"
        return "\n".join(
            [
                f"an iteration, mean of {self.steps}:", table(rows, indent="  "), engine, "",
                "the largest items, with the profiler:", table(items, indent="  "), "", f"trace: {self.trace}",
            ]
        )  # fmt: skip


class _Window(Hook):
    """Measures some iterations by phase, and ends the training behind those of the profiler."""

    priority = Priority.LOWEST

    def __init__(self, timer: IterTimerHook, steps: int) -> None:
        self.timer = timer
        self.steps = steps
        self.phases: dict[str, float] = {}
        self.is_done = False

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Begin, end and leave."""
        done = runner.iter + 1
        if done == _WARM_UP:
            self.timer.before_train(runner)
            for hook in runner.hooks:
                hook.spent_s = dict.fromkeys(hook.spent_s, 0.0)
        elif done == _WARM_UP + self.steps + 1:
            seconds = self.timer.seconds_by_phase(runner)
            self.phases = {name: number / (self.steps + 1) for name, number in seconds.items()}
        elif done > _WARM_UP + 2 * self.steps + 2:
            self.is_done = True
            raise SystemExit(0)


def profile(make_runner: Callable[[], Any], steps: int = 10, out_dir: str = "profile", num_items: int = 10) -> Profile:
    """Train some iterations and say where their time goes.

    Args:
        make_runner: Makes the runner of the experiment; its work folder is written to.
        steps: Iterations to measure, twice.
        out_dir: Folder of the trace.
        num_items: Operators to list.

    Raises:
        UsageValueError: The training ended before.
    """
    runner = make_runner()
    runner.interrupt_saves = True
    timers = [hook for hook in runner.hooks if isinstance(hook, IterTimerHook)]
    if not timers:
        timers = [IterTimerHook()]
        runner.register_hook(timers[0])
    timer = timers[0]
    timer.phase_interval = 1
    profiler = ProfilerHook(wait=_WARM_UP + steps + 1, warmup=1, active=steps, row_limit=0, out_dir=out_dir)
    window = _Window(timer, steps)
    for hook in (profiler, window):
        runner.register_hook(hook)
    try:
        with quietly():
            runner.train()
    except SystemExit as stop:
        if stop.code:
            raise
    if not window.is_done:
        needed = _WARM_UP + 2 * steps + 3
        raise UsageValueError(f"the training has fewer than {needed} iterations; lower --steps {steps}.")
    own = [(each.key, each.count / steps, _own_seconds(each) / steps) for each in profiler.averages]
    own = [item for item in own if not item[0].startswith("ProfilerStep")]  # what no operator took
    largest = sorted(own, key=lambda item: -item[2])[:num_items]
    return Profile(steps, window.phases, largest, profiler.traces[-1])


def _own_seconds(event: Any) -> float:
    on_device = getattr(event, "self_device_time_total", 0.0)
    return max(on_device, event.self_cpu_time_total) / 1e6

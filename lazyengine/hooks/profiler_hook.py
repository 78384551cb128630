"""Profiles some iterations of training."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import Any

import torch
from torch.profiler import profile, schedule

from .. import _torch, dist
from ..errors import UsageValueError
from ..logging import output_path
from .hook import Hook, Priority, Runner


@dataclasses.dataclass(eq=False)
class ProfilerHook(Hook):
    """Record training iterations with ``torch.profiler`` and write a trace for chrome://tracing or Perfetto.

    Args:
        wait: Iterations to leave out first, counted from the start of this process.
        warmup: Iterations that the profiler runs without keeping them.
        active: Iterations to record.
        repeat: How often to go through wait, warm-up and recording; 0 without end.
        record_shapes: Whether to record the shapes of operators' inputs.
        profile_memory: Whether to record memory; on CUDA the snapshot of a run that is out of memory then says from
            where each block was asked for.
        with_stack: Whether to record source lines; slow.
        with_flops: Whether to estimate FLOPs of matrix products and convolutions.
        row_limit: Rows of the table in the log; 0 for no table.
        all_ranks: Whether every rank writes a trace, or rank 0 alone.
        out_dir: Folder of the traces, a relative one in this start's folder; None for ``profile``.

    Attributes:
        averages: What the profiler says of each operator, of the last recording.
        traces: Files that were written.

    Raises:
        ValueError: When there is no iteration to record.
    """

    priority = Priority.VERY_LOW

    wait: int = 5
    warmup: int = 2
    active: int = 5
    repeat: int = 1
    _: dataclasses.KW_ONLY
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False
    with_flops: bool = False
    row_limit: int = 15
    all_ranks: bool = False
    out_dir: str | None = None
    averages: Any = dataclasses.field(default=(), init=False)
    traces: list[str] = dataclasses.field(default_factory=list, init=False)
    _profiler: Any = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.active < 1 or min(self.wait, self.warmup, self.repeat) < 0:
            raise UsageValueError(f"{self}: expected active to be at least 1, wait, warmup and repeat at least 0")

    def before_train(self, runner: Runner) -> None:
        """Start the profiler."""
        if not (self.all_ranks or dist.is_main_process()):
            return
        if self.profile_memory:
            _torch.record_memory_history()
        options = ("record_shapes", "profile_memory", "with_stack", "with_flops")
        self._profiler = profile(
            schedule=schedule(wait=self.wait, warmup=self.warmup, active=self.active, repeat=self.repeat),
            on_trace_ready=partial(self._export, runner),
            **{name: getattr(self, name) for name in options},
        )
        self._profiler.start()

    def _export(self, runner: Runner, profiler: Any) -> None:
        name = f"trace_rank{dist.get_rank()}_iter{runner.num_iters_completed}.json"
        path = output_path(os.path.join(self.out_dir or "profile", name))
        profiler.export_chrome_trace(path)
        self.averages, self.traces = profiler.key_averages(), [*self.traces, path]
        runner.logger.info("profile of %d iterations: %s", self.active, path)
        if self.row_limit:
            key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            runner.logger.info("\n%s", self.averages.table(sort_by=key, row_limit=self.row_limit))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note that an iteration has ended."""
        if self._profiler is not None:
            self._profiler.step()

    def describe_interval(self) -> str:
        """Return which iterations of this start as text for the hook timeline."""
        begin = self.wait + self.warmup + 1
        return f"iterations {begin} to {begin + self.active - 1}"

    def after_train(self, runner: Runner) -> None:
        """Stop the profiler; what it has recorded so far is written."""
        self.close()

    def close(self) -> None:
        """Stop the profiler, also when the run failed."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

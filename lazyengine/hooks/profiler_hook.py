"""Profiles some iterations of training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from .. import dist
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class ProfilerHook(Hook):
    """Record training iterations with ``torch.profiler`` and write a trace for chrome://tracing or Perfetto.

    Args:
        wait: Iterations to leave out first, counted from the start of this process.
        warmup: Iterations that the profiler runs without keeping them.
        active: Iterations to record.
        repeat: How often to go through wait, warm-up and recording; 0 without end.
        record_shapes: Whether to record the shapes of operators' inputs.
        profile_memory: Whether to record memory.
        with_stack: Whether to record source lines; slow.
        with_flops: Whether to estimate FLOPs of matrix products and convolutions.
        row_limit: Rows of the table in the log; 0 for no table.
        all_ranks: Whether every rank writes a trace, or rank 0 alone.
        out_dir: Folder of the traces; None for ``profile`` in this start's folder.

    Raises:
        ValueError: When there is no iteration to record.
    """

    priority = Priority.VERY_LOW

    def __init__(
        self,
        wait: int = 5,
        warmup: int = 2,
        active: int = 5,
        repeat: int = 1,
        *,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        row_limit: int = 15,
        all_ranks: bool = False,
        out_dir: str | None = None,
    ) -> None:
        if active < 1 or min(wait, warmup, repeat) < 0:
            raise ValueError(
                f"wait={wait}, warmup={warmup}, active={active}, repeat={repeat}: expected active to be at least 1 and "
                "the others at least 0"
            )
        self.schedule = {"wait": wait, "warmup": warmup, "active": active, "repeat": repeat}
        self.options: dict[str, Any] = {
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
            "with_flops": with_flops,
        }
        self.row_limit = row_limit
        self.all_ranks = all_ranks
        self.out_dir = out_dir
        self._profiler: Any = None

    def before_train(self, runner: Runner) -> None:
        """Start the profiler."""
        if not (self.all_ranks or dist.is_main_process()):
            return
        from torch.profiler import ProfilerActivity, profile, schedule

        folder = self.out_dir or os.path.join(runner.log_dir, "profile")
        os.makedirs(folder, exist_ok=True)
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)

        def export(profiler: Any) -> None:
            path = os.path.join(folder, f"trace_rank{dist.get_rank()}_iter{runner.iter + 1}.json")
            profiler.export_chrome_trace(path)
            runner.logger.info("profile of %d iterations: %s", self.schedule["active"], path)
            if self.row_limit:
                key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
                table = profiler.key_averages().table(sort_by=key, row_limit=self.row_limit)
                runner.logger.info("\n%s", table)

        self._profiler = profile(
            activities=activities, schedule=schedule(**self.schedule), on_trace_ready=export, **self.options
        )
        self._profiler.start()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Tell the profiler that an iteration has ended."""
        if self._profiler is not None:
            self._profiler.step()

    def describe_interval(self) -> str:
        """Say which iterations of this start, for the timeline."""
        begin = self.schedule["wait"] + self.schedule["warmup"] + 1
        return f"iterations {begin} to {begin + self.schedule['active'] - 1}"

    def after_train(self, runner: Runner) -> None:
        """Stop the profiler; what it has recorded so far is written."""
        self.close()

    def close(self) -> None:
        """Stop the profiler, also when the run failed."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

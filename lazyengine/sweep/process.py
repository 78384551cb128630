"""The process of a run that is supervised: trains, writes that it lives, and what ended it. Run by ``python -m``."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .. import dist
from ..config import LazyConfig, arguments_of, set_argument
from ..config.grammar import parse_path
from ..config.graph import follow
from ..errors import UsageError, UsageValueError
from ..evaluator import score_of
from ..fileio import atomic_write
from ..hooks import Hook, Priority
from ..runner import Runner
from ..runner.state import leave_out
from .faults import fault_of
from .job import Job
from .search import overrides_of


class BeatHook(Hook):
    """Writes after each iteration, of validations too, how many of training are done.

    Args:
        path: The file.

    Attributes:
        is_validating: Whether a validation is at work.
    """

    priority = Priority.LOWEST

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        self.is_validating = False

    def before_run(self, runner: Runner) -> None:
        """Write where the run begins."""
        self.write(runner)

    def before_val(self, runner: Runner) -> None:
        """Note that samples are those of the validation."""
        self.is_validating = True

    def after_val(self, runner: Runner) -> None:
        """Note that samples are those of training again."""
        self.is_validating = False

    def _after_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.write(runner)

    def write(self, runner: Runner) -> None:
        """Write how many iterations are done."""
        os.pwrite(self._file, b"%-20d" % runner.num_iters_completed, 0)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._file)


class PruningHook(Hook):
    """Tells the study each validation, and ends training where the pruner says so.

    Args:
        job: The job; its `pruning` says where the study is.
    """

    priority = Priority.VERY_LOW

    def __init__(self, job: Job) -> None:
        self._job = job

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Ask the pruner. Collective: every rank must call."""
        if not runner.is_training:
            return
        answer = [False]
        if dist.is_main_process():
            answer[0] = self._ask(runner, metrics or {})
        dist.broadcast_object_list(answer)
        if answer[0]:
            runner.logger.info("the pruner ends this trial after %d iterations", runner.num_iters_completed)
            runner.train_loop.stop_training = True

    def _ask(self, runner: Runner, metrics: dict[str, Any]) -> bool:
        from .study import report_and_ask

        about = self._job.pruning or {}
        try:
            value = score_of(about["objective"].removeprefix("val/"), metrics)
        except UsageValueError:  # not recorded at this validation; the sweep looks whether it is at any
            return False
        is_pruned = report_and_ask(about, value, num_validations(runner))
        if is_pruned:
            with atomic_write(self._job.pruned_file, "w", encoding="utf-8") as file:
                json.dump({"iter": runner.num_iters_completed, "value": value}, file)
        return is_pruned


def num_validations(runner: Runner) -> int:
    """Return the number of the validation at work, counted from 1 over the whole run, resumes included."""
    loop = runner.train_loop
    done = runner.num_iters_completed
    if loop.max_epochs is not None:
        done = round(done / loop.epoch_length)
    return max(1, -(-done // max(1, loop.val_interval)))


def _set_by(job: Job, error: Exception) -> str:
    """Return the overrides that set what a constructor refuses, else its place in the config, as the head of a text."""
    path, named = getattr(error, "config_path", ""), list[str]()
    if not path:
        return ""
    with contextlib.suppress(UsageError):  # it may be the attribute of another error
        cfg = LazyConfig.apply_overrides(LazyConfig.load(job.config, *job.mixins), job.overrides)
        named = overrides_of(cfg, follow(cfg, parse_path(path))[-1][2], job.overrides)
    return f"{', '.join(named) or path}: "


def build(job: Job, beat: BeatHook) -> Runner:
    """Return the runner of a job, with the hook that writes that it lives."""
    cfg: Any = LazyConfig.load(job.config, *job.mixins)
    LazyConfig.apply_overrides(cfg, job.overrides)
    set_argument(cfg.runner, "work_dir", job.work_dir, source="the supervisor")
    if job.experiment_name and "experiment_name" not in arguments_of(cfg.runner):
        set_argument(cfg.runner, "experiment_name", job.experiment_name, source="the supervisor")
    resume = {"resume": "auto"} if job.resume else {}
    runner = Runner.from_cfg(cfg, **resume)
    runner.interrupt_saves = True
    runner.register_hook(beat)
    if job.pruning is not None:
        runner.register_hook(PruningHook(job))
    leave_out(runner, job.skipped)
    return runner


def end_with_parent() -> None:
    """Ask the system for SIGTERM when the parent dies, so that the run saves and ends; and for no core dumps."""
    with contextlib.suppress(Exception):  # systems other than Linux have neither
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def main() -> int:
    """Train as the file that is named says."""
    end_with_parent()
    job, runner = Job.read(sys.argv[1]), None
    rank = int(os.environ.get("RANK", "0"))  # the group of all processes is made later
    beat = BeatHook(job.beat_file(rank))
    try:
        runner = build(job, beat)
        runner.train()
        return 0
    except Exception as error:
        fault = fault_of(error, 0 if runner is None else runner.num_iters_completed)
        fault = dataclasses.replace(fault, text=_set_by(job, error) + fault.text)
        if beat.is_validating:  # of which no sample is left out
            fault = dataclasses.replace(fault, sample=None)
        if getattr(error, "exit_code", None) is None:  # 75: another training is at work in the folder
            with contextlib.suppress(OSError), atomic_write(job.fault_file(rank), "w", encoding="utf-8") as file:
                json.dump(dataclasses.asdict(fault), file)
        if isinstance(error, UsageError):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return getattr(error, "exit_code", 2)
        raise


if __name__ == "__main__":
    sys.exit(main())

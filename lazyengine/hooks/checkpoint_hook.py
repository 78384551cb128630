"""Decides when to save and under which name; `lazyengine.checkpoint` knows which old checkpoints may go."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from .. import checkpoint as ckpt
from .. import dist
from ..errors import UsageValueError
from ..evaluator import Rule
from ..fileio import check_writable
from .best import BestTracker
from .ema_hook import EMAHook
from .hook import Hook, Priority, Runner
from .param_scheduler_hook import ParamSchedulerHook
from .runtime_info_hook import RuntimeInfoHook
from .sync_buffers_hook import SyncBuffersHook

PREEMPTED = "preempted.pth"
"""What a signal leaves; a start that goes on from it saves the end under its own name."""
_WITHIN = "iter_{}.pth"
now = time.monotonic


@dataclasses.dataclass(eq=False)
class CheckpointHook(Hook):
    """Save checkpoints at intervals, at the end, and whenever a metric is the best so far.

    A checkpoint is only saved where no gradients are waiting for their optimizer step; while gradients accumulate, a
    save that is due happens at the next step, or at the end of training when there is none, and its name has the
    position of then. (`OptimWrapperDict` in a single process is saved at once, with its gradients.) What may be deleted
    is derived from the folder, see `superseded_checkpoints`: only files of this run under their own names.

    Args:
        interval: Epochs or iterations between two saves; -1 for none. None for every epoch, or in an iteration loop
            for its `val_interval` (1,000 without a validation).
        by_epoch: Whether `interval` counts epochs (in an iteration loop: passes over the loader) or iterations; None
            for what the loop counts.
        save_optimizer: Whether to save the optimizer. Without it a checkpoint cannot be resumed.
        save_param_scheduler: The same for the schedulers.
        out_dir: The checkpoints lie in a folder of the run folder's name in it; None for the run folder.
        max_keep_ckpts: How many of the interval's checkpoints to keep, the newest; -1 for all.
        save_last: Whether to save at the end, also when the interval does not ask for it.
        save_begin: First epoch or iteration (counted from 1) at which the interval saves, and from which it counts.
        save_best: Metric, or several, of which the best checkpoint is kept; ``"auto"`` takes the first metric.
        rule: ``"greater"`` or ``"less"`` (for each metric); None decides by the metric's name.
        greater_keys: Parts of metric names of which more is better, instead of the usual ones.
        less_keys: The same for less.
        published_keys: After training, also write files with these keys only, whose names end in the first eight
            characters of their SHA-256: the last and each best checkpoint.
        filename_tmpl: Name with ``{}`` for the number, ending in .pth, .pt or .ckpt; None for ``epoch_{}.pth`` or
            ``iter_{}.pth``.
        async_save: Whether a thread writes while training goes on.
        give_up_after: After so many planned saves in a row of which nothing could be written, as when the disk is full,
            training stops; each failure is logged, and one of a best file counts for nothing.
        every_s: Also save when so many seconds have passed since the last save, by rank 0's clock or another's; within
            an epoch as ``iter_{}.pth``, which goes with the next save. None for no saves by time.

    Raises:
        ValueError: For an interval of 0, a count or time that is not positive, a template without ``{}``, with a
            folder, or whose files are not found again.
    """

    priority = Priority.VERY_LOW

    interval: int | None = None
    by_epoch: bool | None = None
    _: dataclasses.KW_ONLY
    save_optimizer: bool = True
    save_param_scheduler: bool = True
    out_dir: str | None = None
    max_keep_ckpts: int = -1
    save_last: bool = True
    save_begin: int = 0
    save_best: str | Sequence[str] | None = None
    rule: Rule | Sequence[Rule] | None = None
    greater_keys: Sequence[str] | None = None
    less_keys: Sequence[str] | None = None
    published_keys: str | Sequence[str] | None = None
    filename_tmpl: str | None = None
    async_save: bool = False
    give_up_after: int = 3
    every_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("interval", self.interval), ("max_keep_ckpts", self.max_keep_ckpts)):
            if value is not None and (value == 0 or value < -1):
                raise UsageValueError(f"{name}={value}: expected a positive number, or -1 (no saves, or no limit)")
        for name, value in (("give_up_after", self.give_up_after), ("every_s", self.every_s)):
            if value is not None and not value > 0:
                raise UsageValueError(f"{name}={value}: expected a positive number")
        if self.filename_tmpl is not None and (reason := ckpt.check_filename_template(self.filename_tmpl)):
            raise UsageValueError(f"filename_tmpl={self.filename_tmpl!r}: {reason}")
        indicators = [self.save_best] if isinstance(self.save_best, str) else list(self.save_best or [])
        self.best = BestTracker(indicators, self.rule, self.greater_keys, self.less_keys) if indicators else None
        self.needs_validation = indicators not in ([], ["auto"])
        self.best_names: dict[str, str] = {}  # file in which each metric was best, whether it could be written or not
        self._improved: dict[str, float] = {}
        self._has_epochs = self._is_due = False  # the loop counts epochs, and a save waits for an optimizer step
        self._saved_iter = -1
        self._saved_s = 0.0
        self.spent_s = {"saving": 0.0}
        self._answer: Callable[[], list[int]] | None = None  # whether a save by time is due, of all ranks

    @property
    def saves(self) -> bool:
        """Whether anything is saved at all."""
        return self.interval != -1 or self.save_last or self.best is not None or self.every_s is not None

    def folder(self, runner: Runner) -> str:
        """Return where the checkpoints are: the run folder, or one of its name in `out_dir`."""
        if self.out_dir is None:
            return runner.work_dir
        return os.path.join(os.path.expanduser(self.out_dir), os.path.basename(os.path.abspath(runner.work_dir)))

    def settle(self, runner: Runner) -> None:
        """Let what was left open follow the train loop."""
        loop = runner.train_loop
        self._has_epochs = loop.max_epochs is not None
        if self.by_epoch is None:
            self.by_epoch = self._has_epochs
        if self.interval is None:
            between = loop.val_interval if runner.has("val_loop") and loop.val_interval > 0 else 1000
            self.interval = 1 if self.by_epoch or self._has_epochs else between
        self.filename_tmpl = self.filename_tmpl or ("epoch_{}.pth" if self.by_epoch else "iter_{}.pth")

    def count_saves(self, runner: Runner) -> tuple[int, int]:
        """Return how many checkpoints a whole training saves at its intervals, and how many of them it keeps.

        The best ones come on top, one for each metric of `save_best`; those by time are not known beforehand. A save
        that is due while gradients accumulate happens at the next step.
        """
        self.settle(runner)
        loop, interval, wrapper = runner.train_loop, self.interval or -1, runner.optim_wrapper
        last, length = loop.max_iters, 1
        if self.by_epoch:
            length = loop.epoch_length or last + 1
        step = getattr(wrapper, "accumulative_counts", 1)  # several can be saved at once
        begin = max(self.save_begin or interval, 1)
        due = range(begin, last // length + 1, interval) if interval > 0 else ()
        saved = len({min(-(-place * length // step) * step, last) for place in due})
        ends = bool(self.save_last and not (due and -(-due[-1] * length // step) * step >= last))
        kept = saved + ends
        if self.max_keep_ckpts > 0:
            by_time = self.max_keep_ckpts if self.every_s is not None and not self.by_epoch else 0
            kept = max(min(kept, self.max_keep_ckpts), by_time)
        return saved + ends, kept

    def before_train(self, runner: Runner) -> None:
        """Make sure, before any work is done, that the folder can be written to; do what a kill cut off.

        Raises:
            OSError: When it cannot.
        """
        self.settle(runner)
        is_endless = runner.max_epochs is None and runner.train_loop.epoch_length is None
        if is_endless and self.by_epoch and self.interval != -1:
            runner.logger.warning(
                "CheckpointHook(by_epoch=True) counts passes over the loader, and %s has no length, so that none is "
                "known to end: its interval saves nothing. Leave by_epoch out to count iterations",
                type(runner.train_dataloader).__name__,
            )
        self.spent_s = {"saving": 0.0}
        left: list[Any] = [[], False]
        due = [name for metric, name in self.best_names.items() if name == self._best_name(runner, metric)]
        if dist.is_main_process():
            folder = self.folder(runner)
            check_writable(folder, f"checkpoints could not be written to {folder}; set work_dir to a writable folder")
            self._prune(runner, None)
            latest = ckpt.or_none(ckpt.find_latest_checkpoint, folder) or ""
            left = [
                [n for n in due if not os.path.exists(os.path.join(folder, n))],
                os.path.basename(latest) == PREEMPTED,
            ]
        dist.broadcast_object_list(left)
        self._saved_iter, self._saved_s = -1 if left[1] else runner.iter or -1, now()
        for name in left[0]:  # a kill came between the best ones of a validation
            self._write(runner, name, is_latest=False)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save by iteration or by pass, and what waited for an optimizer step."""
        loop, position = runner.train_loop, runner.train_loop.position
        has_ended = position.batch == loop.epoch_length  # the epoch or pass
        if self.by_epoch and self._has_epochs and (has_ended or not self._is_due):
            if not has_ended and self.every_s is not None:  # else after_train_epoch follows
                self._save_by_time(runner, self.every_s)
            return
        done = position.iter if not self.by_epoch else position.epoch + 1 if has_ended else 0
        self._save_if_due(runner, done, position.iter == loop.max_iters)
        if self.every_s is not None:
            self._save_by_time(runner, self.every_s)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save by epoch."""
        if self.by_epoch and runner.max_epochs is not None:
            self._save_if_due(runner, runner.epoch + 1, self.is_last_train_epoch(runner))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Judge the metrics; only in a validation inside training."""
        if self.best is None or not runner.is_training or not metrics:
            return
        try:
            improved = self.best.update(metrics)
        except ValueError:
            if self._is_due:  # the regular checkpoint of this position comes first, with the gradients so far
                self._save(runner)
            raise
        self.best_names |= {indicator: self._best_name(runner, indicator) for indicator in improved}
        for indicator, score in improved.items():
            runner.message_hub.update_info(f"best/{indicator}", score)
        self._improved = improved

    def after_val(self, runner: Runner) -> None:
        """Save what was the best so far, when all hooks have seen it: a resume may go on from here."""
        improved, self._improved = self._improved, {}
        for indicator, score in improved.items():  # each of them holds all that are still to come
            runner.logger.info("best %s so far: %.4f; saving %s", indicator, score, self.best_names[indicator])
            best = os.path.join(self.folder(runner), self.best_names[indicator])
            end = f"_{indicator}" if self.best and len(self.best.indicators) > 1 else ""  # mmengine's names
            runner.message_hub.update_info(f"best_ckpt{end}", best, resumed=False)
            runner.message_hub.update_info(f"best_score{end}", score, resumed=False)
            self._write(runner, self.best_names[indicator], is_latest=False)

    def after_train(self, runner: Runner) -> None:
        """Save what waited, or the end when it came early, and write the published files."""
        if self._is_due and not runner.optim_wrapper.can_be_saved:
            runner.logger.warning("no optimizer step came after a save was due: its gradients are not saved")
        if self._is_due or (self.save_last and self._saved_iter != runner.iter):
            self._save(runner)
        if self.published_keys and dist.is_main_process():
            runner.wait_for_checkpoints()
            folder = self.folder(runner)
            keys = [self.published_keys] if isinstance(self.published_keys, str) else self.published_keys
            for name in filter(None, (ckpt.find_latest_checkpoint(folder), *self.best_names.values())):
                path = os.path.join(folder, os.path.basename(name))
                if os.path.exists(path):
                    runner.logger.info("published %s", ckpt.publish_checkpoint(path, keys))
                else:  # could not be written, or is in the folder that the run was resumed from
                    runner.logger.warning("%s is not there, and so not published", path)

    def summary(self) -> list[tuple[str, str]]:
        """Return rows of the final table: the best values and where their checkpoints are."""
        if self.best is None:
            return []
        return [(f"best {k}", f"{v:.4f} ({self.best_names.get(k, '?')})") for k, v in self.best.scores.items()]

    def must_follow(self, other: Hook) -> bool:
        """Return whether `other` changes what is saved here."""
        changes = isinstance(other, RuntimeInfoHook | ParamSchedulerHook | SyncBuffersHook | EMAHook)
        has_state = type(other).state_dict is not Hook.state_dict
        return changes or (has_state and not isinstance(other, CheckpointHook))

    def describe_interval(self) -> str:
        """Return the interval as text for the hook timeline."""
        text = "every epoch/val_interval" if self.interval is None else super().describe_interval()
        text = text.replace("time", "epoch or iteration") if self.interval != -1 else ""
        best = f"best {', '.join(self.best.indicators)}" if self.best else ""
        return "; ".join(part for part in (text, best, "last" if self.save_last else "") if part)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values and where they were reached, and whether a save waits for an optimizer step."""
        best = self.best.state_dict() if self.best else {}
        return {"best": best, "best_names": dict(self.best_names), "is_due": self._is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        if self.best is not None and state_dict["best"]:
            self.best.load_state_dict(state_dict["best"])
            self.best_names = {k: v for k, v in state_dict["best_names"].items() if k in self.best.scores}
        self._is_due = bool(state_dict.get("is_due", state_dict.get("pending")))  # the name of version 0.1.0

    # ------------------------------------------------------------------ inside
    def _position(self, runner: Runner) -> tuple[int, int]:
        """Return the completed epochs (or passes) and iterations, as a checkpoint that is saved now counts them."""
        loop, position = runner.train_loop, runner.train_loop.position
        return position.epoch + (0 < position.batch == loop.epoch_length), position.iter

    def _best_name(self, runner: Runner, metric: str) -> str:
        epoch, iteration = self._position(runner)
        position = f"epoch_{epoch}" if self.by_epoch and runner.max_epochs is not None else f"iter_{iteration}"
        return f"best_{metric.replace('/', '_')}_{position}.pth"

    def _save_if_due(self, runner: Runner, done: int, is_last: bool) -> None:
        """Save now, or after the optimizer step that the gradients are waiting for; `done` is 0 within an epoch."""
        interval = self.interval or 0
        begin = self.save_begin or interval
        self._is_due |= interval > 0 and done >= max(begin, 1) and (done - begin) % interval == 0
        if (self._is_due or (self.save_last and is_last)) and runner.optim_wrapper.can_be_saved:
            self._save(runner)

    def _save_by_time(self, runner: Runner, every_s: float) -> None:
        """Save when the time has come, which ranks ask one another about at a step and know at the next."""
        if not runner.optim_wrapper.can_be_saved:
            return
        is_due = now() - self._saved_s >= every_s
        if dist.get_world_size() > 1:
            answer, self._answer = self._answer, dist.start_max([int(is_due)])
            is_due = answer is not None and answer() == [1]
        if is_due and self._saved_iter != runner.train_loop.position.iter:
            self._save(runner, within=bool(self.by_epoch))

    def _save(self, runner: Runner, *, within: bool = False) -> None:
        epoch, iteration = self._position(runner)
        name = str(self.filename_tmpl).format(epoch if self.by_epoch else iteration)
        if within or (self.by_epoch and runner.max_epochs is None and not self._is_due):
            name = _WITHIN.format(iteration)  # of an epoch, or the end within a pass
        self._is_due, self._saved_iter = False, iteration
        self._saved_s, self._answer = now(), None
        runner.logger.info("saving %s", name)
        hub = runner.message_hub  # under mmengine's names, for other hooks
        hub.update_info("last_ckpt", os.path.join(self.folder(runner), name), resumed=False)
        if self.max_keep_ckpts > 0:
            kept = [*hub.get_info("keep_ckpt_ids", []), epoch if self.by_epoch else iteration]
            hub.update_info("keep_ckpt_ids", kept[-self.max_keep_ckpts :], resumed=False)
        self._write(runner, name, is_latest=True)

    def _write(self, runner: Runner, name: str, *, is_latest: bool) -> None:
        """Write a checkpoint; what it makes superfluous is deleted only when it is in place."""
        then = functools.partial(self._prune, runner, name)
        own = ("save_optimizer", "save_param_scheduler", "async_save", "give_up_after")
        options = {option: getattr(self, option) for option in own}
        begin = time.perf_counter()
        runner.save_checkpoint(name, out_dir=self.folder(runner), is_latest=is_latest, then=then, **options)
        self.spent_s["saving"] += time.perf_counter() - begin

    def _prune(self, runner: Runner, written: str | None) -> None:
        """Delete what may go when a file is in place; None for the one that the pointer names."""
        run_id, folder = runner.folder.run_id, self.folder(runner)
        names = [(str(self.filename_tmpl), bool(self.by_epoch), self.max_keep_ckpts)]
        if self.by_epoch and self.every_s is not None:
            names.append((_WITHIN, False, 1))
        superseded = [path for each in names for path in ckpt.superseded_checkpoints(folder, written, run_id, *each)]
        for path in dict.fromkeys(superseded):
            try:
                ckpt.remove_checkpoint(path)
            except OSError as error:
                runner.logger.warning("could not delete the old checkpoint %s: %s", path, error)

"""Decides when to save, under which name, and which old checkpoints to delete."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import dist
from ..checkpoint import remove_checkpoint
from .best import BestTracker, Rule
from .ema_hook import EMAHook
from .hook import Hook, Priority
from .param_scheduler_hook import ParamSchedulerHook
from .runtime_info_hook import RuntimeInfoHook
from .sync_buffers_hook import SyncBuffersHook

if TYPE_CHECKING:
    from ..runner import Runner


class CheckpointHook(Hook):
    """Save checkpoints at intervals, at the end, and whenever a metric is the best so far.

    A checkpoint is only saved where no gradients are waiting for their optimizer step; while gradients accumulate, a
    save that is due happens at the next step, or at the end of training when there is none. (`OptimWrapperDict` in a
    single process is saved at once, with its gradients.) The files of one run are deleted by that run only: names are
    relative to the folder, and a run that was resumed into another folder finds none of them there.

    Args:
        interval: Epochs or iterations between two saves; -1 for none.
        by_epoch: Whether `interval` counts epochs or iterations.
        save_optimizer: Whether to save the optimizer. Without it a checkpoint cannot be resumed.
        save_param_scheduler: The same for the schedulers.
        out_dir: Folder of the checkpoints; None for the run folder.
        max_keep_ckpts: How many of the interval's checkpoints to keep, the newest; -1 for all.
        save_last: Whether to save at the end, also when the interval does not ask for it.
        save_begin: First epoch or iteration (counted from 1) at which the interval may save.
        save_best: Metric, or several, of which the best checkpoint is kept; ``"auto"`` takes the first metric.
        rule: ``"greater"`` or ``"less"`` (for each metric); None decides by the metric's name.
        greater_keys: Parts of metric names of which more is better, instead of the usual ones.
        less_keys: The same for less.
        published_keys: After training, also write files with these keys only, whose names end in the first eight
            characters of their SHA-256: the last and each best checkpoint.
        filename_tmpl: Name with ``{}`` for the number; None for ``epoch_{}.pth`` or ``iter_{}.pth``.
        async_save: Whether a thread writes while training goes on.

    Raises:
        ValueError: For an interval of 0, a template without ``{}`` or with a folder.
    """

    priority = Priority.VERY_LOW

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_begin: int = 0,
        save_best: str | Sequence[str] | None = None,
        rule: Rule | Sequence[Rule] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        published_keys: str | Sequence[str] | None = None,
        filename_tmpl: str | None = None,
        async_save: bool = False,
    ) -> None:
        if interval == 0 or interval < -1:
            raise ValueError(f"interval={interval}: expected a positive number, or -1 for no regular checkpoints")
        if max_keep_ckpts == 0 or max_keep_ckpts < -1:
            raise ValueError(f"max_keep_ckpts={max_keep_ckpts}: expected a positive number, or -1 to keep all")
        self.filename_tmpl = filename_tmpl or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
        if "{}" not in self.filename_tmpl or os.path.basename(self.filename_tmpl) != self.filename_tmpl:
            raise ValueError(
                f"filename_tmpl={filename_tmpl!r}: expected a file name with {{}} for the number and without a folder; "
                "set out_dir for the folder"
            )
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.save_param_scheduler = save_param_scheduler
        self.out_dir = out_dir
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.save_begin = save_begin
        self.published_keys = [published_keys] if isinstance(published_keys, str) else published_keys
        self.async_save = async_save
        indicators = [save_best] if isinstance(save_best, str) else list(save_best or [])
        self.best = BestTracker(indicators, rule, greater_keys, less_keys) if indicators else None
        self.best_names: dict[str, str] = {}
        self._kept: list[str] = []
        self._stale: list[str] = []  # to be deleted when the next checkpoint is in place
        self._former_best: dict[str, str] = {}  # metrics of the best ones among them, which wait for a better one
        self._best_due: list[str] = []  # best ones of one validation that are not written yet
        self._pending: str | None = None

    def before_train(self, runner: Runner) -> None:
        """Make sure, before any work is done, that the folder can be written to; end a deletion that was cut off.

        Raises:
            OSError: When it cannot.
        """
        if self.by_epoch and self.interval > 0 and runner.max_epochs is None:
            runner.logger.warning(
                "CheckpointHook saves every %d epochs, but the loop counts iterations: only the end and the best are "
                "saved; set by_epoch=False and interval to a number of iterations",
                self.interval,
            )
        if dist.is_main_process():
            folder = self.out_dir or runner.work_dir
            try:
                os.makedirs(folder, exist_ok=True)
                probe = os.path.join(folder, f".probe_{os.getpid()}")
                with open(probe, "w"):
                    pass
                os.remove(probe)
            except OSError as error:
                error.add_note(f"checkpoints could not be written to {folder}; set work_dir to a writable folder")
                raise
            self._prune(folder, tuple(self._stale), runner.logger.warning)
        self._write_best(runner)  # those that a kill after the first of them cut off

    def after_train_epoch(self, runner: Runner) -> None:
        """Save by epoch."""
        if not self.by_epoch or runner.max_epochs is None:
            return
        due = self.every_n_epochs(runner, self.interval) and runner.epoch + 1 >= self.save_begin
        if due or (self.save_last and self.is_last_train_epoch(runner)):
            self._save_at_step(runner, self.filename_tmpl.format(runner.epoch + 1))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save by iteration, and what waited for an optimizer step."""
        if self._pending is not None and runner.optim_wrapper.can_be_saved:
            name, self._pending = self._pending, None
            self._save(runner, name)
        if self.by_epoch:
            return
        due = self.every_n_train_iters(runner, self.interval) and runner.iter + 1 >= self.save_begin
        if due or (self.save_last and self.is_last_train_iter(runner)):
            self._save_at_step(runner, self.filename_tmpl.format(runner.iter + 1))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Save when a metric is the best so far; only in a validation inside training."""
        if self.best is None or not runner.is_training or not metrics:
            return
        for indicator, score in self.best.update(metrics).items():
            name = f"best_{indicator.replace('/', '_')}_{self._position(runner)}.pth"
            former = self.best_names.get(indicator)
            self.best_names[indicator] = name
            runner.message_hub.update_info(f"best/{indicator}", score)
            runner.logger.info("best %s so far: %.4f; saving %s", indicator, score, name)
            if former and former != name:
                self._stale.append(former)
                self._former_best[former] = indicator
            self._best_due.append(name)
        self._write_best(runner)

    def after_train(self, runner: Runner) -> None:
        """Save at the end in a loop without epochs, or when it came early, and write the published files."""
        if self._pending is not None:
            name, self._pending = self._pending, None
            runner.logger.warning(
                "no optimizer step came after the save of %s was due: the gradients that waited are not in it", name
            )
            self._save(runner, name)
        if self.save_last:
            if self.by_epoch and runner.max_epochs is None:
                self._save(runner, f"iter_{runner.iter}.pth")
            elif runner.train_loop.stop_training:
                name = self.filename_tmpl.format(runner.epoch if self.by_epoch else runner.iter)
                if name not in self._kept:
                    self._save(runner, name)
        if self.published_keys and dist.is_main_process():
            runner.wait_for_checkpoints()
            folder = self.out_dir or runner.work_dir
            for name in [*self._kept[-1:], *self.best_names.values()]:
                path = os.path.join(folder, name)
                if os.path.exists(path):
                    runner.logger.info("published %s", publish(path, self.published_keys))
                else:  # could not be written, or is in the folder that the run was resumed from
                    runner.logger.warning("%s is not there, and so not published", path)

    def summary(self) -> list[tuple[str, str]]:
        """Rows of the final table: the best values and where their checkpoints are."""
        if self.best is None:
            return []
        return [(f"best {k}", f"{v:.4f} ({self.best_names.get(k, '?')})") for k, v in self.best.scores.items()]

    def must_follow(self, other: Hook) -> bool:
        """Whether `other` changes what is saved here."""
        changes = isinstance(other, RuntimeInfoHook | ParamSchedulerHook | SyncBuffersHook | EMAHook)
        return changes or type(other).state_dict is not Hook.state_dict

    def describe_interval(self) -> str:
        """Say how often, for the timeline."""
        text = super().describe_interval() if self.interval > 0 else ""
        best = f"best {', '.join(self.best.indicators)}" if self.best else ""
        return "; ".join(part for part in (text, best, "last" if self.save_last else "") if part)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values, and the names of the files that this run wrote."""
        return {
            "best": self.best.state_dict() if self.best else {},
            "best_names": dict(self.best_names),
            "kept": list(self._kept),
            "stale": list(self._stale),
            "former_best": dict(self._former_best),
            "best_due": list(self._best_due),
            "pending": self._pending,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        if self.best is not None and state_dict["best"]:
            self.best.load_state_dict(state_dict["best"])
            self.best_names = {k: v for k, v in state_dict["best_names"].items() if k in self.best.scores}
        self._kept = list(state_dict["kept"])
        self._stale = list(state_dict.get("stale", []))
        self._former_best = dict(state_dict.get("former_best", {}))
        self._best_due = list(state_dict.get("best_due", []))
        self._pending = state_dict.get("pending")

    # ------------------------------------------------------------------ inside
    def _position(self, runner: Runner) -> str:
        if self.by_epoch and runner.max_epochs is not None:
            return f"epoch_{runner.epoch}"
        return f"iter_{runner.train_loop.num_iters_completed}"

    def _save_at_step(self, runner: Runner, name: str) -> None:
        """Save now, or after the optimizer step that the gradients are waiting for."""
        if runner.optim_wrapper.can_be_saved:
            self._save(runner, name)
        else:
            self._pending = name

    def _write_best(self, runner: Runner) -> None:
        """Write the best ones of a validation; each holds which ones are still to come."""
        while self._best_due:
            name = self._best_due.pop(0)
            self._write(runner, name, is_latest=False)

    def _save(self, runner: Runner, name: str) -> None:
        if name in self._kept:
            self._kept.remove(name)
        self._kept.append(name)
        if self.max_keep_ckpts > 0:
            self._stale += self._kept[: -self.max_keep_ckpts]
            self._kept = self._kept[-self.max_keep_ckpts :]
        runner.logger.info("saving %s", name)
        self._write(runner, name, is_latest=True)

    def _write(self, runner: Runner, name: str, *, is_latest: bool) -> None:
        """Write a checkpoint; what it makes superfluous is deleted only when it is in place."""
        with contextlib.suppress(ValueError):
            self._stale.remove(name)
        if not dist.is_main_process():
            self._stale.clear()
            self._former_best.clear()
        folder = self.out_dir or runner.work_dir
        # The pointer may name one of the interval's until the next of them is in place.
        superseded = [old for old in tuple(self._stale) if is_latest or old in self._former_best]
        runner.save_checkpoint(
            name,
            out_dir=self.out_dir,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            is_latest=is_latest,
            async_save=self.async_save,
            then=functools.partial(self._prune, folder, tuple(superseded), runner.logger.warning),
        )

    def _prune(self, folder: str, names: Sequence[str], warn: Callable[..., None]) -> None:
        for name in names:
            path = os.path.join(folder, os.path.basename(name))
            better = self.best_names.get(self._former_best.get(name, ""))
            if better is not None and not os.path.exists(os.path.join(folder, os.path.basename(better))):
                continue  # it could not be written: then the former best one is the best that there is
            try:
                remove_checkpoint(path)  # missing after a resume into another folder, or when deleted by hand
            except OSError as error:
                warn("could not delete the old checkpoint %s: %s", path, error)
            with contextlib.suppress(ValueError):  # deleted by the save before, which a thread has finished meanwhile
                self._stale.remove(name)
            self._former_best.pop(name, None)


def publish(path: str, keys: Sequence[str]) -> str:
    """Write a copy of a checkpoint with some of its keys, named after its content.

    Args:
        path: The checkpoint.
        keys: Top-level keys to keep, such as ``["meta", "state_dict"]``.

    Returns:
        The path of the copy: the stem of `path`, a hyphen, and the first eight characters of the file's SHA-256.

    Raises:
        KeyError: When the checkpoint does not have one of the keys.
    """
    from ..checkpoint import read_checkpoint, save_checkpoint

    checkpoint = read_checkpoint(path)
    missing = [key for key in keys if key not in checkpoint]
    if missing:
        raise KeyError(f"published_keys: {path} has no {missing}; it has {list(checkpoint)}")
    stem = os.path.splitext(path)[0]
    draft = f"{stem}-published.pth"
    save_checkpoint({key: checkpoint[key] for key in keys}, draft)
    with open(draft, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    final = f"{stem}-{digest[:8]}.pth"
    os.replace(draft, final)
    return final

"""Tells samplers which epoch it is, so that every epoch has its own order and augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class DistSamplerSeedHook(Hook):
    """Call ``set_epoch(epoch)`` on the loader, or on its sampler where the loader is a plain one."""

    priority = Priority.NORMAL

    def before_train_epoch(self, runner: Runner) -> None:
        """Hand the number of the epoch to whoever shuffles."""
        loader = runner.train_dataloader
        batch_sampler = getattr(loader, "batch_sampler", None)
        for target in (loader, getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)):
            set_epoch = getattr(target, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(runner.epoch)
                return

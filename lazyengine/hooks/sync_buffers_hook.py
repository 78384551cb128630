"""Makes the buffers of all ranks equal."""

from __future__ import annotations

from .. import dist
from .hook import Hook, Runner


class SyncBuffersHook(Hook):
    """Average the model's buffers (batch norm statistics) over the ranks at the end of each training epoch.

    Without it rank 0's are evaluated and saved, which saw its own share of the data only.
    Collective: every rank must have it.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Average the buffers."""
        if dist.get_world_size() > 1:
            dist.all_reduce_params((b for b in runner.model.buffers() if b.is_floating_point()), op="mean")

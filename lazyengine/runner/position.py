"""Where a run stands: one small value, asked by loops, hooks and checkpoints alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Position:
    """Completed counts, and what is due.

    mmengine's convention, which hooks rely on, is that `iter` and `epoch` do not count the iteration or epoch whose
    ``after_...`` hooks are running; `shown_iter` and `shown_epoch` are these.

    Attributes:
        epoch: Completed epochs (of `IterBasedTrainLoop`: passes over the loader).
        batch: Completed batches of the current epoch.
        iter: Completed iterations, of all epochs.
        samples: Samples that all ranks together have trained on, counted in whole batches; 0 where a loader does not
            say how many a batch has.
        val_due: Whether a validation is due before training goes on.
        shown_epoch: Completed epochs, without the one whose hooks are running.
        shown_iter: Completed iterations, without the one whose hooks are running.
    """

    epoch: int = 0
    batch: int = 0
    iter: int = 0
    samples: int = 0
    val_due: bool = False
    shown_epoch: int = dataclasses.field(default=0, init=False)
    shown_iter: int = dataclasses.field(default=0, init=False)

    def advance(self, num_samples: int = 0) -> None:
        """Count an iteration; until `settle`, its hooks are running."""
        self.iter += 1
        self.batch += 1
        self.samples += num_samples

    def end_epoch(self) -> None:
        """Count an epoch: what is saved from here on goes on with the next one; until `settle`, its hooks run."""
        self.epoch += 1
        self.batch = 0

    def settle(self) -> None:
        """Note that the hooks of the iteration or epoch have run, or that an exception has ended them."""
        self.shown_iter, self.shown_epoch = self.iter, self.epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the counts in plain types."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts; those that an earlier version did not save stay."""
        for name in self.state_dict():
            setattr(self, name, state.get(name, getattr(self, name)))
        self.settle()

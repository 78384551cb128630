"""What a run is made of, as text: printed at its start and by a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..analysis import summary
from ..optim import OptimWrapperDict, param_group_table

if TYPE_CHECKING:
    from .runner import Runner


def describe(runner: Runner) -> str:
    """Return the hooks timeline with its warnings, and the model's parts and parameter counts.

    Builds the model and the hooks where they are not built yet; no dataset, no loop and no optimizer.
    """
    schedule = runner.hook_schedule
    parts = ["hooks, point by point:", schedule.timeline()]
    parts.extend(f"warning: {warning}" for warning in schedule.warnings())
    parts += ["", "model:", summary(runner.model)]
    return "\n".join(parts)


def describe_optimizer(runner: Runner) -> str:
    """Return the table of parameter groups of each optimizer; builds the optimizer."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return "\n".join(f"{name}:\n{param_group_table(each)}" for name, each in wrapper.items())
    return param_group_table(wrapper)

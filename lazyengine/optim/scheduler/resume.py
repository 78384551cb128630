"""Save, resume and replay the schedulers of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...logging import print_log
from .._checks import require
from .._resuming import undo_schedules
from .base import _ParamScheduler
from .build import accumulative_counts

Schedulers = Sequence[_ParamScheduler] | Mapping[str, Sequence[_ParamScheduler]]


def param_schedulers_state_dict(schedulers: Schedulers) -> Any:
    """Return the states of a list of schedulers, or of a dict of lists, in the same arrangement."""
    if isinstance(schedulers, Mapping):
        return {name: [s.state_dict() for s in chain] for name, chain in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


def resume_param_schedulers(
    schedulers: Schedulers,
    states: Any,
    *,
    num_epochs: int | None = None,
    num_optimizer_steps: int | None = None,
    num_iters: int | None = None,
    epoch_length: int | None = None,
    optim_wrapper: Any = None,
) -> list[str]:
    """Resume schedulers; where the schedule was changed, keep the position and take the new shape.

    Call it after the optimizer's state was loaded. If nothing changed, the positions are taken and the optimizer's
    values, as saved, are right. If a scheduler was changed, added or removed, or the optimizer's initial value differs,
    its whole chain is replayed from the initial values to the position, so that the values are the ones of a run that
    had the new schedule from the start; what changed is logged as a warning.

    Args:
        schedulers: Built schedulers, a list or a dict of lists.
        states: What `param_schedulers_state_dict` returned (or mmengine's list of states).
        num_epochs: Epochs completed; read from the states if not given, like the next two.
        num_optimizer_steps: Optimizer steps done, where the position was translated; otherwise derived from
            ``num_iters`` where the states do not say.
        num_iters: Training iterations done.
        epoch_length: Iterations in one epoch, for the order of the steps when a chain mixes epochs and steps.
        optim_wrapper: The `OptimWrapper` or `OptimWrapperDict`; with it, an option that no schedule moves any more gets
            the value that it was built with.

    Returns:
        What changed, one line each; empty when nothing did.

    Raises:
        UsageValueError: States and schedulers are not of the same kind, or a position is nowhere to be found.
    """
    is_alike = isinstance(schedulers, Mapping) == isinstance(states, Mapping)
    what = f"cannot resume a {type(schedulers).__name__} of schedulers from a {type(states).__name__}"
    require(is_alike, f"{what} · the number of optimizers was changed")
    chains = schedulers if isinstance(schedulers, Mapping) else {"": schedulers}
    saved = states if isinstance(states, Mapping) else {"": states}
    counts = {"epoch": num_epochs, "step": num_optimizer_steps, "iter": num_iters}
    changes: list[str] = []
    for name, chain in chains.items():
        chain_states = saved.get(name, [])
        chain_changes = _chain_changes(chain, chain_states)
        has_moved = bool(chain_changes) or num_optimizer_steps is not None
        for scheduler, state in zip(chain, chain_states):
            # What a replay cannot find of a plateau: its reductions, the best value, the patience that was used.
            if not has_moved or (scheduler.need_val_args and "reductions" in state):
                scheduler.load_position(state)
        if has_moved:
            position = _saved_position(chain_states)
            position.update({unit: count for unit, count in counts.items() if count is not None})
            if "iter" in position and chain:
                position.setdefault("step", position["iter"] // accumulative_counts(chain[0].optimizer))
            if chain_changes and optim_wrapper is not None:
                wrapper = optim_wrapper.named()[name]
                undo_schedules(wrapper.param_groups, wrapper.as_built)
            replay_param_schedulers(chain, position, epoch_length=epoch_length)
        changes += [f"{name}: {change}" if name else change for change in chain_changes]
    if changes:
        text = "\n  ".join(["The schedule was changed: the position is kept and the new shape taken.", *changes])
        print_log(text, logger="current", level=logging.WARNING)
    return changes


def replay_param_schedulers(
    chain: Sequence[_ParamScheduler],
    position: Mapping[str, int],
    *,
    epoch_length: int | None = None,
) -> None:
    """Put a chain of schedulers and its optimizer's values where a run would have them at a position.

    A plateau scheduler, whose metrics nobody keeps, reduces the value where it did so before.

    Args:
        chain: The schedulers of one optimizer, in their order.
        position: Counts done, by unit: ``"epoch"``, ``"step"`` (of the optimizer), ``"iter"``.
        epoch_length: Iterations in one epoch.

    Raises:
        UsageValueError: The position of a unit that the chain counts is not given.
    """
    for scheduler in chain:
        unit = _unit_of(vars(scheduler))
        what = f"cannot place the changed schedule: the checkpoint says nothing of the number of {unit}s done"
        require(unit in position, f"{what} · pass num_epochs, num_optimizer_steps and num_iters")
    for scheduler in reversed(chain):
        scheduler._reset_groups()
    for scheduler in chain:
        scheduler._start()
    walk = [(scheduler, _unit_of(vars(scheduler)), sorted(getattr(scheduler, "reductions", ()))) for scheduler in chain]
    walk.sort(key=lambda each: each[1] == "epoch")  # which are stepped last in an iteration
    for targets in _ticks(position, epoch_length):
        for scheduler, unit, reductions in walk:
            while scheduler._global_step < targets[unit]:
                scheduler.step()
            while reductions and reductions[0] <= scheduler._global_step:
                reductions.pop(0)
                scheduler._act()
    for scheduler in chain:
        scheduler._last_value = scheduler._current()


def _unit_of(state: Mapping[str, Any]) -> str:
    if state.get("by_epoch", True):
        return "epoch"
    return "iter" if state.get("count_iters") else "step"


def _ticks(position: Mapping[str, int], epoch_length: int | None) -> Iterator[dict[str, int]]:
    """Yield the counts after every tick of the finest unit, spread evenly; epochs end where iterations say so."""
    total = max(position.values(), default=0)
    num_iters = position.get("iter", position.get("step", 0))
    for tick in range(1, total + 1):
        counts = {unit: count * tick // total for unit, count in position.items()}
        if epoch_length and num_iters and "epoch" in position and tick < total:
            iters = counts.get("iter", counts.get("step", 0))
            counts["epoch"] = min(iters // epoch_length, position["epoch"])
        yield counts


def _chain_changes(chain: Sequence[_ParamScheduler], states: Sequence[Mapping[str, Any]]) -> list[str]:
    changes = [change for s, state in zip(chain, states) for change in s.changes_from(state)]
    changes += [f"added {type(s).__name__}" for s in chain[len(states) :]]
    changes += [f"removed {state.get('class_name', 'a scheduler')}" for state in states[len(chain) :]]
    return changes


def _saved_position(states: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    position: dict[str, int] = {}
    for state in states:
        unit = _unit_of(state)
        position[unit] = max(position.get(unit, 0), state["_global_step"])
    return position

"""Draw the learning rate (and what else is scheduled) of every parameter group over a whole run, without training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ..errors import UsageValueError
from ..optim import _ParamScheduler
from ..text import listed
from .curves import draw_curves, write_curves


@dataclass(frozen=True)
class ScheduleCurves:
    """Values of scheduled options over a run.

    Attributes:
        iters: Indices of the iterations that were recorded, ascending, the first and the last among them.
        values: For each option (``"lr"``), for each group's name, the value that each recorded iteration trains with.
        epoch_length: Iterations in one epoch, None when unknown.
    """

    iters: list[int]
    values: dict[str, dict[str, list[float]]]
    epoch_length: int | None = None

    def distinct(self, option: str) -> dict[str, list[float]]:
        """Return an option's curves with equal ones merged; the names are joined."""
        merged: dict[tuple[float, ...], list[str]] = {}
        for name, values in self.values[option].items():
            merged.setdefault(tuple(values), []).append(name)
        return {listed(names, 3): list(values) for values, names in merged.items()}

    def as_text(self, width: int = 72, height: int = 10) -> str:
        """Return the curves as text, option by option, each so many columns wide and rows high."""
        last = self.iters[-1] + 1
        x_title = f"{last} iterations" + (f" ({last / self.epoch_length:g} epochs)" if self.epoch_length else "")
        size: Any = {"x_title": x_title, "width": width, "height": height, "x_from": 0}
        texts = []
        for option, curves in self._panels().items():
            is_lone = list(curves) == ["all"]
            texts.append(draw_curves(option, {"": curves["all"]} if is_lone else curves, **size))
        return "\n\n".join(texts)

    def write(self, path: str) -> None:
        """Write the curves as a PNG; needs matplotlib."""
        write_curves(self._panels(), path, epoch_length=self.epoch_length)

    def _panels(self) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
        return {option: {name: (self.iters, y) for name, y in self.distinct(option).items()} for option in self.values}


def simulate_schedule(
    optim_wrapper: Any,
    schedulers: Sequence[_ParamScheduler] | Mapping[str, Sequence[_ParamScheduler]],
    *,
    max_iters: int,
    epoch_length: int | None = None,
    max_points: int = 2000,
) -> ScheduleCurves:
    """Step copies of the schedulers through a run; optimizer and schedulers are left as they are.

    Args:
        optim_wrapper: An `OptimWrapper`, a torch optimizer, or several by name (an `OptimWrapperDict`).
        schedulers: Built schedulers: a list, or a dict of lists for several optimizers.
        max_iters: Training iterations of the run.
        epoch_length: Iterations in one epoch; needed when a scheduler counts epochs.
        max_points: At most about this many iterations are recorded, evenly spaced.

    Raises:
        UsageValueError: A scheduler counts epochs and ``epoch_length`` is unknown, or ``max_iters`` is not positive.
    """
    if max_iters < 1:
        raise UsageValueError(f"simulate_schedule: max_iters must be at least 1, got {max_iters}")
    wrappers = dict(optim_wrapper.items()) if callable(getattr(optim_wrapper, "items", None)) else {"": optim_wrapper}
    chains = schedulers if isinstance(schedulers, Mapping) else {"": schedulers}
    stride = max(1, -(-max_iters // max_points))
    iters = sorted({*range(0, max_iters, stride), max_iters - 1})
    values: dict[str, dict[str, list[float]]] = {}
    for name, wrapper in wrappers.items():
        chain = chains.get(name, [])
        if epoch_length is None and any(s.by_epoch and not s.need_val_args for s in chain):
            raise UsageValueError("simulate_schedule: a scheduler counts epochs, so epoch_length is needed; got None")
        groups = [{k: v for k, v in group.items() if k != "params"} for group in wrapper.param_groups]
        preview = _Preview(groups, chain, getattr(wrapper, "accumulative_counts", 1))
        names = [_group_name(name, index, group, len(groups)) for index, group in enumerate(groups)]
        for row in preview.run(max_iters, epoch_length, set(iters)):
            for option, columns in row.items():
                for group_name, value in zip(names, columns):
                    values.setdefault(option, {}).setdefault(group_name, []).append(value)
    return ScheduleCurves(iters, values, epoch_length)


def plot_schedule(
    optim_wrapper: Any,
    schedulers: Sequence[_ParamScheduler] | Mapping[str, Sequence[_ParamScheduler]],
    *,
    max_iters: int,
    epoch_length: int | None = None,
    path: str | None = None,
    width: int = 72,
    height: int = 10,
) -> str:
    """Draw the curves of a run as text and, given a path, as a PNG.

    Args:
        optim_wrapper: See `simulate_schedule`, like the next three.
        schedulers: Built schedulers.
        max_iters: Training iterations of the run.
        epoch_length: Iterations in one epoch.
        path: Where to write a picture (needs matplotlib); None for none.
        width: Columns of the text.
        height: Rows of each option's curve in the text.

    Returns:
        The curves as text, option by option.
    """
    curves = simulate_schedule(optim_wrapper, schedulers, max_iters=max_iters, epoch_length=epoch_length)
    if path is not None:
        curves.write(path)
    return curves.as_text(width, height)


class _Preview:
    """A chain of copied schedulers on copied groups."""

    def __init__(
        self, groups: list[dict[str, Any]], chain: Sequence[_ParamScheduler], accumulative_counts: int
    ) -> None:
        self.groups = groups
        self.accumulative_counts = accumulative_counts
        optimizer = SimpleNamespace(param_groups=groups)
        self.chain = [copy.copy(scheduler) for scheduler in chain]
        for scheduler in self.chain:
            scheduler.optimizer = optimizer
            scheduler.verbose = False
        for group in groups:  # a tensor would be shared with the real group
            group.update({key: value.item() for key, value in group.items() if hasattr(value, "item")})
        for scheduler in reversed(self.chain):
            scheduler._reset_groups()
        for scheduler in self.chain:
            scheduler._start()
        self.options = list(dict.fromkeys(["lr", *(scheduler.param_name for scheduler in self.chain)]))

    def run(self, max_iters: int, epoch_length: int | None, recorded: set[int]):
        """Yield the values by option before each recorded iteration."""
        chain = [s for s in self.chain if not s.need_val_args]
        by_iter = [s for s in chain if not s.by_epoch and s.count_iters]
        by_step = [s for s in chain if not s.by_epoch]
        by_epoch = [s for s in chain if s.by_epoch]
        for index in range(max_iters):
            if index in recorded:
                yield {name: [float(group[name]) for group in self.groups] for name in self.options}
            done = index + 1
            has_stepped = done % self.accumulative_counts == 0 or done == max_iters
            for scheduler in by_step if has_stepped else by_iter:
                scheduler.step()
            if epoch_length and done % epoch_length == 0:
                for scheduler in by_epoch:
                    scheduler.step()


def _group_name(optimizer: str, index: int, group: Mapping[str, Any], num_groups: int) -> str:
    own = str(group.get("name", "")) or (f"group {index}" if num_groups > 1 else "")
    return ".".join(part for part in (optimizer, own) if part) or "all"

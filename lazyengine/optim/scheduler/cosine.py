"""Curves along a cosine: annealing, with restarts, one cycle."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Unpack

from .base import GeneralForm, OptimizerLike, Schedule, SchedulerOptions


class _CosineBase(Schedule):
    """The lower bound that both cosine schedules share."""

    def __init__(
        self,
        optimizer: OptimizerLike,
        eta_min: float | None,
        eta_min_ratio: float | None,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        got = f"got eta_min={eta_min}, eta_min_ratio={eta_min_ratio}"
        self._require(None in (eta_min, eta_min_ratio), f"give eta_min or eta_min_ratio, not both; {got}")
        self.eta_min = 0.0 if eta_min is None and eta_min_ratio is None else eta_min
        self.eta_min_ratio = eta_min_ratio
        super().__init__(optimizer, **options)

    def _lower_bounds(self) -> list[float]:
        if self.eta_min_ratio is None:
            return [self.eta_min or 0.0] * len(self.base_values)
        return [base * self.eta_min_ratio for base in self.base_values]

    def _anneal(self, step: float, period: float) -> list[float]:
        ratio = (1 + math.cos(math.pi * step / period)) / (1 + math.cos(math.pi * (step - 1) / period))
        return [ratio * (value - low) + low for value, low in zip(self._current(), self._lower_bounds())]


class _CosineAnnealing(_CosineBase):
    """Anneal along half a cosine.

    `v(t) = eta_min + (v0 - eta_min) * (1 + cos(pi * t / T_max)) / 2`. Past ``T_max`` the curve rises again along the
    cosine; recursively, the first step of the rise starts from ``eta_min`` with the group's initial value as its top.
    Note that ``T_max = end - begin`` is reached at ``end``, one step after the last one that acts.
    Source: Loshchilov and Hutter 2017, SGDR, https://arxiv.org/abs/1608.03983, equation 5, without restarts, in the
    recursive form of `torch.optim.lr_scheduler.CosineAnnealingLR`.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        T_max: Steps of the half cosine; ``end - begin`` if not given.
        eta_min: The lowest value; 0 if neither this nor ``eta_min_ratio`` is given.
        eta_min_ratio: The lowest value as a fraction of each group's initial value.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: Both bounds are given, ``T_max`` is not positive, or neither ``T_max`` nor ``end`` is known.
    """

    _epoch_arguments = ("T_max",)

    def __init__(
        self,
        optimizer: OptimizerLike,
        T_max: float | None = None,
        eta_min: float | None = None,
        *,
        eta_min_ratio: float | None = None,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        self._require(T_max is None or T_max > 0, f"T_max must be positive, got {T_max}")
        self.T_max = T_max
        super().__init__(optimizer, eta_min, eta_min_ratio, **options)

    def _prepare(self) -> None:
        if self.T_max is None:
            self._require_end("end or T_max")
            self.T_max = self.end - self.begin

    def _get_value(self) -> list[float] | None:
        step, period = self.last_step, self.T_max
        assert period is not None
        if step == 0:
            return None
        if (step - 1 - period) % (2 * period) == 0:
            rise = (1 - math.cos(math.pi / period)) / 2
            bounds = zip(self._current(), self.base_values, self._lower_bounds())
            return [value + (base - low) * rise for value, base, low in bounds]
        return self._anneal(step, period)


class CosineAnnealingLR(_CosineAnnealing, param_name="lr"):
    """Anneal the learning rate along half a cosine."""


class CosineAnnealingMomentum(_CosineAnnealing, param_name="momentum"):
    """Anneal the momentum, or the first of ``betas``, along half a cosine."""


class CosineAnnealingParamScheduler(GeneralForm, _CosineAnnealing):
    """Anneal any option of the groups along half a cosine."""


class _CosineRestart(_CosineBase):
    """Anneal along half a cosine, again and again.

    In period `i`, at step `s` of it, `v = eta_min + (w_i * base - eta_min) * (1 + cos(pi * s / periods[i])) / 2`, with
    `base` the group's initial value and `w_i` the restart weight. The first step of a period sets the value; the others
    are recursive. After the last period the value stays.
    Source: Loshchilov and Hutter 2017, SGDR, https://arxiv.org/abs/1608.03983, equation 5; the list of periods and
    weights is mmengine's.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        periods: Steps of each period.
        restart_weights: One factor for each period.
        eta_min: The lowest value; 0 if neither this nor ``eta_min_ratio`` is given.
        eta_min_ratio: The lowest value as a fraction of each group's initial value.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: Both bounds are given, the lengths differ, or a period is not positive.
    """

    _epoch_arguments = ("periods",)

    def __init__(
        self,
        optimizer: OptimizerLike,
        periods: Sequence[float],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        got = f"got {len(periods)} periods and {len(restart_weights)} restart_weights"
        self._require(len(periods) == len(restart_weights), f"needs one restart weight for each period, {got}")
        self._require(all(p > 0 for p in periods), f"periods must be positive, got {list(periods)}")
        self.periods, self.restart_weights = list(periods), list(restart_weights)
        super().__init__(optimizer, eta_min, eta_min_ratio, **options)

    def _prepare(self) -> None:
        self._cumulative_periods = list(accumulate(self.periods))

    def _get_value(self) -> list[float] | None:
        index = bisect_right(self._cumulative_periods, self.last_step)
        if index == len(self.periods):
            return None
        step = self.last_step - (self._cumulative_periods[index - 1] if index else 0)
        if step == 0:
            return [base * self.restart_weights[index] for base in self.base_values]
        return self._anneal(step, self.periods[index])


class CosineRestartLR(_CosineRestart, param_name="lr"):
    """Anneal the learning rate along half a cosine, again and again."""


class CosineRestartMomentum(_CosineRestart, param_name="momentum"):
    """Anneal the momentum, or the first of ``betas``, along half a cosine, again and again."""


class CosineRestartParamScheduler(GeneralForm, _CosineRestart):
    """Anneal any option of the groups along half a cosine, again and again."""


class _OneCycle(Schedule):
    """Raise the learning rate to ``eta_max``, then lower it to almost nothing.

    With `low = eta_max / div_factor`, `floor = low / final_div_factor`, `N = total_steps`, `p = pct_start`, and
    `anneal(a, b, x)` equal to `b + (a - b) * (1 + cos(pi * x)) / 2` or, linearly, `a + (b - a) * x`: two phases
    `low -> eta_max` until `t = p * N - 1` and `eta_max -> floor` until `t = N - 1`; or, with ``three_phase``,
    `low -> eta_max`, back to `low` at `t = 2 * p * N - 2`, then `low -> floor`. From `t = N - 1` on it stays there.
    This schedule is absolute, not recursive: it overwrites what other schedulers did.
    Source: Smith and Topin 2017, https://arxiv.org/abs/1708.07120; two phases as in fastai, phases as in
    `torch.optim.lr_scheduler.OneCycleLR`.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        eta_max: The top, one value or one for each group.
        total_steps: Steps of the cycle; ``end - begin`` if not given.
        pct_start: Fraction of the cycle spent rising, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: See the formula.
        final_div_factor: See the formula.
        three_phase: See the formula.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: An argument is out of range, or neither ``total_steps`` nor ``end`` is known.
    """

    _epoch_arguments = ("total_steps",)

    def __init__(
        self,
        optimizer: OptimizerLike,
        eta_max: float | Sequence[float] = 0,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        is_length = total_steps is None or (isinstance(total_steps, int) and total_steps > 0)
        is_strategy = anneal_strategy in ("cos", "linear")
        self._require(self.param_name == "lr", f"schedules the learning rate only, not {self.param_name!r}")
        self._require(is_length, f"total_steps must be a positive int, got {total_steps!r}")
        self._require(is_strategy, f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        self.eta_max = list(eta_max) if isinstance(eta_max, Sequence) else eta_max
        self.total_steps = total_steps
        self.pct_start, self.anneal_strategy, self.three_phase = pct_start, anneal_strategy, three_phase
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self._require_fraction("pct_start")
        super().__init__(optimizer, **options)

    def _prepare(self) -> None:
        if self.total_steps is None:
            self._require_end("end or total_steps")
            self.total_steps = int(self.end - self.begin)
        self._tops = self._for_each_group("eta_max")
        low, floor = self.div_factor, self.div_factor * self.final_div_factor
        rise_end, last = float(self.pct_start * self.total_steps) - 1, self.total_steps - 1
        self._phases = [(0.0, rise_end, low, 1.0), (rise_end, last, 1.0, floor)]
        if self.three_phase:
            fall_end = float(2 * self.pct_start * self.total_steps) - 2
            self._phases[1:] = [(rise_end, fall_end, 1.0, low), (fall_end, last, low, floor)]
        self._phases.append((last, math.inf, floor, floor))

    def _record_initial_values(self, resumed: bool) -> list[float]:
        if not resumed:
            for group, top in zip(self.optimizer.param_groups, self._tops):
                group["initial_lr"] = top / self.div_factor
        return super()._record_initial_values(resumed)

    def _get_value(self) -> list[float]:
        first, last, start, end = next(phase for phase in self._phases if self.last_step <= phase[1])
        fraction = (self.last_step - first) / (last - first) if last != first else 1.0
        return [self._anneal(top / start, top / end, fraction) for top in self._tops]

    def _anneal(self, start: float, end: float, fraction: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * fraction + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * fraction) + 1)


class OneCycleLR(_OneCycle, param_name="lr"):
    """Raise the learning rate to ``eta_max``, then lower it to almost nothing."""


class OneCycleParamScheduler(GeneralForm, _OneCycle):
    """Raise any option of the groups to ``eta_max``, then lower it to almost nothing."""

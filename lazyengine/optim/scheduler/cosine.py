"""Cosine annealing, with and without restarts, each for lr and momentum."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from .base import INF, GeneralForm, OptimizerLike, _ParamScheduler


class _CosineBase(_ParamScheduler):
    """The lower bound that both cosine schedules share."""

    eta_min: float | None
    eta_min_ratio: float | None

    def _lower_bounds(self) -> list[float]:
        if self.eta_min_ratio is None:
            return [self.eta_min or 0.0] * len(self.base_values)
        return [base * self.eta_min_ratio for base in self.base_values]

    def _prepare_bounds(self, eta_min: float | None, eta_min_ratio: float | None) -> None:
        if eta_min is not None and eta_min_ratio is not None:
            raise ValueError(
                f"{type(self).__name__}: give eta_min or eta_min_ratio, not both; got eta_min={eta_min}, "
                f"eta_min_ratio={eta_min_ratio}"
            )
        self.eta_min = 0.0 if eta_min is None and eta_min_ratio is None else eta_min
        self.eta_min_ratio = eta_min_ratio

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
        begin: See `_ParamScheduler`, like all arguments that follow but the next.
        eta_min_ratio: The lowest value as a fraction of each group's initial value.

    Raises:
        ValueError: Both bounds are given, ``T_max`` is not positive, or neither ``T_max`` nor ``end`` is known.
    """

    _epoch_arguments = ("T_max",)

    def __init__(
        self,
        optimizer: OptimizerLike,
        T_max: float | None = None,
        eta_min: float | None = None,
        begin: float = 0,
        end: float = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        eta_min_ratio: float | None = None,
        *,
        convert_to_iter_based: bool = False,
        epoch_length: float | None = None,
        count_iters: bool = False,
    ) -> None:
        if T_max is not None and T_max <= 0:
            raise ValueError(f"{type(self).__name__}: T_max must be positive, got {T_max}")
        self.T_max = T_max
        self._prepare_bounds(eta_min, eta_min_ratio)
        super().__init__(
            optimizer, self.param_name, begin, end, last_step, by_epoch, verbose,
            convert_to_iter_based=convert_to_iter_based, epoch_length=epoch_length, count_iters=count_iters,
        )  # fmt: skip

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


class CosineAnnealingLR(_CosineAnnealing):
    __doc__ = _CosineAnnealing.__doc__
    param_name = "lr"


class CosineAnnealingMomentum(_CosineAnnealing):
    __doc__ = _CosineAnnealing.__doc__
    param_name = "momentum"


class CosineAnnealingParamScheduler(GeneralForm, _CosineAnnealing):
    __doc__ = _CosineAnnealing.__doc__


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
        begin: See `_ParamScheduler`, like all arguments that follow.

    Raises:
        ValueError: Both bounds are given, the lengths differ, or a period is not positive.
    """

    _epoch_arguments = ("periods",)

    def __init__(
        self,
        optimizer: OptimizerLike,
        periods: Sequence[float],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        begin: float = 0,
        end: float = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        *,
        convert_to_iter_based: bool = False,
        epoch_length: float | None = None,
        count_iters: bool = False,
    ) -> None:
        if len(periods) != len(restart_weights):
            raise ValueError(
                f"{type(self).__name__}: needs one restart weight for each period, got {len(periods)} periods and "
                f"{len(restart_weights)} restart_weights"
            )
        if any(period <= 0 for period in periods):
            raise ValueError(f"{type(self).__name__}: periods must be positive, got {list(periods)}")
        self.periods, self.restart_weights = list(periods), list(restart_weights)
        self._prepare_bounds(eta_min, eta_min_ratio)
        super().__init__(
            optimizer, self.param_name, begin, end, last_step, by_epoch, verbose,
            convert_to_iter_based=convert_to_iter_based, epoch_length=epoch_length, count_iters=count_iters,
        )  # fmt: skip

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


class CosineRestartLR(_CosineRestart):
    __doc__ = _CosineRestart.__doc__
    param_name = "lr"


class CosineRestartMomentum(_CosineRestart):
    __doc__ = _CosineRestart.__doc__
    param_name = "momentum"


class CosineRestartParamScheduler(GeneralForm, _CosineRestart):
    __doc__ = _CosineRestart.__doc__

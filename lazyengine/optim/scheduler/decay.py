"""Schedules by factors: constant, linear, exponential, step, multi-step and polynomial, each for lr and momentum.

In every formula `t = 0, 1, …, n - 1` is the step inside the schedule, `n = end - begin`, and `v(t)` the value at it,
with `v0` the value that the group had when the schedule began. The code computes `v(t)` from `v(t - 1)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Unpack

from .base import GeneralForm, OptimizerLike, Schedule, SchedulerOptions


class _Constant(Schedule):
    """Hold the value at a fraction, then restore it.

    `v(t) = v0 * factor` for `t < n - 1`, and `v0` from `t = n - 1` on.
    Source: `torch.optim.lr_scheduler.ConstantLR`, with ``total_iters = end - begin - 1`` as in mmengine.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        factor: In [0, 1]. With 0 the value is restored from the group's initial one.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: ``factor`` is out of range.
    """

    def __init__(self, optimizer: OptimizerLike, factor: float = 1.0 / 3, **options: Unpack[SchedulerOptions]) -> None:
        self.factor = factor
        self._require_fraction("factor")
        super().__init__(optimizer, **options)
        self._warn_if_one_step()

    def _get_value(self) -> list[float] | None:
        if self.last_step == 0:
            return self._scaled(self.factor)
        if self.last_step != self.end - self.begin - 1:
            return None
        if self.factor == 0:
            return list(self.base_values)
        return self._scaled(1.0 / self.factor)


class ConstantLR(_Constant, param_name="lr"):
    """Hold the learning rate at a fraction, then restore it."""


class ConstantMomentum(_Constant, param_name="momentum"):
    """Hold the momentum, or the first of ``betas``, at a fraction, then restore it."""


class ConstantParamScheduler(GeneralForm, _Constant):
    """Hold any option of the groups at a fraction, then restore it."""


class _Linear(Schedule):
    """Move the factor linearly from ``start_factor`` to ``end_factor``: the usual warm-up.

    `v(t) = v0 * (start_factor + (end_factor - start_factor) * t / (n - 1))`; ``end_factor`` is reached at `t = n - 1`,
    the last step before ``end``. Source: `torch.optim.lr_scheduler.LinearLR` with ``total_iters = end - begin - 1``;
    warm-up: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.2.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        start_factor: In [0, 1]. After a factor of 0 the value is taken from the group's initial one, since nothing
            can be derived from zero.
        end_factor: In [0, 1].
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: A factor is out of range, or no ``end`` is known.
    """

    def __init__(
        self,
        optimizer: OptimizerLike,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        self.start_factor, self.end_factor = start_factor, end_factor
        self._require_fraction("start_factor")
        self._require_fraction("end_factor")
        super().__init__(optimizer, **options)
        self._warn_if_one_step()

    def _prepare(self) -> None:
        self._require_end()

    def _get_value(self) -> list[float] | None:
        if self.last_step == 0:
            return self._scaled(self.start_factor)
        rise = self.end_factor - self.start_factor
        last = (self.end - self.begin - 1) * self.start_factor + (self.last_step - 1) * rise
        if last == 0:
            factor = self.start_factor + rise * self.last_step / (self.end - self.begin - 1)
            return [base * factor for base in self.base_values]
        return self._scaled(1.0 + rise / last)


class LinearLR(_Linear, param_name="lr"):
    """Move the learning rate linearly from one factor to another: the usual warm-up."""


class LinearMomentum(_Linear, param_name="momentum"):
    """Move the momentum, or the first of ``betas``, linearly from one factor to another: the usual warm-up."""


class LinearParamScheduler(GeneralForm, _Linear):
    """Move any option of the groups linearly from one factor to another: the usual warm-up."""


class _Exponential(Schedule):
    """Multiply by ``gamma`` at every step.

    `v(t) = v0 * gamma ** t`. Source: `torch.optim.lr_scheduler.ExponentialLR`.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        gamma: The factor. ``convert_to_iter_based`` leaves it as it is, as in mmengine: it then acts at every step.
        **options: See `SchedulerOptions`.
    """

    def __init__(self, optimizer: OptimizerLike, gamma: float, **options: Unpack[SchedulerOptions]) -> None:
        self.gamma = gamma
        super().__init__(optimizer, **options)

    def _get_value(self) -> list[float] | None:
        return None if self.last_step == 0 else self._scaled(self.gamma)


class ExponentialLR(_Exponential, param_name="lr"):
    """Multiply the learning rate by ``gamma`` at every step."""


class ExponentialMomentum(_Exponential, param_name="momentum"):
    """Multiply the momentum, or the first of ``betas``, by ``gamma`` at every step."""


class ExponentialParamScheduler(GeneralForm, _Exponential):
    """Multiply any option of the groups by ``gamma`` at every step."""


class _Step(Schedule):
    """Multiply by ``gamma`` every ``step_size`` steps.

    `v(t) = v0 * gamma ** floor(t / step_size)`. Source: `torch.optim.lr_scheduler.StepLR`.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        step_size: Steps between two decays, at least 1.
        gamma: The factor.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: ``step_size`` is not positive.
    """

    _epoch_arguments = ("step_size",)

    def __init__(
        self, optimizer: OptimizerLike, step_size: float, gamma: float = 0.1, **options: Unpack[SchedulerOptions]
    ) -> None:
        self._require(step_size > 0, f"step_size must be positive, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, **options)

    def _get_value(self) -> list[float] | None:
        return self._scaled(self.gamma) if self.last_step and self.last_step % self.step_size == 0 else None


class StepLR(_Step, param_name="lr"):
    """Multiply the learning rate by ``gamma`` every ``step_size`` steps."""


class StepMomentum(_Step, param_name="momentum"):
    """Multiply the momentum, or the first of ``betas``, by ``gamma`` every ``step_size`` steps."""


class StepParamScheduler(GeneralForm, _Step):
    """Multiply any option of the groups by ``gamma`` every ``step_size`` steps."""


class _MultiStep(Schedule):
    """Multiply by ``gamma`` at every milestone.

    `v(t) = v0 * gamma ** (number of milestones <= t)`; a milestone given twice counts twice, and one at `t = 0` acts at
    once. Source: `torch.optim.lr_scheduler.MultiStepLR`.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        milestones: Steps counted from ``begin``.
        gamma: The factor.
        **options: See `SchedulerOptions`.
    """

    _epoch_arguments = ("milestones",)

    def __init__(
        self,
        optimizer: OptimizerLike,
        milestones: Sequence[float],
        gamma: float = 0.1,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, **options)

    def _prepare(self) -> None:
        self._milestone_counts = Counter(self.milestones)

    def _get_value(self) -> list[float] | None:
        count = self._milestone_counts.get(self.last_step)
        return None if count is None else self._scaled(self.gamma**count)


class MultiStepLR(_MultiStep, param_name="lr"):
    """Multiply the learning rate by ``gamma`` at every milestone."""


class MultiStepMomentum(_MultiStep, param_name="momentum"):
    """Multiply the momentum, or the first of ``betas``, by ``gamma`` at every milestone."""


class MultiStepParamScheduler(GeneralForm, _MultiStep):
    """Multiply any option of the groups by ``gamma`` at every milestone."""


class _Poly(Schedule):
    """Decay by a polynomial to ``eta_min``.

    `v(t) = eta_min + (v0 - eta_min) * (1 - t / (n - 1)) ** power`, so ``eta_min`` is reached at the last step before
    ``end``. Source: `torch.optim.lr_scheduler.PolynomialLR` with ``total_iters = end - begin - 1``; in segmentation:
    Chen et al. 2016, https://arxiv.org/abs/1606.00915, section 4.1.2.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        eta_min: The final value.
        power: The exponent.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: No ``end`` is known.
    """

    def __init__(
        self, optimizer: OptimizerLike, eta_min: float = 0, power: float = 1.0, **options: Unpack[SchedulerOptions]
    ) -> None:
        self.eta_min, self.power = eta_min, power
        super().__init__(optimizer, **options)

    def _prepare(self) -> None:
        self._require_end()

    def _get_value(self) -> list[float] | None:
        if self.last_step == 0:
            return None
        eta_min = self.eta_min
        ratio = (1 - 1 / (self.end - self.begin - self.last_step)) ** self.power
        return [(value - eta_min) * ratio + eta_min for value in self._current()]


class PolyLR(_Poly, param_name="lr"):
    """Decay the learning rate by a polynomial to ``eta_min``."""


class PolyMomentum(_Poly, param_name="momentum"):
    """Decay the momentum, or the first of ``betas``, by a polynomial to ``eta_min``."""


class PolyParamScheduler(GeneralForm, _Poly):
    """Decay any option of the groups by a polynomial to ``eta_min``."""

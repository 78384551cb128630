"""Reduce a value when a validation metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from ...evaluator import Rule, is_better, rule_of, score_of
from .base import GeneralForm, OptimizerLike, Schedule, SchedulerOptions


class _ReduceOnPlateau(Schedule):
    """Multiply by ``factor`` after ``patience`` validations without improvement.

    With `best` the best metric so far, a metric `m` improves when `m < best * (1 - threshold)` (``"less"``, ``"rel"``),
    `m < best - threshold` (``"less"``, ``"abs"``), `m > best * (1 + threshold)` (``"greater"``, ``"rel"``) or
    `m > best + threshold` (``"greater"``, ``"abs"``); an infinite one never does. After more than ``patience``
    validations without improvement every group gets `max(v * factor, min_value)`, unless that changes it by at most
    ``eps``; then ``cooldown`` validations are not counted.
    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    `step()` without metrics counts the epoch; `step(metrics)` after a validation decides. Construction sets nothing.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        monitor: Name of the metric, with or without its prefix.
        rule: ``"less"`` when smaller is better, ``"greater"`` when larger is; None decides by the metric's name.
        factor: In (0, 1).
        patience: Validations without improvement that are let pass.
        threshold: Least improvement that counts, at least 0.
        threshold_rule: ``"rel"`` or ``"abs"``.
        cooldown: Validations to let pass after a reduction.
        min_value: Lower bound, one value or one for each group.
        eps: Smallest change that is made.
        **options: See `SchedulerOptions`.

    Raises:
        UsageValueError: An argument is out of range.
    """

    need_val_args = True
    _position_names = (*Schedule._position_names, "best", "num_bad_epochs", "cooldown_counter", "reductions")

    def __init__(
        self,
        optimizer: OptimizerLike,
        monitor: str = "loss",
        rule: Rule | None = None,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_rule: str = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        is_rule, is_threshold_rule = rule in (None, "less", "greater"), threshold_rule in ("rel", "abs")
        self._require(0 < factor < 1, f"factor must lie in (0, 1), got {factor}")
        self._require(threshold >= 0, f"threshold must be at least 0, got {threshold}")
        self._require(is_rule, f"rule must be 'less' or 'greater', got {rule!r}")
        self._require(is_threshold_rule, f"threshold_rule must be 'rel' or 'abs', got {threshold_rule!r}")
        self.rule: Rule = rule or rule_of(monitor)
        self.monitor, self.factor = monitor, factor
        self.patience, self.cooldown, self.eps = patience, cooldown, eps
        self.threshold, self.threshold_rule = threshold, threshold_rule
        self.min_value = list(min_value) if isinstance(min_value, Sequence) else min_value
        self.best = math.inf if self.rule == "less" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        self.reductions: list[int] = []
        """The value of the step count at every reduction; a replay needs them, since metrics are not kept."""
        super().__init__(optimizer, **options)

    def _prepare(self) -> None:
        self._floors = self._for_each_group("min_value")

    def _start(self) -> None:
        self._global_step = 0
        self._last_value = self._current()

    def step(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Count a step, or judge the metrics of a validation.

        Args:
            metrics: Names and values of the validation metrics; None counts one epoch (or step).

        Raises:
            TypeError: ``metrics`` is not a mapping.
            UsageValueError: The monitored metric is not among them, several match, or it is no number.
        """
        if metrics is None:
            self._global_step += 1
            return
        if not isinstance(metrics, Mapping):
            raise TypeError(f"{type(self).__name__}.step: metrics must be a dict, got {type(metrics).__name__}")
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._judge(score_of(self.monitor, metrics))
        self._last_value = self._current()

    def load_position(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Load the position; where another metric or rule is followed now, without the best value of the former."""
        unknown = self.best
        changes = super().load_position(state_dict)
        if any(state_dict.get(name, getattr(self, name)) != getattr(self, name) for name in ("monitor", "rule")):
            self.best, self.num_bad_epochs = unknown, 0
        return changes

    def _judge(self, metric: float) -> None:
        if self._is_better(metric):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.reductions.append(self._global_step)
            self._act()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _get_value(self) -> list[float]:
        current = [float(value) for value in self._current()]
        reduced = [max(value * self.factor, floor) for value, floor in zip(current, self._floors)]
        return [new if old - new > self.eps else old for old, new in zip(current, reduced)]

    def _is_better(self, metric: float) -> bool:
        sign = -1.0 if self.rule == "less" else 1.0
        if self.threshold_rule == "rel":
            bar = self.best * (1.0 + sign * self.threshold)
        else:
            bar = self.best + sign * self.threshold
        return is_better(metric, bar, self.rule)


class ReduceOnPlateauLR(_ReduceOnPlateau, param_name="lr"):
    """Reduce the learning rate when a validation metric stops improving."""


class ReduceOnPlateauMomentum(_ReduceOnPlateau, param_name="momentum"):
    """Reduce the momentum, or the first of ``betas``, when a validation metric stops improving."""


class ReduceOnPlateauParamScheduler(GeneralForm, _ReduceOnPlateau):
    """Reduce any option of the groups when a validation metric stops improving."""

"""Reduce a value when a validation metric stops improving."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from .base import INF, GeneralForm, OptimizerLike, _ParamScheduler


class _ReduceOnPlateau(_ParamScheduler):
    """Multiply by ``factor`` after ``patience`` validations without improvement.

    With `best` the best metric so far, a metric `m` improves when `m < best * (1 - threshold)` (``"less"``, ``"rel"``),
    `m < best - threshold` (``"less"``, ``"abs"``), `m > best * (1 + threshold)` (``"greater"``, ``"rel"``) or
    `m > best + threshold` (``"greater"``, ``"abs"``). After more than ``patience`` validations without
    improvement every group gets `max(v * factor, min_value)`, unless that changes it by at most ``eps``; then
    ``cooldown`` validations are not counted.
    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    `step()` without metrics counts the epoch; `step(metrics)` after a validation decides. Construction sets nothing.

    Args:
        optimizer: An `OptimWrapper` or a torch optimizer.
        monitor: Name of the metric, with or without its prefix.
        rule: ``"less"`` when smaller is better, ``"greater"`` when larger is.
        factor: In (0, 1).
        patience: Validations without improvement that are let pass.
        threshold: Least improvement that counts, at least 0.
        threshold_rule: ``"rel"`` or ``"abs"``.
        cooldown: Validations to let pass after a reduction.
        min_value: Lower bound, one value or one for each group.
        eps: Smallest change that is made.
        begin: See `_ParamScheduler`, like all arguments that follow.

    Raises:
        ValueError: An argument is out of range.
    """

    need_val_args = True
    _position_names = (
        *_ParamScheduler._position_names,
        "best",
        "num_bad_epochs",
        "cooldown_counter",
        "reductions",
    )

    def __init__(
        self,
        optimizer: OptimizerLike,
        monitor: str = "loss",
        rule: str = "less",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_rule: str = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        begin: float = 0,
        end: float = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        *,
        count_iters: bool = False,
    ) -> None:
        name = type(self).__name__
        if not 0 < factor < 1:
            raise ValueError(f"{name}: factor must lie in (0, 1), got {factor}")
        if threshold < 0:
            raise ValueError(f"{name}: threshold must be at least 0, got {threshold}")
        if rule not in ("less", "greater"):
            raise ValueError(f"{name}: rule must be 'less' or 'greater', got {rule!r}")
        if threshold_rule not in ("rel", "abs"):
            raise ValueError(f"{name}: threshold_rule must be 'rel' or 'abs', got {threshold_rule!r}")
        self.monitor, self.rule, self.factor = monitor, rule, factor
        self.patience, self.cooldown, self.eps = patience, cooldown, eps
        self.threshold, self.threshold_rule = threshold, threshold_rule
        self.min_value = list(min_value) if isinstance(min_value, Sequence) else min_value
        super().__init__(
            optimizer, self.param_name, begin, end, last_step, by_epoch, verbose, count_iters=count_iters
        )  # fmt: skip

    def _prepare(self) -> None:
        num_groups = len(self.optimizer.param_groups)
        if isinstance(self.min_value, list) and len(self.min_value) != num_groups:
            raise ValueError(
                f"{type(self).__name__}: min_value needs one value for each of the {num_groups} groups, "
                f"got {len(self.min_value)}"
            )

    def _start(self) -> None:
        self.last_step = self._first_step
        self._global_step = 0
        self.best = math.inf if self.rule == "less" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.reductions: list[int] = []
        """The value of the step count at every reduction; a replay needs them, since metrics are not kept."""
        self._last_value = self._snapshot()

    def step(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Count a step, or judge the metrics of a validation.

        Args:
            metrics: Names and values of the validation metrics; None counts one epoch (or step).

        Raises:
            TypeError: ``metrics`` is not a mapping.
            KeyError: The monitored metric is not among them, or several match.
        """
        if metrics is None:
            self._advance()
            return
        if not isinstance(metrics, Mapping):
            raise TypeError(f"{type(self).__name__}.step: metrics must be a dict, got {type(metrics).__name__}")
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._judge(float(self._monitored(metrics)))
        self._last_value = self._snapshot()

    def _advance(self) -> None:
        self._global_step += 1

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
            self._set_values(self._get_value())
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _get_value(self) -> list[float]:
        current = [float(value) for value in self._current()]
        floors = self.min_value if isinstance(self.min_value, list) else [self.min_value] * len(current)
        reduced = [max(value * self.factor, floor) for value, floor in zip(current, floors)]
        return [new if old - new > self.eps else old for old, new in zip(current, reduced)]

    def _is_better(self, metric: float) -> bool:
        sign = -1.0 if self.rule == "less" else 1.0
        if self.threshold_rule == "rel":
            bar = self.best * (1.0 + sign * self.threshold)
        else:
            bar = self.best + sign * self.threshold
        return metric < bar if self.rule == "less" else metric > bar

    def _monitored(self, metrics: Mapping[str, Any]) -> Any:
        if self.monitor in metrics:
            return metrics[self.monitor]
        matches = [key for key in metrics if key.rpartition("/")[2] == self.monitor]
        if len(matches) == 1:
            return metrics[matches[0]]
        near = matches or get_close_matches(self.monitor, list(metrics), n=3)
        raise KeyError(
            f"{type(self).__name__}: monitor={self.monitor!r} matches {len(matches)} of the metrics "
            f"{list(metrics)}" + (f" · did you mean {' or '.join(map(repr, near))}?" if near else "")
        )


class ReduceOnPlateauLR(_ReduceOnPlateau):
    __doc__ = _ReduceOnPlateau.__doc__
    param_name = "lr"


class ReduceOnPlateauMomentum(_ReduceOnPlateau):
    __doc__ = _ReduceOnPlateau.__doc__
    param_name = "momentum"


class ReduceOnPlateauParamScheduler(GeneralForm, _ReduceOnPlateau):
    __doc__ = _ReduceOnPlateau.__doc__

"""Ends training when a metric does not get better any more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..evaluator import get_metric_value
from .best import BestTracker, Rule
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner


class EarlyStoppingHook(Hook):
    """Stop when a metric has not improved by `min_delta` for `patience` validations, or got where it should.

    The state is saved: a resumed run stops where the uninterrupted one would have.

    Args:
        monitor: Name of the metric, with or without its prefix.
        rule: ``"greater"`` or ``"less"``; None decides by the metric's name.
        min_delta: Least change that counts as an improvement.
        patience: Validations without an improvement before training stops.
        strict: Whether a missing metric is an error instead of a warning.
        check_finite: Whether to stop at once when the metric is NaN or infinite.
        stopping_threshold: Stop as soon as the metric is this good.

    Raises:
        ValueError: For a negative `patience` or `min_delta`.
    """

    priority = Priority.LOW

    def __init__(
        self,
        monitor: str,
        rule: Rule | None = None,
        min_delta: float = 0.0,
        patience: int = 5,
        strict: bool = False,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
    ) -> None:
        if patience < 0 or min_delta < 0:
            raise ValueError(f"patience={patience}, min_delta={min_delta}: expected numbers of at least 0")
        self.monitor = monitor
        self.rule: Rule = rule or BestTracker([monitor]).rule_of(monitor)
        self.min_delta = min_delta
        self.patience = patience
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.best_score: float | None = None
        self.wait_count = 0
        self.reason: str | None = None

    def before_train(self, runner: Runner) -> None:
        """Stop at once when the run that is resumed had stopped."""
        if self.reason is not None:
            self._stop(runner, self.reason)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Look at the metric; only in a validation inside training.

        Raises:
            ValueError: With `strict`, when the metric is not there.
        """
        if not runner.is_training:
            return
        try:
            score = float(get_metric_value(self.monitor, metrics or {}))
        except (KeyError, ValueError) as error:
            if self.strict:
                raise
            runner.logger.warning("early stopping cannot look at %r: %s", self.monitor, error)
            return
        reason = self._judge(score)
        if reason is not None:
            self._stop(runner, reason)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, how long it has stood, and why training stopped if it did."""
        return {"best_score": self.best_score, "wait_count": self.wait_count, "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.best_score = state_dict["best_score"]
        self.wait_count = state_dict["wait_count"]
        self.reason = state_dict["reason"]

    def describe_interval(self) -> str:
        """Say what is watched, for the timeline."""
        return f"watches {self.monitor}, patience {self.patience}"

    def _judge(self, score: float) -> str | None:
        """Count, and say why to stop, or None."""
        sign = 1 if self.rule == "greater" else -1
        if self.check_finite and not math.isfinite(score):
            return f"{self.monitor} is {score}"
        if self.stopping_threshold is not None and sign * score >= sign * self.stopping_threshold:
            return f"{self.monitor} is {score:.6g}, as good as the threshold {self.stopping_threshold:.6g}"
        if self.best_score is None or sign * (score - self.best_score) > self.min_delta:
            self.best_score, self.wait_count = score, 0
            return None
        self.wait_count += 1
        if self.wait_count >= self.patience:
            return f"{self.monitor} has not been better than {self.best_score:.6g} for {self.wait_count} validations"
        return None

    def _stop(self, runner: Runner, reason: str) -> None:
        self.reason = reason
        runner.train_loop.stop_training = True
        runner.logger.info("early stopping: %s", reason)

"""End training when a metric does not get better any more."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ..errors import UsageValueError
from ..evaluator import Rule, is_better, rule_of, score_of
from .hook import Hook, Priority, Runner


@dataclasses.dataclass(eq=False)
class EarlyStoppingHook(Hook):
    """Stop when a metric has not improved by `min_delta` for `patience` validations, or got where it should.

    The state is saved: a resumed run stops where the uninterrupted one would have. One that had stopped, and is resumed
    with more patience or another threshold, goes on; with another metric or rule, it is judged anew.

    Args:
        monitor: Name of the metric, with or without its prefix.
        rule: ``"greater"`` or ``"less"``; None decides by the metric's name.
        min_delta: Least change that counts as an improvement.
        patience: Validations without an improvement before training stops.
        strict: Whether a missing metric is an error instead of a warning.
        check_finite: Whether to stop at once when the metric is NaN or infinite.
        stopping_threshold: Stop as soon as the metric is this good.

    Raises:
        UsageValueError: For a negative `patience` or `min_delta`, or a metric whose name does not say which is better.
    """

    priority = Priority.LOW
    needs_validation = True

    monitor: str
    rule: Rule | None = None
    min_delta: float = 0.0
    patience: int = 5
    strict: bool = False
    check_finite: bool = True
    stopping_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.patience < 0 or self.min_delta < 0:
            found = f"patience={self.patience}, min_delta={self.min_delta}"
            raise UsageValueError(f"{found}: expected numbers of at least 0")
        self._rule: Rule = rule_of(self.monitor, rule=self.rule)
        self.rule, self._sign = self._rule, 1 if self._rule == "greater" else -1
        self.best_score: float | None = None
        self.wait_count = 0
        self.score: Any = None
        self.reason: str | None = None

    def before_train(self, runner: Runner) -> None:
        """Stop at once when the run that is resumed had stopped."""
        self._stop_with_reason(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Judge the metric; only in a validation inside training.

        Raises:
            UsageValueError: With `strict`, when the metric is not there.
        """
        if not runner.is_training:
            return
        try:
            score = score_of(self.monitor, metrics or {})
        except UsageValueError as error:
            if self.strict:
                raise
            runner.logger.warning("early stopping cannot look at %r: %s", self.monitor, error)
            return
        self._count(score)
        self.reason = self._find_reason()
        self._stop_with_reason(runner)

    def state_dict(self) -> dict[str, Any]:
        """Return the best and the last score, how long the best has stood, and why training stopped if it did."""
        names = ("monitor", "rule", "best_score", "wait_count", "score", "reason")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them, as far as they are of the metric and the rule that are followed now."""
        if any(state_dict.get(name, own) != own for name, own in (("monitor", self.monitor), ("rule", self.rule))):
            return
        vars(self).update(state_dict)
        if self.reason is not None and "score" in state_dict:  # which version 0.1 did not save
            self.reason = self._find_reason()

    def describe_interval(self) -> str:
        """Return what is watched, for the timeline."""
        return f"watches {self.monitor}, patience {self.patience}"

    def _count(self, score: float) -> None:
        self.score, self.wait_count = score, self.wait_count + 1
        if is_better(score - self._sign * self.min_delta, self.best_score, self._rule):
            self.best_score, self.wait_count = score, 0

    def _find_reason(self) -> str | None:
        """Return why to stop, or None."""
        score, threshold, sign = self.score, self.stopping_threshold, self._sign
        if self.check_finite and not math.isfinite(score):
            return f"{self.monitor} is {score}"
        if math.isfinite(score) and threshold is not None and sign * score >= sign * threshold:
            return f"{self.monitor} is {score:.6g}, as good as the threshold {threshold:.6g}"
        bar = "finite" if self.best_score is None else f"better than {self.best_score:.6g}"
        reason = f"{self.monitor} has not been {bar} for {self.wait_count} validations"
        return reason if self.wait_count >= max(self.patience, 1) else None

    def _stop_with_reason(self, runner: Runner) -> None:
        if self.reason is not None:
            runner.train_loop.stop_training = True
            runner.logger.info("early stopping: %s", self.reason)

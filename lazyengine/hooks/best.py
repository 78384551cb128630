"""The best value so far of each metric that is followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UsageValueError
from ..evaluator import Rule, is_better, rule_of, score_of

Rules = Rule | Sequence[Rule] | None
Keys = Sequence[str] | None


class BestTracker:
    """Remember the best value of one or several metrics.

    Args:
        indicators: Metric names with or without their prefix; ``"auto"`` is the first metric of the first evaluation.
        rules: ``"greater"`` or ``"less"``, for all or for each indicator; None decides by the name.
        greater_keys: See `lazyengine.evaluator.rule_of`.
        less_keys: See `lazyengine.evaluator.rule_of`.

    Raises:
        UsageValueError: Rules do not match the indicators, or the name of a metric does not say which is better.

    Attributes:
        rules: The rule of each indicator; None for ``"auto"`` without a rule, before the first evaluation.
        scores: Best finite value of each indicator that had one.
    """

    def __init__(
        self, indicators: Sequence[str], rules: Rules = None, greater_keys: Keys = None, less_keys: Keys = None
    ) -> None:
        given: Sequence[Any] = [rules] * len(indicators) if rules is None or isinstance(rules, str) else rules
        if len(given) != len(indicators):
            raise UsageValueError(
                f"rule={list(given)}: expected one of 'greater' and 'less' for each of the {len(indicators)} metrics."
            )
        self.scores: dict[str, float] = {}
        self._keys = (greater_keys, less_keys)
        self.rules: dict[str, Any] = {}
        for name, rule in zip(indicators, given):
            self.rules[name] = None if name == "auto" and rule is None else rule_of(name, *self._keys, rule)

    @property
    def indicators(self) -> list[str]:
        """The metrics that are followed, by the names that were given."""
        return list(self.rules)

    def update(self, metrics: dict[str, Any]) -> dict[str, float]:
        """Return those values of an evaluation that are better than before, by indicator, and remember them.

        Infinite values and NaN are never better.

        Raises:
            UsageValueError: A metric is missing, ambiguous, no number, or has no rule; nothing is remembered then.
        """
        if not metrics:
            return {}
        if self.indicators == ["auto"]:
            first = next(iter(metrics))
            self.rules = {first: rule_of(first, *self._keys, self.rules["auto"])}
        scores = {name: score_of(name, metrics) for name in self.rules}
        improved = {k: score for k, score in scores.items() if is_better(score, self.scores.get(k), self.rules[k])}
        self.scores |= improved
        return improved

    def state_dict(self) -> dict[str, Any]:
        """Return the best values by metric."""
        return {"indicators": self.indicators, "scores": dict(self.scores), "rules": dict(self.rules)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best values of the metrics that are still tracked, by the same rule."""
        if self.indicators == ["auto"] != state["indicators"]:
            self.rules = {name: rule_of(name, *self._keys, self.rules["auto"]) for name in state["indicators"]}
        former, rules = state.get("rules", self.rules), self.rules  # which version 0.1 did not save
        self.scores = {n: score for n, score in state["scores"].items() if n in rules and rules[n] == former[n]}

"""The one-cycle policy of the learning rate."""

import math
from collections.abc import Sequence

from .base import INF, GeneralForm, OptimizerLike, _ParamScheduler


class _OneCycle(_ParamScheduler):
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
        begin: See `_ParamScheduler`, like all arguments that follow.

    Raises:
        ValueError: An argument is out of range, or neither ``total_steps`` nor ``end`` is known.
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
        name = type(self).__name__
        if self.param_name != "lr":
            raise ValueError(f"{name}: schedules the learning rate only, got param_name={self.param_name!r}")
        if total_steps is not None and (not isinstance(total_steps, int) or total_steps <= 0):
            raise ValueError(f"{name}: total_steps must be a positive int, got {total_steps!r}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"{name}: pct_start must lie in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"{name}: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        self.eta_max = list(eta_max) if isinstance(eta_max, Sequence) else eta_max
        self.total_steps = total_steps
        self.pct_start, self.anneal_strategy, self.three_phase = pct_start, anneal_strategy, three_phase
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        super().__init__(
            optimizer, self.param_name, begin, end, last_step, by_epoch, verbose,
            convert_to_iter_based=convert_to_iter_based, epoch_length=epoch_length, count_iters=count_iters,
        )  # fmt: skip

    def _prepare(self) -> None:
        if self.total_steps is None:
            self._require_end("end or total_steps")
            self.total_steps = int(self.end - self.begin)
        groups = self.optimizer.param_groups
        tops = self.eta_max if isinstance(self.eta_max, list) else [self.eta_max] * len(groups)
        if len(tops) != len(groups):
            raise ValueError(
                f"{type(self).__name__}: eta_max needs one value for each of the {len(groups)} groups, got {len(tops)}"
            )
        self._tops = tops
        rise_end, last = float(self.pct_start * self.total_steps) - 1, self.total_steps - 1
        self._phases = [(0.0, rise_end, "initial_lr", "max_lr"), (rise_end, last, "max_lr", "min_lr")]
        if self.three_phase:
            fall_end = float(2 * self.pct_start * self.total_steps) - 2
            self._phases[1:] = [(rise_end, fall_end, "max_lr", "initial_lr"), (fall_end, last, "initial_lr", "min_lr")]

    def _record_initial_values(self, resumed: bool) -> list[float]:
        if not resumed:
            self._record_bounds()
        return super()._record_initial_values(resumed)

    def _reset_groups(self) -> None:
        super()._reset_groups()
        self._record_bounds()

    def _record_bounds(self) -> None:
        for group, top in zip(self.optimizer.param_groups, self._tops):
            group["initial_lr"] = top / self.div_factor
            group["max_lr"] = top
            group["min_lr"] = group["initial_lr"] / self.final_div_factor

    def _get_value(self) -> list[float]:
        step = self.last_step
        assert self.total_steps is not None
        if step >= self.total_steps:
            return [group["min_lr"] for group in self.optimizer.param_groups]
        phase = next((p for p in self._phases if step <= p[1]), self._phases[-1])
        first, last, start, end = phase
        fraction = (step - first) / (last - first) if last != first else 1.0
        return [self._anneal(group[start], group[end], fraction) for group in self.optimizer.param_groups]

    def _anneal(self, start: float, end: float, fraction: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * fraction + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * fraction) + 1)


class OneCycleLR(_OneCycle):
    __doc__ = _OneCycle.__doc__
    param_name = "lr"


class OneCycleParamScheduler(GeneralForm, _OneCycle):
    __doc__ = _OneCycle.__doc__

"""Trying learning rates and batch sizes on steps that are thrown away."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..dataset import set_epoch
from ..errors import UsageValueError
from ..model import BaseModule, Weighted
from ..optim import NonFiniteError
from ..seeding import seed_everything
from .cost import Cost, begin_pass, prepare, quietly, take_step
from .curves import draw_curves, smooth

_SMOOTHING = 0.9


@dataclass(frozen=True)
class LrCurve:
    """Losses over learning rates.

    Attributes:
        rates: Learning rates of the first group, ascending.
        losses: The loss of the step that each was tried in.
        smoothed: Their running means.
        steepest: The rate at which the smoothed loss falls fastest; None where it never falls.
        lowest: The rate of the lowest smoothed loss.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    lowest: float

    def as_text(self) -> str:
        """Return the curve and what it suggests."""
        logs = [math.log10(rate) for rate in self.rates]
        lines = [draw_curves("loss, smoothed", {"": (logs, self.smoothed)}, x_title="log10 of the learning rate {}")]
        if self.steepest is not None:
            lines.append(f"falls fastest at lr = {self.steepest:.2e}: a first choice; lowest at {self.lowest:.2e}")
        else:
            lines.append(f"it never falls; lowest at lr = {self.lowest:.2e}: begin lower, or look at the model")
        return "\n".join(lines)


def find_lr(
    make_runner: Callable[[], Any], *, low: float = 1e-6, high: float = 1.0, steps: int = 100, resume: str | None = None
) -> LrCurve:
    """Raise the learning rate from step to step, from `low` to `high`, and return the losses.

    Every group keeps its share of the rate. It ends early when the loss is four times its lowest, or not finite. The
    runner is used up; a run that is looked at is left as it is.

    Args:
        make_runner: Makes the runner.
        low: The first rate.
        high: The last rate.
        steps: Steps to take.
        resume: A checkpoint whose weights and optimizer state to begin with; None begins anew.

    Raises:
        UsageValueError: For a range or number that makes no sense.
    """
    if not (0 < low < high and steps >= 5):
        raise UsageValueError(f"low={low}, high={high}, steps={steps}: expected 0 < low < high and 5 or more steps.")
    runner = make_runner()
    with quietly():
        if resume is None:
            _begin_weights(runner)
        prepare(runner)
        if resume is not None:
            _restore(runner, resume)
        return _raise_lr(runner, low, high, steps)


def _begin_weights(runner: Any) -> None:
    """Let the model have the weights with which a training begins; see `Runner.prepare_model`."""
    if isinstance(runner.model, BaseModule) and not runner.model.is_init:
        runner.model.init_weights()
    if runner.load_from is not None:
        runner.load_from.load_into(runner.model, "silent")


def _restore(runner: Any, path: str) -> None:
    from ..checkpoint import load_state_dict, read_checkpoint
    from ..checkpoint.frozen import complete, left_out_of

    checkpoint = read_checkpoint(path)
    if left_out_of(checkpoint):
        _begin_weights(runner)
        complete(checkpoint, runner.model)
    load_state_dict(runner.model, checkpoint.get("ema_state_dict", checkpoint["state_dict"]), strict=True)
    runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
    runner.optim_wrapper.initialize_count_status(runner.model, 0, -1)


def _raise_lr(runner: Any, low: float, high: float, steps: int) -> LrCurve:
    seed_everything(runner.seed)
    groups = [group for wrapper in runner.optim_wrapper.named().values() for group in wrapper.param_groups]
    first = float(groups[0]["lr"]) or 1.0
    shares = [float(group["lr"]) / first for group in groups]
    rates: list[float] = []
    losses: list[float] = []
    batches = _without_end(runner.train_loop.dataloader)
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        for group, share in zip(groups, shares):
            group["lr"] = rate * share
        try:
            loss = _loss(take_step(runner, next(batches)))
        except NonFiniteError:
            break
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        if step > 10 and loss > 4 * min(losses) > 0:
            break
    if len(rates) < 3:
        raise UsageValueError(f"the loss is not finite after {len(rates)} steps, from lr = {low:.1e} on: begin lower.")
    return _curve(rates, losses)


def _curve(rates: list[float], losses: list[float]) -> LrCurve:
    smoothed = smooth(range(1, len(losses) + 1), losses, _SMOOTHING)
    reach = max(len(losses) // 10, 1)  # a fall between two steps is the noise of two batches
    middles = range(reach, len(losses) - reach)
    falls = {middle: smoothed[middle + reach] - smoothed[middle - reach] for middle in middles}
    steepest = min(falls, key=falls.__getitem__)
    return LrCurve(
        rates, losses, smoothed, rates[steepest] if falls[steepest] < 0 else None,
        rates[min(range(len(smoothed)), key=smoothed.__getitem__)],
    )  # fmt: skip


def _without_end(loader: Any) -> Any:
    yield from begin_pass(loader)
    epoch = 1
    while True:
        set_epoch(loader, epoch)
        yield from loader
        epoch += 1


def _loss(outputs: dict[str, Any]) -> float:
    """Return the total of what a step logs; of a step of one's own without a total, the sum of its losses."""
    values = [outputs["loss"]] if "loss" in outputs else [value for name, value in outputs.items() if "loss" in name]
    return sum(float(value.mean() if isinstance(value, Weighted) else value) for value in values)


def largest_batch(cost: Callable[[int], Cost], memory_bytes: float, start: int = 1, limit: int = 2**20) -> list[Cost]:
    """Double the batch size until the peak is above what there is, then halve the interval; all by counting.

    It ends, too, where the dataset has no more samples for a batch.

    Args:
        cost: Returns the cost of an iteration with so many samples.
        memory_bytes: What there is.
        start: The first size.
        limit: The largest size that is tried.

    Returns:
        The costs that were counted, by size; the last that fits is the answer.

    Raises:
        UsageValueError: Even `start` does not fit.
    """
    try:
        found = {start: cost(start)}
    except Exception as error:
        error.add_note(f"while counting a batch of {start} · one too small for the model is left out by --start")
        raise
    if found[start].peak_bytes > memory_bytes:
        raise UsageValueError(
            f"a batch of {start} needs {found[start].peak_bytes:,} bytes at its peak; there are {memory_bytes:,.0f}."
        )
    fits, above = start, start
    while above < limit and found[above].peak_bytes <= memory_bytes and found[above].samples in (None, above):
        fits, above = above, above * 2
        found[above] = cost(above)
    while above - fits > max(1, fits // 16):
        middle = (fits + above) // 2
        found[middle] = cost(middle)
        if found[middle].peak_bytes <= memory_bytes:
            fits = middle
        else:
            above = middle
    return [found[size] for size in sorted(found)]

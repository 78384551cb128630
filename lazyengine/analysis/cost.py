"""What one iteration of an experiment costs: FLOPs, and memory by what holds it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import _torch
from ..checkpoint import get_state_dict
from ..dataset import set_epoch
from ..dataset.counting import count_batch
from ..errors import UsageError, UsageValueError
from ..hooks import CheckpointHook, EMAHook, UnfreezeHook
from ..logging import MessageHub
from ..model import evaluating, set_training, train_step, val_step
from ..nesting import iter_leaves, map_leaves
from ..runner.batch import describe_batch
from ..runner.checks import check_parameters, check_shapes
from ..runner.loops import loaders_of
from ..text import listed
from .metering import Meter, NeedsValuesError

_CPU = torch.device("cpu")
_MAX_MICRO_BATCHES = 64


@dataclass
class Cost:
    """What one training iteration of an experiment costs, counted by tensors that only have shapes.

    Attributes:
        model: Class of the model.
        parameters: Numbers in its parameters, each once.
        trained: Those of them that are trained.
        batch: Shapes and types of a batch of one rank.
        samples: Samples in it; None where its shapes do not say.
        tokens: Tokens in it, where it has any.
        flops: FLOPs of an iteration by phase and module; a multiply-add is two.
        uncounted: Operators that compute much and have no formula, with how often they ran.
        peak_bytes: The most bytes that are alive in an iteration.
        at_peak: These bytes by kind and module.
        val_peak_bytes: The same of a validation batch; None without validation.
        weights: Shape, and bytes in all, of each entry of the state dict.
        parameters_of: Numbers in the parameters of each module itself.
        checkpoint_bytes: Bytes of the tensors in a checkpoint.
        gradient_bytes: Bytes of the gradients of all trained parameters.
        counted_in: ``"fake tensors"``, or why real steps had to be taken.
        guesses: Where values were asked for that fake tensors do not have.
        later: What will change these numbers while training.
    """

    model: str
    parameters: int
    trained: int
    batch: str
    samples: int | None
    tokens: int | None
    flops: dict[tuple[str, str], int]
    uncounted: dict[str, int]
    peak_bytes: int
    at_peak: dict[tuple[str, str], int]
    val_peak_bytes: int | None
    weights: dict[str, tuple[int, ...]]
    parameters_of: dict[str, int]
    checkpoint_bytes: int
    gradient_bytes: int
    num_buffers: int = 0
    num_workers: int = 0
    counted_in: str = "fake tensors"
    guesses: Sequence[str] = ()
    later: str = ""
    runner: Any = field(default=None, repr=False)

    def flops_of(self, phase: str) -> int:
        """Return the FLOPs of a phase: ``"forward"``, ``"backward"`` or ``"step"``."""
        return sum(number for (each, _), number in self.flops.items() if each == phase)

    @property
    def total_flops(self) -> int:
        """FLOPs of an iteration."""
        return sum(self.flops.values())

    def bytes_of(self, kind: str) -> int:
        """Return the bytes at the peak of a kind, see `metering.KINDS`."""
        return sum(number for (each, _), number in self.at_peak.items() if each == kind)


def cost_of(make_runner: Callable[[], Any]) -> Cost:
    """Count what an iteration costs; nothing is written, of the data one batch is read, and no weights are loaded.

    Args:
        make_runner: Makes the runner of the experiment; called a second time where real steps are needed.

    Raises:
        UsageValueError: The experiment cannot be trained, or its loop makes its batches itself.
    """
    how = "real steps"
    if (mode := _torch.fake_tensors()) is not None:
        try:
            found = _count(make_runner(), mode)
            if not found.guesses:
                return found
            other = _count(make_runner(), _torch.fake_tensors(), guess_otherwise=True)
            parts = ("flops", "uncounted", "peak_bytes", "val_peak_bytes", "checkpoint_bytes")
            if all(getattr(found, part) == getattr(other, part) for part in parts):
                guessed = f"values that {listed(found.guesses, 3)} asks for were guessed, in two ways"
                how = f"{found.counted_in}; {guessed} with the same result"
                return dataclasses.replace(found, counted_in=how)
            raise NeedsValuesError(f"it depends on the values that {listed(found.guesses, 3)} asks for")
        except UsageError:
            raise
        except Exception as error:  # whatever asks for a value
            how += f", since with fake tensors: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return dataclasses.replace(_count(make_runner(), None), counted_in=how)


def _read(loader: Any) -> tuple[Any, int]:
    """Return the first batch, and how many bytes of tensors the loader holds besides, such as an order of samples."""
    before = Meter(nn.Module())
    with before.counting():
        passing = begin_pass(loader)
        batch = next(passing)
        before.mark("data", batch)
        return batch, before.total - before.bytes_of("data")


def begin_pass(loader: Any) -> Iterator[Any]:
    """Return the batches of epoch 0, read in this process."""
    if loader is None:
        raise UsageValueError("train_loop: the loop makes its batches itself, so that none can be looked at.")
    for each in getattr(loader, "loaders", {"": loader}).values():
        if getattr(each, "num_workers", 0):
            each.num_workers = 0
    set_epoch(loader, 0)
    return iter(loader)


@contextlib.contextmanager
def quietly(level: int = logging.INFO) -> Iterator[None]:
    """Keep what is recorded meanwhile to itself, and what is logged up to a level."""
    former = logging.root.manager.disable
    logging.disable(max(former, level))
    try:
        with warnings.catch_warnings(), MessageHub.get_instance(f"plan_{time.perf_counter_ns()}").as_current():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by copies of modules
            yield
    finally:
        logging.disable(former)


def prepare(runner: Any) -> None:
    """Build the model and the optimizer of a runner for steps in this process; no wrapper, no compilation."""
    check_shapes(runner.model)
    setup = dataclasses.replace(runner.model_setup, compile=False, wrapper=lambda model, device: model)
    runner.forward = setup.apply(runner.model, _CPU, train=True)
    set_training(runner.model, setup)
    for hook in runner.hooks:
        hook.add_param_groups(runner)
    check_parameters(runner)
    runner.optim_wrapper.initialize_count_status(runner.model, 0, -1)


def take_step(runner: Any, batch: Any) -> dict[str, Any]:
    """Take one training step, as the loop does, and return what it logs."""
    runner.optim_wrapper.begin_iteration()
    return train_step(runner.model, batch, runner.optim_wrapper, forward=runner.forward)


def _count(runner: Any, mode: Any, *, guess_otherwise: bool = False) -> Cost:
    for name in ("train_loop", "optim_wrapper"):
        if not runner.has(name):
            raise UsageValueError(f"the runner has no {name}, so there is no training whose cost could be counted.")
    loader = runner.train_loop.dataloader
    workers = [(each, getattr(each, "num_workers", 0)) for each in getattr(loader, "loaders", {"": loader}).values()]
    batch, held_by_loader = _read(loader)
    for each, number in workers:  # the plan asks what becomes of the workers
        if number:
            each.num_workers = number
    samples, tokens = count_batch(batch, loader)
    text, val_batch = describe_batch(batch), _val_batch(runner)
    with contextlib.ExitStack() as stack:
        stack.enter_context(quietly())
        if mode is not None:
            _build_without_values(runner, mode)
            stack.enter_context(mode)
            batch, val_batch = map_leaves(
                lambda leaf: mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf, (batch, val_batch)
            )
        prepare(runner)
        model: nn.Module = runner.model
        meter = Meter(model, guess_otherwise=guess_otherwise)
        _mark_averages(runner, meter)
        meter.mark("data", batch)
        meter.hold("data", held_by_loader)
        with meter.counting():
            _take_steps(runner, batch, meter)
            peak, at_peak, flops = meter.peak, meter.at_peak, dict(meter.flops)
            if val_batch is not None:
                meter.mark("data", val_batch)
                meter.forget_peak()
                _predict(runner, val_batch)
            val_peak = None if val_batch is None else meter.peak
            checkpoint_bytes = _checkpoint_bytes(runner)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return Cost(
            model=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            trained=sum(parameter.numel() for parameter in trained),
            batch=text,
            samples=samples,
            tokens=tokens,
            flops=flops,
            uncounted=dict(meter.uncounted),
            peak_bytes=peak,
            at_peak=at_peak,
            val_peak_bytes=val_peak,
            weights={key: tuple(value.shape) for key, value in model.state_dict().items()},
            parameters_of=_parameters_of(model),
            checkpoint_bytes=checkpoint_bytes,
            gradient_bytes=sum(parameter.numel() * parameter.element_size() for parameter in trained),
            num_workers=max(number for _, number in workers),
            num_buffers=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
            guesses=list(meter.guesses),
            later=_what_comes_later(runner),
            runner=runner,
        )


def _mark_averages(runner: Any, meter: Meter) -> None:
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.before_train(runner)
            average: Any = hook.ema_model
            meter.mark("averaged weights", [*average.parameters(), *average.buffers()])


def _take_steps(runner: Any, batch: Any, meter: Meter) -> None:
    """Take optimizer steps until the state of the optimizer is there and was used."""
    for _ in range(min(2 * runner._state.accumulation(), _MAX_MICRO_BATCHES)):
        meter.flops.clear()
        meter.uncounted.clear()
        take_step(runner, batch)


def _what_comes_later(runner: Any) -> str:
    hooks = [hook for hook in runner.hooks if isinstance(hook, UnfreezeHook) and hook.at > 0]
    parts = [f"{listed(hook.patterns)} {hook.describe_interval()}" for hook in hooks]
    return f"the beginning; UnfreezeHook trains {'; '.join(parts)}, which takes more" if parts else ""


def _val_batch(runner: Any) -> Any:
    loop = runner.val_loop
    return None if loop is None else next(begin_pass(next(iter(loaders_of(loop.dataloader).values()))))


def _predict(runner: Any, batch: Any) -> None:
    with torch.no_grad(), evaluating(runner.model), runner.eval_context(runner.val_loop):
        val_step(runner.model, batch)


def _build_without_values(runner: Any, mode: Any) -> None:
    """Build the model without memory; where its constructor asks for a value, with it, and free that afterwards."""
    with contextlib.suppress(Exception), mode:  # an error that is no matter of values comes again
        runner.model  # noqa: B018
    places: dict[int, tuple[Tensor, Tensor]] = {}  # the former is kept, so that no other one gets its id
    for module in runner.model.modules():
        module.to = lambda *_, module=module, **__: module  # on the CPU already; cannot be moved without values
        for each in (dict(module.named_parameters(recurse=False)), dict(module.named_buffers(recurse=False))):
            for name, value in each.items():
                if not hasattr(value, "fake_mode"):
                    places.setdefault(id(value), (value, mode.from_tensor(value)))
                    setattr(module, name, places[id(value)][1])
    check_shapes(runner.model)
    with mode:
        # one that was built by hand has the parameters as they were
        for wrapper in runner.optim_wrapper.named().values():
            for group in wrapper.param_groups:
                group["params"] = [places.get(id(each), (each, each))[1] for each in group["params"]]


def _parameters_of(model: nn.Module) -> dict[str, int]:
    seen: set[int] = set()
    found: Counter[str] = Counter()
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found[name] += parameter.numel()
    return dict(found)


def _checkpoint_bytes(runner: Any) -> int:
    """Return the bytes of the tensors that a checkpoint would hold, each storage once."""
    checkpoint: dict[str, Any] = {"state_dict": get_state_dict(runner.model)}
    saving = [hook.save_optimizer for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    if any(saving) or not saving:
        checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.before_save_checkpoint(runner, checkpoint)
    if runner.save == "trained":
        frozen = {name for name, each in runner.model.named_parameters() if not each.requires_grad}
        for part, state in checkpoint.items():
            if part != "optimizer" and isinstance(state, dict):
                checkpoint[part] = {k: v for k, v in state.items() if k not in frozen}
    storages = [leaf.untyped_storage() for _, leaf in iter_leaves(checkpoint) if isinstance(leaf, Tensor)]
    return sum({id(storage): storage.nbytes() for storage in storages}.values())


@dataclass(frozen=True)
class Seconds:
    """How long the parts of a run take.

    Attributes:
        step: Of a training step, in seconds.
        read: Of reading its batch in the main process; 0 where it is part of `step`.
        val: Of a batch of the validation, reading it included; None without validation.
        source: Where the numbers come from.
    """

    step: float
    read: float
    val: float | None
    source: str

    def of_iteration(self, num_workers: int) -> float:
        """Return the seconds of an iteration; workers read beside it."""
        return max(self.step, self.read / num_workers) if num_workers else self.step + self.read


def measure_seconds(make_runner: Callable[[], Any], steps: int, budget_s: float = 1.0) -> Seconds:
    """Take real steps in this process, and return how long they took, the median each.

    Args:
        make_runner: Makes the runner of the experiment.
        steps: Steps behind a first one that does not count, at most.
        budget_s: No step begins after so many seconds.
    """
    runner = make_runner()
    loader = runner.train_loop.dataloader
    next(begin_pass(loader))  # what comes first takes longer
    begin, read_s, step_s = time.perf_counter(), [], []
    with quietly():
        prepare(runner)
        batches = iter(loader)
        count = runner._state.accumulation()
        while not step_s or (
            len(step_s) <= steps * min(count, _MAX_MICRO_BATCHES) and time.perf_counter() - begin < budget_s
        ):
            before = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            between = time.perf_counter()
            take_step(runner, batch)
            read_s.append(between - before)
            step_s.append(time.perf_counter() - between)
        before, val_batch = time.perf_counter(), _val_batch(runner)
        if val_batch is not None:
            _predict(runner, val_batch)
    val = None if val_batch is None else time.perf_counter() - before
    if count < len(step_s) - 1:  # the mean from one step of the optimizer to the next
        step_s[1:] = [statistics.mean(step_s[i : i + count]) for i in range(1, len(step_s) - count + 1)]
    number = max(len(read_s) - 1, 1)
    source = f"{number} step{'s' * (number > 1)} on the CPU of this machine"
    return Seconds(_median(step_s), _median(read_s), val, source)


def _median(values: list[float]) -> float:
    return statistics.median(values[1:] or values)

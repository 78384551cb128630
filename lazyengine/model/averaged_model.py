"""Running averages of a model's weights, kept beside it while it trains."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from typing import Any, NoReturn, TypedDict, Unpack

import torch
from torch import Tensor, nn

from .._torch import batch_norms, change_all
from ..checkpoint import is_sharded_tensor
from ..checkpoint import unwrap_module as unwrap
from ..errors import UsageValueError
from ..logging import print_log
from .wrappers import is_sharded, reshard

Device = torch.device | str | None


class AverageOptions(TypedDict, total=False):
    """What every average takes beside the model; see `BaseAveragedModel`."""

    interval: int
    device: Device
    update_buffers: bool


class BaseAveragedModel(nn.Module):
    """Holds a copy of a model and averages the weights of the model into it.

    A subclass writes `weight_at`, or, where the average is another one, `avg_func`.

    State keys: ``module.<key of the model>`` for the averages in the types of the model, ``wide.<key>`` for the same in
    float32 where the model's type is narrower (float16 and bfloat16 cannot hold the small steps of an average), and
    ``steps`` for the number of updates. Of a model that FSDP2 shards, each rank averages its parts; such an average,
    and one of a model that cannot be copied, is not called but exchanged with the model (`swap`).

    By hand, without a runner: `update_parameters` after each optimizer step; ``swap(model)`` before an evaluation or a
    save of the averaged weights, and once more behind it.

    Args:
        model: The model to follow; DDP and the like around it are taken off.
        interval: The average moves in every ``interval``-th update; the first update always copies.
        device: Where the average is kept; None keeps it where the model is, as it must be with FSDP2.
        update_buffers: Average floating buffers (such as batch norm statistics) too, rather than copying them. Other
            buffers are copied either way.

    Attributes:
        module: The averaged model.
        has_own_statistics: Whether the statistics of batch norm layers in `module` are those of the averaged weights,
            computed for them; until the next update they are exchanged too, and not copied.

    Raises:
        ValueError: ``interval`` is not positive, or ``device`` is given for a model that FSDP2 shards.
    """

    def __init__(
        self, model: nn.Module, interval: int = 1, device: Device = None, update_buffers: bool = False
    ) -> None:
        super().__init__()
        if interval < 1:
            raise UsageValueError(f"interval of {type(self).__name__} must be at least 1, got {interval}")
        model = unwrap(model)
        if is_sharded(model) and device is not None:
            raise UsageValueError(
                f"{type(self).__name__} keeps the average of a model sharded by FSDP2 where its parts are, got "
                f"device={str(device)!r} · leave device out, or set FSDP2(cpu_offload=True)"
            )
        reshard(model)
        self.module = _copy_of(model)
        averaged = [*model.parameters(), *(model.buffers() if update_buffers else ())]
        narrow = {id(tensor) for tensor in averaged if tensor.is_floating_point() and tensor.dtype.itemsize < 4}
        widen = lambda tensor: tensor.detach().float() if id(tensor) in narrow else None  # noqa: E731
        self.wide = _copy_parts(model, widen, {}) if narrow else None
        if device is not None:
            self.to(device)
        self.interval = interval
        self.update_buffers = update_buffers
        self.has_own_statistics = False
        self.steps = 0  # kept on the host: the formulas need it and must not wait for a device

    def weight_at(self, steps: int) -> float:
        """Return the weight of the newest value after ``steps`` updates; the average keeps one minus it."""
        raise NotImplementedError

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move an average towards the source in place.

        Args:
            averaged_param: The average of one parameter or buffer, a floating tensor.
            source_param: The model's current value, on the same device.
            steps: Number of updates before this one.
        """
        averaged_param.lerp_(source_param, self.weight_at(steps))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged model.

        Raises:
            TypeError: FSDP2 shards the model, or it cannot be copied: its average is parameters alone.
        """
        if type(self.module) is _Parts:
            raise TypeError(
                f"{type(self).__name__} of a model that is sharded by FSDP2 or cannot be copied cannot be called · "
                "exchange it into the model with swap(model), call the model, and exchange it back, as EMAHook does"
            )
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights that ``model`` has now.

        Args:
            model: The model given at construction, or one with the same parameters and buffers.

        Raises:
            ValueError: ``model`` has other parameters or buffers.
        """
        self.has_own_statistics = False
        averaged, copied = self._pairs(model)
        if self.steps == 0:
            copied += [(mine, theirs) for own, theirs, wide in averaged for mine in (own, wide) if mine is not None]
        elif self.steps % self.interval == 0 and averaged:
            mine = [own if wide is None else wide for own, _, wide in averaged]
            source = [pair[1].to(like) for pair, like in zip(averaged, mine, strict=True)]
            if type(self).avg_func is BaseAveragedModel.avg_func:  # a few kernels for all of them
                change_all("lerp_", mine, source, self.weight_at(self.steps))
            else:
                for own, theirs in zip(mine, source):
                    self.avg_func(own, theirs, self.steps)
            copied += [(own, wide) for own, _, wide in averaged if wide is not None]
        _copy(copied)
        self.steps += 1

    @torch.no_grad()
    def copy_rest(self, model: nn.Module) -> None:
        """Copy from ``model`` what is not averaged; also while the averages are exchanged into it."""
        _copy(self._pairs(model)[1])
        sources = dict(unwrap(model).named_modules())
        for name, mine in self.module.named_modules():
            if type(mine).set_extra_state is not nn.Module.set_extra_state and name in sources:
                mine.set_extra_state(copy.deepcopy(sources[name].get_extra_state()))

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange what is averaged with ``model``, in place; a second call undoes it.

        What is not averaged is the model's own throughout, and copied from it.

        Args:
            model: The model that is followed.
        """
        averaged, copied = self._pairs(model)
        _copy(copied)
        for mine, theirs, _ in averaged:
            kept = mine.clone()
            mine.copy_(theirs)
            theirs.copy_(kept)

    def _pairs(
        self, model: nn.Module
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor | None]], list[tuple[Tensor, Tensor]]]:
        """Return what is averaged as (average, source, float32 average), and what is copied as (average, source).

        Average and source are walked side by side, by the names that they have now, each tensor once; of those that
        are split over ranks this rank's parts are returned.
        """
        model = unwrap(model)
        reshard(model)
        averaged: dict[int, Any] = {}
        copied: dict[int, Any] = {}
        sources: dict[int, Any] = {}
        pending: list[tuple[str, Any, Any, Any]] = [("", self.module, model, self.wide)]
        while pending:
            name, mine, theirs, wide = pending.pop()
            mine, theirs = _inner(mine), _inner(theirs)
            if mine._parameters.keys() != theirs._parameters.keys():
                self._refuse(model, name)
            for key, source in theirs._parameters.items():
                own = mine._parameters[key]
                if own is None and source is None:
                    continue
                if own is None or source is None or own.shape != source.shape:
                    self._refuse(model, f"{name}{key}")
                if sources.setdefault(id(own), source) is not source:  # no longer tied
                    self._refuse(model, f"{name}{key}")
                if own.is_floating_point() or own.is_complex():
                    averaged[id(own)] = _own_parts(own, source, wide and wide._parameters.get(key))
                else:
                    copied[id(own)] = _own_parts(own, source)
            for key, source in theirs._buffers.items():
                own = mine._buffers.get(key)
                if source is None or own is None or own.shape != source.shape:  # made or grown since
                    value = None if source is None else source.detach().clone()
                    mine.register_buffer(key, value, persistent=key not in theirs._non_persistent_buffers_set)
                elif (self.update_buffers and own.is_floating_point()) or (
                    self.has_own_statistics and isinstance(theirs, batch_norms())
                ):
                    averaged[id(own)] = _own_parts(own, source, wide and wide._buffers.get(key))
                else:
                    copied[id(own)] = _own_parts(own, source)
            for key in {**mine._modules, **theirs._modules}:
                child, other = mine._modules.get(key), theirs._modules.get(key)
                if child is not None and other is not None:
                    pending.append((f"{name}{key}.", child, other, wide and wide._modules.get(key)))
                elif any(True for module in (child, other) if module is not None for _ in module.parameters()):
                    self._refuse(model, f"{name}{key}")
        return list(averaged.values()), list(copied.values())

    def _refuse(self, model: nn.Module, place: str) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__} follows a model whose parameters or buffers are not those of the "
            f"{type(model).__name__} given, at {place.rstrip('.') or 'its top'} · make the average after everything "
            "that changes the model"
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing_keys: list[str], *rest: Any
    ) -> None:
        own = dict(state_dict)
        self.steps = int(own.pop(prefix + "steps", self.steps))
        if len(own) == len(state_dict):
            missing_keys.append(prefix + "steps")
        super()._load_from_state_dict(own, prefix, metadata, strict, missing_keys, *rest)

    def extra_repr(self) -> str:
        return f"interval={self.interval}, update_buffers={self.update_buffers}, steps={self.steps}"


class StochasticWeightAverage(BaseAveragedModel):
    """Equal average of all weights seen: ``avg += (source - avg) / (n + 1)`` with ``n = steps // interval``.

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
    https://arxiv.org/abs/1803.05407.
    """

    def weight_at(self, steps: int) -> float:
        """Return ``1 / (steps // interval + 1)``."""
        return 1 / (steps // self.interval + 1)


class ExponentialMovingAverage(BaseAveragedModel):
    """Exponential moving average: ``avg = (1 - momentum) * avg + momentum * source``.

    Here ``momentum`` is the weight of the new value, a small number, unlike an optimizer's momentum.

    Args:
        model: The model to follow.
        momentum: Weight of the current value, between 0 and 1.
        **options: ``interval``, ``device`` and ``update_buffers``, as for `BaseAveragedModel`.

    Raises:
        ValueError: ``momentum`` or ``interval`` is out of range.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.0002, **options: Unpack[AverageOptions]) -> None:
        super().__init__(model, **options)
        if not 0.0 < momentum < 1.0:
            raise UsageValueError(f"momentum must be between 0 and 1, got {momentum}")
        if momentum > 0.5:
            text = "is the weight of the newest value, usually a small number such as 0.0002; is it meant so?"
            print_log(f"momentum={momentum} of {type(self).__name__} {text}", "current", logging.WARNING)
        self.momentum = momentum

    def weight_at(self, steps: int) -> float:
        """Return ``momentum``."""
        return self.momentum

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, {super().extra_repr()}"


class MomentumAnnealingEMA(ExponentialMovingAverage):
    """Exponential moving average that follows fast at first: momentum ``max(momentum, gamma / (gamma + steps))``.

    Args:
        model: The model to follow.
        momentum: Weight of the current value in the long run, between 0 and 1.
        gamma: The larger, the longer the average follows fast.
        **options: ``interval``, ``device`` and ``update_buffers``, as for `BaseAveragedModel`.

    Raises:
        ValueError: ``momentum``, ``gamma`` or ``interval`` is out of range.
    """

    def __init__(
        self, model: nn.Module, momentum: float = 0.0002, gamma: int = 100, **options: Unpack[AverageOptions]
    ) -> None:
        super().__init__(model, momentum, **options)
        if gamma <= 0:
            raise UsageValueError(f"gamma must be positive, got {gamma}")
        self.gamma = gamma

    def weight_at(self, steps: int) -> float:
        """Return ``max(momentum, gamma / (gamma + steps))``."""
        return max(self.momentum, self.gamma / (self.gamma + steps))


class _Parts(nn.Module):
    """Holds the parameters, buffers and children of a module by the same names, without its code."""


def _copy_of(model: nn.Module) -> nn.Module:
    """Return a copy that is not trained; parts alone of a model that refuses to be copied.

    FSDP2 refuses, and torch does where a weight is computed from others (pruning).
    """
    with contextlib.suppress(RuntimeError):  # of a model that refuses
        if not is_sharded(model):
            return copy.deepcopy(model).requires_grad_(False)
    return _copy_parts(model, lambda tensor: tensor.detach().clone(), {})


def _copy_parts(module: nn.Module, convert: Callable[[Tensor], Tensor | None], made: dict[int, Any]) -> nn.Module:
    """Copy what a module holds, each tensor by `convert`; what it shares is shared in the copy.

    Wrappers within it, which are in no name of a state dict, are left out.
    """
    module = _inner(module)
    if id(module) in made:
        return made[id(module)]
    parts = made[id(module)] = _Parts()
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None and id(tensor) not in made:
            value = convert(tensor)
            if value is not None and isinstance(tensor, nn.Parameter):
                value = nn.Parameter(value, requires_grad=False)
            made[id(tensor)] = value
        if name in module._parameters:
            parts.register_parameter(name, made.get(id(tensor)))
        else:
            is_saved = name not in module._non_persistent_buffers_set
            parts.register_buffer(name, made.get(id(tensor)), persistent=is_saved)
    for name, child in module._modules.items():
        parts.register_module(name, None if child is None else _copy_parts(child, convert, made))
    return parts


def _inner(module: Any) -> Any:
    """Return what the wrappers of torch.compile and of activation checkpointing hold, which have no name of theirs."""
    while (inner := module._modules.get("_orig_mod") or module._modules.get("_checkpoint_wrapped_module")) is not None:
        module = inner
    return module


def _own_parts(*tensors: Any) -> tuple[Any, ...]:
    if type(tensors[0]) in (nn.Parameter, Tensor):  # the usual case, for each tensor at each step
        return tensors
    return tuple(tensor.to_local() if is_sharded_tensor(tensor) else tensor for tensor in tensors)


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the second tensor of each pair into the first."""
    if pairs:
        mine, theirs = zip(*pairs, strict=True)
        change_all("copy_", list(mine), list(theirs))

"""Running averages of a model's weights, kept beside it while it trains."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn

from ..checkpoint import is_sharded_tensor
from ..logging import print_log
from .wrappers import is_sharded, reshard, unwrap

__all__ = ["BaseAveragedModel", "ExponentialMovingAverage", "MomentumAnnealingEMA", "StochasticWeightAverage"]


class BaseAveragedModel(nn.Module):
    """Holds a copy of a model and averages the weights of the model into it; subclasses write `avg_func`.

    State keys: ``module.<key of the model>`` for the averages and ``steps`` for the number of updates. Of a model that
    FSDP2 shards, each rank averages its parts; such an average is not called but exchanged with the model (`swap`).

    Args:
        model: The model to follow; DDP and the like around it are taken off.
        interval: The average moves in every ``interval``-th update; the first update always copies.
        device: Where the average is kept; None keeps it where the model is, as it must be with FSDP2.
        update_buffers: Average floating buffers (such as batch norm statistics) too, rather than copying them in
            every update. Other buffers are copied either way.

    Raises:
        ValueError: ``interval`` is not positive, or ``device`` is given for a model that FSDP2 shards.
    """

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__()
        if interval < 1:
            raise ValueError(f"interval of {type(self).__name__} must be at least 1, got {interval}")
        model = unwrap(model)
        if is_sharded(model):
            if device is not None:
                raise ValueError(
                    f"{type(self).__name__} keeps the average of a model sharded by FSDP2 where its parts are, got "
                    f"device={str(device)!r} · leave device out, or set FSDP2(cpu_offload=True)"
                )
            reshard(model)
            self.module = _copy_parts(model, {})
        else:
            self.module = copy.deepcopy(model).requires_grad_(False)
            if device is not None:
                self.module.to(device)
        self.interval = interval
        self.update_buffers = update_buffers
        self.steps = 0  # kept on the host: the formulas need it and must not wait for a device

    def avg_func(self, averaged: list[Tensor], source: list[Tensor], steps: int) -> None:
        """Move the averages towards the source in place.

        Args:
            averaged: The averages, floating tensors.
            source: The model's current values, in the same order, on the same devices.
            steps: Number of updates before this one.
        """
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged model.

        Raises:
            TypeError: FSDP2 shards the model: its average is parameters alone.
        """
        if type(self.module) is _Parts:
            raise TypeError(
                f"{type(self).__name__} of a model sharded by FSDP2 cannot be called · exchange it into the model with "
                "swap(model), call the model, and exchange it back, as EMAHook does"
            )
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights that ``model`` has now.

        Args:
            model: The model given at construction, or one with the same parameters and buffers in the same order.

        Raises:
            ValueError: ``model`` has other parameters or buffers.
        """
        averaged, copied = self._pairs(model)
        if self.steps == 0:
            copied = [*averaged, *copied]
        elif self.steps % self.interval == 0 and averaged:
            mine = [pair[0] for pair in averaged]
            self.avg_func(mine, [_as(theirs, like) for like, theirs in averaged], self.steps)
        if copied:
            mine, theirs = zip(*copied, strict=True)
            torch._foreach_copy_(mine, theirs)  # pyright: ignore[reportPrivateImportUsage]
        self.steps += 1

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the averaged weights with those of ``model``, in place; a second call undoes it.

        Buffers are exchanged when ``update_buffers`` is set; else both sides have the same.

        Args:
            model: The model that is followed.
        """
        parameters, buffers = self._matched(model)
        for mine, theirs in [*parameters, *(buffers if self.update_buffers else ())]:
            kept = mine.clone()
            mine.copy_(theirs)
            theirs.copy_(kept)

    def _pairs(self, model: nn.Module) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """Return pairs (average, source) to average, and pairs to copy."""
        parameters, buffers = self._matched(model)
        averaged, copied = [], []
        for pair in parameters:
            (averaged if pair[0].is_floating_point() else copied).append(pair)
        for pair in buffers:
            (averaged if self.update_buffers and pair[0].is_floating_point() else copied).append(pair)
        return averaged, copied

    def _matched(self, model: nn.Module) -> list[list[tuple[Tensor, Tensor]]]:
        """Return pairs (average, source) of the parameters and of the buffers; this rank's parts of split ones."""
        model = unwrap(model)
        reshard(model)
        try:
            return [
                list(zip(mine, theirs, strict=True))
                for mine, theirs in zip(_tensors(self.module), _tensors(model), strict=True)
            ]
        except ValueError:
            raise ValueError(
                f"{type(self).__name__} follows a model whose parameters or buffers are not those of the "
                f"{type(model).__name__} given · make the average after everything that changes the model"
            ) from None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        steps = state_dict.get(prefix + "steps")
        if steps is None:
            missing_keys.append(prefix + "steps")
        else:
            self.steps = int(steps)
        known = {key: value for key, value in state_dict.items() if key != prefix + "steps"}
        super()._load_from_state_dict(known, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def extra_repr(self) -> str:
        return f"interval={self.interval}, update_buffers={self.update_buffers}, steps={self.steps}"


class StochasticWeightAverage(BaseAveragedModel):
    """Equal average of all weights seen: ``avg += (source - avg) / (n + 1)`` with ``n = steps // interval``.

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
    https://arxiv.org/abs/1803.05407.
    """

    _average_equally: Callable[..., None] = staticmethod(get_swa_multi_avg_fn())

    def avg_func(self, averaged: list[Tensor], source: list[Tensor], steps: int) -> None:
        """Move the averages towards the source in place; see the class."""
        for mine, theirs in _by_device_and_dtype(averaged, source):
            self._average_equally(mine, theirs, steps // self.interval)


class ExponentialMovingAverage(BaseAveragedModel):
    """Exponential moving average: ``avg = (1 - momentum) * avg + momentum * source``.

    Here ``momentum`` is the weight of the new value, a small number, unlike an optimizer's momentum.

    Args:
        model: The model to follow.
        momentum: Weight of the current value, between 0 and 1.
        interval: The average moves in every ``interval``-th update.
        device: Where the average is kept; None keeps it where the model is.
        update_buffers: Average floating buffers too.

    Raises:
        ValueError: ``momentum`` or ``interval`` is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, interval, device, update_buffers)
        if not 0.0 < momentum < 1.0:
            raise ValueError(f"momentum must be between 0 and 1, got {momentum}")
        if momentum > 0.5:
            print_log(
                f"momentum={momentum} of {type(self).__name__} is the weight of the newest value, usually a small "
                "number such as 0.0002; is it meant to be this large?",
                logger="current",
                level=logging.WARNING,
            )
        self.momentum = momentum

    def momentum_at(self, steps: int) -> float:
        """Return the weight of the newest value after ``steps`` updates."""
        return self.momentum

    def avg_func(self, averaged: list[Tensor], source: list[Tensor], steps: int) -> None:
        """Move the averages towards the source in place; see the class."""
        momentum = self.momentum_at(steps)
        for mine, theirs in _by_device_and_dtype(averaged, source):
            torch._foreach_lerp_(mine, theirs, momentum)  # pyright: ignore[reportPrivateImportUsage]

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, {super().extra_repr()}"


class MomentumAnnealingEMA(ExponentialMovingAverage):
    """Exponential moving average that follows fast at first: momentum ``max(momentum, gamma / (gamma + steps))``.

    Args:
        model: The model to follow.
        momentum: Weight of the current value in the long run, between 0 and 1.
        gamma: The larger, the longer the average follows fast.
        interval: The average moves in every ``interval``-th update.
        device: Where the average is kept; None keeps it where the model is.
        update_buffers: Average floating buffers too.

    Raises:
        ValueError: ``momentum``, ``gamma`` or ``interval`` is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 100,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        self.gamma = gamma

    def momentum_at(self, steps: int) -> float:
        """Return ``max(momentum, gamma / (gamma + steps))``."""
        return max(self.momentum, self.gamma / (self.gamma + steps))


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return parameters and buffers, each once; several times faster than torch's iterators, which make up names."""
    parameters: dict[int, Tensor] = {}
    buffers: dict[int, Tensor] = {}
    seen: set[int] = set()
    pending: list[nn.Module | None] = [model]
    while pending:
        module = pending.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        for found, tensors in ((parameters, module._parameters), (buffers, module._buffers)):
            for tensor in tensors.values():
                if tensor is not None:
                    found[id(tensor)] = tensor
        pending.extend(module._modules.values())
    return [_own_part(tensor) for tensor in parameters.values()], [_own_part(tensor) for tensor in buffers.values()]


def _own_part(tensor: Any) -> Tensor:
    return tensor.to_local() if is_sharded_tensor(tensor) else tensor


class _Parts(nn.Module):
    """Holds the parameters, buffers and children of a module by the same names, without its code."""


def _copy_parts(module: nn.Module, made: dict[int, Any]) -> nn.Module:
    """Copy a module that FSDP2 shards, and so refuses to copy; what it shares is shared in the copy.

    Wrappers within it, which are in no name of a state dict, are left out.
    """
    module = unwrap(getattr(module, "_checkpoint_wrapped_module", module))
    if id(module) in made:
        return made[id(module)]
    parts = made[id(module)] = _Parts()
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in made:
            made[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
        parts.register_parameter(name, None if parameter is None else made[id(parameter)])
    for name, buffer in module._buffers.items():
        if buffer is not None and id(buffer) not in made:
            made[id(buffer)] = buffer.detach().clone()
        is_saved = name not in module._non_persistent_buffers_set
        parts.register_buffer(name, None if buffer is None else made[id(buffer)], persistent=is_saved)
    for name, child in module._modules.items():
        parts.register_module(name, None if child is None else _copy_parts(child, made))
    return parts


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor`` with the device and dtype of ``like``."""
    return tensor if tensor.device == like.device and tensor.dtype == like.dtype else tensor.to(like)


def _by_device_and_dtype(averaged: list[Tensor], source: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Split both lists into groups of one device and dtype, as the fused operations want them."""
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for mine, theirs in zip(averaged, source, strict=True):
        mine_list, their_list = groups.setdefault((mine.device, mine.dtype), ([], []))
        mine_list.append(mine)
        their_list.append(theirs)
    return list(groups.values())

"""One step of training, validation or test for any module: preprocess, forward, update.

A model that has a ``train_step`` (``val_step``, ``test_step``) of its own is asked to do it; any other ``nn.Module``
whose forward returns a dict of losses is driven by the functions here, which move its data to the device of its
parameters. The wrapped or compiled callable is passed as ``forward``, so no wrapper class of ours is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..dist import get_world_size
from .data_preprocessor import move_data
from .wrappers import is_sharded

if TYPE_CHECKING:
    from lazyengine.optim import OptimWrapper, OptimWrapperDict

__all__ = ["parse_losses", "run_forward", "test_step", "train_step", "val_step"]

_accepts_mode_of: dict[type, bool] = {}


def train_step(
    model: nn.Module,
    data: Any,
    optim_wrapper: OptimWrapper | OptimWrapperDict,
    forward: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Run one training iteration of any module.

    Args:
        model: The model. Its own ``train_step`` is used when it has one.
        data: A batch as the loader gives it: a dict is passed by keyword, a list or tuple by position, anything else
            (a tensor, a dataclass) as the only argument.
        optim_wrapper: Receives the total loss in ``update_params``.
        forward: What to call instead of ``model``: the model wrapped in DistributedDataParallel. Collective in that
            case: every rank must call.

    Returns:
        What to log: ``loss`` (the total) and every entry of the model's dict; detached scalars, still on the device.

    Raises:
        RuntimeError: Several ranks run and ``forward`` synchronizes no gradients, or is not called.
        TypeError: The model did not return a dict of losses, or its own ``train_step`` takes no ``forward``.
        ValueError: No key of the dict contains ``loss``.
    """
    own = _own_step(model, "train_step")
    if own is not None:
        if forward is None or forward is model:
            return own(data, optim_wrapper)
        if not getattr(forward, "_lazyengine_was_called", False):
            return _first_step(own, data, optim_wrapper, forward)
        return own(data, optim_wrapper, forward)
    if forward is None or forward is model:
        forward = model
        check_gradients_are_synchronized(model)
    with optim_wrapper.optim_context(forward):  # pyright: ignore[reportArgumentType]
        data = move_data(data, _device_of(model))
        losses = run_forward(forward, data, "loss" if _accepts_mode(model) else None)
    loss, log_vars = parse_losses(losses)
    optim_wrapper.update_params(loss)
    return log_vars


def val_step(model: nn.Module, data: Any, forward: Callable[..., Any] | None = None) -> Any:
    """Return the predictions of any module for one batch.

    The caller sets ``eval()`` and ``torch.no_grad()``.

    Args:
        model: The model. Its own ``val_step`` is used when it has one; otherwise it is called with ``mode="predict"``
            if its forward has that parameter, and plainly if not.
        data: A batch as the loader gives it.
        forward: What to call instead of ``model``; ignored when the model has a ``val_step`` of its own.

    Returns:
        What the model's forward returns.
    """
    own = _own_step(model, "val_step")
    if own is not None:
        return own(data)
    return _predict(model, data, forward)


def test_step(model: nn.Module, data: Any, forward: Callable[..., Any] | None = None) -> Any:  # noqa: PT028
    """Return the predictions of any module for one test batch; as `val_step`, with the model's own ``test_step``."""
    own = _own_step(model, "test_step")
    if own is not None:
        return own(data)
    return _predict(model, data, forward)


test_step.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  # its name is not meant for pytest


def run_forward(forward: Callable[..., Any], data: Any, mode: str | None) -> Any:
    """Call ``forward`` with an unpacked batch.

    Args:
        forward: A module or another callable.
        data: A dict (passed by keyword), a list or tuple (by position) or one object (as the only argument).
        mode: ``"loss"``, ``"predict"`` or ``"tensor"``, passed as ``mode``; None passes no mode.
    """
    extra = {} if mode is None else {"mode": mode}
    if isinstance(data, dict):
        return forward(**data, **extra)
    if isinstance(data, (list, tuple)):
        return forward(*data, **extra)
    return forward(data, **extra)


def parse_losses(losses: Any) -> tuple[Tensor, dict[str, Any]]:
    """Add up the losses of a model and prepare what is logged.

    Every entry whose key contains ``loss`` is part of the total; the others are only logged. A tensor counts with its
    mean, a (nested) list of tensors with the sum of their means. The total is logged as ``loss``. An entry that is
    itself called ``loss`` never hides the total: when it is all of the total, one value is logged; when other losses
    join it, it is logged as ``loss_part``.

    Args:
        losses: A mapping, an object with a ``loss`` attribute (the output of a transformers model) or one tensor.

    Returns:
        The total to go backward from, shape ``()``, and the log values: detached tensors of shape ``()``, total
        first.

    Raises:
        TypeError: ``losses`` or one of its values has another type.
        ValueError: No key contains ``loss``, or ``loss_part`` is taken while ``loss`` needs it.
    """
    if type(losses) is not dict:
        losses = _as_mapping(losses)
    only = losses.get("loss") if len(losses) == 1 else None
    if isinstance(only, Tensor) and not only.dim():  # the usual case, which is in every iteration
        return only, {"loss": only.detach()}
    total: Any = None
    log_vars: dict[str, Any] = {"loss": None}
    num_losses = 0
    for name, value in losses.items():
        if isinstance(value, Tensor):
            if value.dim():
                value = value.mean()
        else:
            value = _reduce(name, value)
        if "loss" in name:
            num_losses += 1
            total = value if total is None else total + value
            if name == "loss":
                name = "loss_part"
        log_vars[name] = value.detach() if isinstance(value, Tensor) else value
    if not isinstance(total, Tensor):
        raise ValueError(
            f"no loss to go backward from: the model returned {sorted(losses)} · the total is the sum of the tensors "
            "whose key contains 'loss' · name at least one of them so"
        )
    log_vars["loss"] = total.detach()
    if "loss" in losses:
        if "loss_part" in losses:
            raise ValueError(
                "the model returned both 'loss' and 'loss_part': the entry 'loss' is logged as 'loss_part', because "
                "'loss' is the total · rename one of them"
            )
        if num_losses == 1:
            del log_vars["loss_part"]
    return total, log_vars


def check_gradients_are_synchronized(forward: Any) -> None:
    """Refuse to train a plain module in several ranks, where every rank would silently go its own way.

    Args:
        forward: What the training step is about to call.

    Raises:
        RuntimeError: The world has more than one rank and ``forward`` is neither DDP nor sharded by FSDP2.
    """
    if get_world_size() == 1:
        return
    if not (isinstance(forward, nn.parallel.DistributedDataParallel) or is_sharded(forward)):
        raise RuntimeError(
            f"{type(forward).__name__} is trained in {get_world_size()} ranks without synchronizing gradients: "
            "the ranks would drift apart · pass forward=ModelSetup().apply(model, device), which wraps it in DDP, "
            "or a wrapper=DDP(...) or FSDP2(...) of yours"
        )


def _first_step(own: Callable[..., Any], data: Any, optim_wrapper: Any, forward: Any) -> Any:
    """Run a model's own step, and make sure that it calls `forward`, which is what keeps the ranks together."""
    name = f"{type(getattr(own, '__self__', None)).__name__}.train_step"
    parameters = inspect.signature(own).parameters.values()
    is_taken = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) or len(parameters) >= 3
    if not is_taken:
        raise TypeError(
            f"{name} takes no `forward` · where the model is wrapped (DDP in several ranks, torch.compile) it is "
            "called as train_step(data, optim_wrapper, forward): add the argument, and call forward(...) instead of "
            "self(...)"
        )
    if not isinstance(forward, nn.parallel.DistributedDataParallel):
        object.__setattr__(forward, "_lazyengine_was_called", True)  # nothing to synchronize; looked at once
        return own(data, optim_wrapper, forward)
    calls: list[bool] = []
    handle = forward.register_forward_pre_hook(lambda *_: calls.append(True))
    steps = optim_wrapper.num_optimizer_steps
    try:
        outputs = own(data, optim_wrapper, forward)
    finally:
        handle.remove()
    if calls:
        object.__setattr__(forward, "_lazyengine_was_called", True)
    elif optim_wrapper.num_optimizer_steps != steps:
        raise RuntimeError(
            f"{name} has stepped the optimizer without calling `forward`, so that no gradients were synchronized and "
            f"the {get_world_size()} ranks drift apart · call forward(...) instead of self(...); a step that "
            "synchronizes gradients itself needs ModelSetup(wrapper=lambda model, device: model)"
        )
    return outputs


def _predict(model: nn.Module, data: Any, forward: Callable[..., Any] | None) -> Any:
    data = move_data(data, _device_of(model))
    return run_forward(forward or model, data, "predict" if _accepts_mode(model) else None)


def _as_mapping(losses: Any) -> Mapping[str, Any]:
    if isinstance(losses, Tensor):
        return {"loss": losses}
    loss = getattr(losses, "loss", None)
    if isinstance(loss, Tensor):
        return {"loss": loss}
    if isinstance(losses, Mapping):
        return losses
    raise TypeError(
        f"the model returned {type(losses).__name__} in training · accepted are a dict of losses, one loss tensor, "
        "or an output with a .loss · for a network that returns predictions use LossAdapter(network, loss_fn)"
    )


def _reduce(name: str, value: Any) -> Any:
    """Reduce one entry of the dict: a tensor to its mean, a nested list to its sum; numbers are only logged."""
    if isinstance(value, Tensor):
        return value.mean() if value.dim() else value
    if isinstance(value, (list, tuple)):
        return sum(_reduce(name, item) for item in value)
    if isinstance(value, (int, float)) and "loss" not in name:
        return value
    raise TypeError(
        f"the model's {name!r} is {type(value).__name__} · accepted are a tensor or a (nested) list of tensors, and "
        "plain numbers under keys without 'loss'"
    )


def _own_step(model: nn.Module, name: str) -> Callable[..., Any] | None:
    """Return a step that the model has itself; `nn.Module` answers for a missing attribute slowly, by an exception."""
    return getattr(model, name) if hasattr(type(model), name) or name in model.__dict__ else None


def _accepts_mode(model: nn.Module) -> bool:
    kind = type(model)
    accepts = _accepts_mode_of.get(kind)
    if accepts is None:
        accepts = _accepts_mode_of[kind] = "mode" in inspect.signature(kind.forward).parameters
    return accepts


def _device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer; where it sits is looked up once per module."""
    place = model.__dict__.get("_first_tensor")
    if place is None:
        place = _find_first_tensor(model)
        model.__dict__["_first_tensor"] = place
    tensors, name = place
    return tensors[name].device if tensors else None


def _find_first_tensor(model: nn.Module) -> tuple[dict[str, Any], str]:
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    return tensors, name
    return {}, ""

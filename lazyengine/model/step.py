"""One step of training, validation or test for any module: preprocess, forward, update.

A model that has a ``train_step`` (``val_step``, ``test_step``) of its own is asked to do it; any other ``nn.Module``
whose forward returns a dict of losses is driven by the functions here, which move its data to the device of its
parameters. The wrapped or compiled callable is passed as ``forward``, so no wrapper class of ours is needed.
"""

from __future__ import annotations

import functools
import inspect
import logging
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..dist import get_data_world_size, get_world_size, is_distributed
from ..text import did_you_mean, listed
from .data_preprocessor import move_data
from .weighted import Weighted, add_up, mean_of
from .wrappers import is_sharded

if TYPE_CHECKING:
    from lazyengine.optim import OptimWrapper, OptimWrapperDict


Forward = Callable[..., Any] | None
_LOGGER = logging.getLogger(__name__)
_COMPUTED = (Tensor, Weighted)
_ID = re.compile(r"^(sample_)?(id|idx|index)s?$|_(id|idx|index)$")


def train_step(
    model: nn.Module, data: Any, optim_wrapper: OptimWrapper | OptimWrapperDict, forward: Forward = None
) -> dict[str, Any]:
    """Run one training iteration of any module.

    Args:
        model: The model. Its own ``train_step`` is used when it has one: called with ``forward`` as third argument
            where it takes one; where it does not, its ``self(...)`` calls ``forward``.
        data: A batch as the loader gives it: a dict is passed by keyword, a list or tuple by position, anything else
            (a tensor, a dataclass) as the only argument.
        optim_wrapper: Receives the total loss in ``update_params``.
        forward: What to call instead of ``model``: the model wrapped in DistributedDataParallel. Collective in that
            case: every rank must call.

    Returns:
        What to log: ``loss`` (the total) and every entry of the model's dict; detached scalars, still on the device.

    Raises:
        RuntimeError: Several ranks run and ``forward`` synchronizes no gradients, or is not called.
        TypeError: The model did not return a dict of losses.
        ValueError: No key of the dict contains ``loss``.
    """
    own = _own_step(model, "train_step")
    if own is not None:
        if forward is None or forward is model:
            return own(data, optim_wrapper)
        step = own if _takes_forward(own) else functools.partial(_routed_step, own, model)
        if not getattr(forward, "_lazyengine_was_called", False):
            return _first_step(step, own, data, optim_wrapper, forward)
        return step(data, optim_wrapper, forward)
    if forward is None or forward is model:
        forward = model
        if is_distributed():
            check_gradients_are_synchronized(model)
    with optim_wrapper.optim_context(forward):  # pyright: ignore[reportArgumentType]
        data = move_data(accepted(model, data), _device_of(model))
        losses = run_forward(forward, data, "loss" if "mode" in parameters_of(model) else None)
    loss, log_vars = parse_losses(losses)
    optim_wrapper.update_params(loss)
    return log_vars


def val_step(model: nn.Module, data: Any, forward: Forward = None) -> Any:
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
    return _predict(model, "val_step", data, forward)


def test_step(model: nn.Module, data: Any, forward: Forward = None) -> Any:  # noqa: PT028
    """Return the predictions of any module for one test batch; as `val_step`, with the model's own ``test_step``."""
    return _predict(model, "test_step", data, forward)


test_step.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  # its name is not meant for pytest


def run_forward(forward: Callable[..., Any], data: Any, mode: str | None) -> Any:
    """Call ``forward`` with an unpacked batch.

    Args:
        forward: A module or another callable.
        data: A dict (passed by keyword), a list or tuple (by position) or one object, such as a list of dicts with one
            for each sample (as the only argument).
        mode: ``"loss"``, ``"predict"`` or ``"tensor"``, passed as ``mode``; None passes no mode.
    """
    extra = {} if mode is None else {"mode": mode}
    if isinstance(data, dict):
        return forward(**data, **extra)
    if not isinstance(data, (list, tuple)) or _is_list_of_samples(data):
        return forward(data, **extra)
    try:
        return forward(*data, **extra)
    except TypeError as error:
        if "multiple values for argument" in str(error) or "positional argument" in str(error):
            error.add_note(
                f"a batch that is a {type(data).__name__} is passed by position, here as {len(data)} arguments; let "
                "the collate_fn return a dict or an object of your own, or let forward take *batch"
            )
        raise


def _is_list_of_samples(data: Sequence[Any]) -> bool:
    is_likely = isinstance(data, list) and bool(data) and isinstance(data[0], dict)
    return is_likely and all(isinstance(each, dict) for each in data)


def accepted(model: nn.Module, data: Any) -> Any:
    """Return the fields of a batch that the model's forward accepts.

    Dropped are ids (``sample_idx``, ``image_id``), texts and what ``model.ignore_fields`` names.

    Raises:
        TypeError: There is another field that it does not accept.
    """
    if not isinstance(data, dict) or all(map((names := parameters_of(model)).__contains__, data)):
        return data
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in names.values()):
        return data
    dropped = [name for name in data if name not in names]
    ignored = getattr(model, "ignore_fields", ())
    known = [each for each in names if each not in ("self", "mode")]
    for name in dropped:
        if not (name in ignored or is_aside(name, data[name])):
            raise TypeError(
                f"{type(model).__name__}.forward does not accept the batch's {name!r}.{did_you_mean(name, names)} It "
                f"accepts {listed(known)}; add the parameter, take {name!r} out of the samples, or set "
                f"ignore_fields = ({name!r},) on the model."
            )
    _log_dropped(type(model).__name__, "forward does not accept", tuple(dropped))
    return {name: value for name, value in data.items() if name in names}


def is_aside(name: object, value: Any) -> bool:
    """Return whether a field of a batch is an id or text, which nobody computes with."""
    texts = value if isinstance(value, list | tuple) else [value]
    return bool(_ID.search(str(name))) or all(isinstance(each, str) for each in texts)


@functools.cache
def _log_dropped(model: str, why: str, names: tuple[str, ...]) -> None:
    _LOGGER.info("%s %s %s: left out", model, why, listed(names))


@functools.cache
def _warn_of_constants(names: tuple[str, ...]) -> None:
    _LOGGER.warning(
        "%s of the losses came without a gradient: what is constant counts in the total and trains nothing. Look for "
        "detach(), or name what is only shown without 'loss'",
        listed(names),
    )


def parse_losses(losses: Any) -> tuple[Any, dict[str, Any]]:
    """Add up the losses of a model and prepare what is logged.

    Every entry whose key contains ``loss`` is part of the total; the others are only logged, and left out where their
    mean says nothing: ids and other vectors of ints, logits, maps, texts. A tensor counts with its
    mean, a (nested) list of tensors with the sum of their means. The total is logged as ``loss``. An entry that is
    itself called ``loss`` never hides the total: when it is all of the total, one value is logged; when other losses
    join it, it is logged as ``loss_part``.

    **By sum and count.** An entry may be a `Weighted`, or the model returns ``loss_sum`` and ``num``, which is the same
    as ``loss=Weighted(loss_sum, num)``. Plain losses beside it are then weighted by its count.

    Args:
        losses: A mapping, an object with a ``loss`` attribute (the output of a transformers model), one tensor or one
            `Weighted`.

    Returns:
        The total to go backward from, for ``update_params``: of shape ``()``, a `Weighted`, or a list of these where
        their counts differ; and the log values, total first: detached tensors of shape ``()`` or `Weighted` of these.

    Raises:
        TypeError: ``losses`` or one of its values has another type.
        ValueError: No key contains ``loss``, or ``loss_part`` is taken while ``loss`` needs it.
    """
    entries = losses if type(losses) is dict else _as_mapping(losses)
    only = entries.get("loss") if len(entries) == 1 else None
    if type(only) is Tensor and only.grad_fn is not None and only._base is None and not only.dim():
        return only, {"loss": only.detach()}  # the usual case, in every iteration, by a short way
    if "loss_sum" in entries and "num" in entries and _is_curve(entries["num"]):
        rest = {name: value for name, value in entries.items() if name not in ("loss_sum", "num")}
        entries = {"loss": Weighted(entries["loss_sum"], entries["num"]), **rest}
    parts: list[Any] = []
    dropped: list[str] = []
    has_gradient = False
    log_vars: dict[str, Any] = {"loss": None}
    for name, value in entries.items():
        is_loss = "loss" in name
        if not is_loss and not _is_curve(value):
            dropped.append(name)
            continue
        value = value if isinstance(value, Weighted) else _reduce(name, value)
        is_computed = isinstance(value, _COMPUTED)
        if is_loss:
            parts.append(value)
            has_gradient |= is_computed
            if name == "loss":
                name = "loss_part"
        log_vars[name] = value.detach() if is_computed else value
    if dropped:
        _log_dropped("the model's output", "has, beside losses and points of curves,", tuple(dropped))
    if not has_gradient:
        raise ValueError(
            f"no loss to go backward from: the model returned {sorted(entries)} · the total is the sum of the tensors "
            "whose key contains 'loss' · name at least one of them so"
        )
    if len(parts) > 1 and torch.is_grad_enabled():
        values = {name: value for name, value in entries.items() if "loss" in name and isinstance(value, Tensor)}
        constant = tuple(name for name, value in values.items() if not value.requires_grad)
        if constant and len(constant) < len(parts):
            _warn_of_constants(constant)
    total: Any = parts[0] if len(parts) == 1 else add_up(parts)
    if "loss" in entries and len(parts) == 1:  # the entry is the total
        log_vars["loss"] = log_vars.pop("loss_part")
        return total, log_vars
    if "loss" in entries and "loss_part" in entries:
        raise ValueError(
            "the model returned both 'loss' and 'loss_part': the entry 'loss' is logged as 'loss_part', because "
            "'loss' is the total · rename one of them"
        )
    if isinstance(total, Weighted):  # what was weighted by its count is so in the log
        for name in log_vars.keys() - {"loss"}:
            if "loss" in name and not isinstance(log_vars[name], Weighted):
                log_vars[name] = Weighted(log_vars[name] * total.count, total.count)
    log_vars["loss"] = (mean_of(total) if isinstance(total, list) else total).detach()
    return total, log_vars


def _is_curve(value: Any) -> bool:
    """Return whether a mean of it says something: a number, a value for each sample, or a list of these.

    A vector that has a gradient is an output of the network, such as its logits.
    """
    if isinstance(value, Tensor):
        return value.numel() == 1 or (value.dim() == 1 and value.is_floating_point() and not value.requires_grad)
    if isinstance(value, list | tuple):
        return all(isinstance(each, list | tuple | Tensor) and _is_curve(each) for each in value)
    return isinstance(value, numbers.Real)  # of NumPy, too


def check_gradients_are_synchronized(forward: Any) -> None:
    """Refuse to train a plain module in several ranks, where every rank would silently go its own way.

    Args:
        forward: What the training step is about to call.

    Raises:
        RuntimeError: Data is shared out among several ranks, and ``forward`` is neither DDP nor sharded by FSDP2.
    """
    if isinstance(forward, nn.parallel.DistributedDataParallel) or is_sharded(forward):
        return
    if get_data_world_size() > 1:
        raise RuntimeError(
            f"{type(forward).__name__} is trained in {get_data_world_size()} ranks without synchronizing gradients: "
            "the ranks would drift apart · pass forward=ModelSetup().apply(model, device), which wraps it in DDP, "
            "or a wrapper=DDP(...) or FSDP2(...) of yours"
        )


def _takes_forward(own: Callable[..., Any]) -> bool:
    return _takes_third(getattr(own, "__func__", own), hasattr(own, "__func__"))


@functools.cache
def _takes_third(function: Callable[..., Any], is_method: bool) -> bool:
    parameters = inspect.signature(function).parameters.values()
    is_open = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    return is_open or len(parameters) >= 3 + is_method


def _routed_step(own: Callable[..., Any], model: nn.Module, data: Any, optim_wrapper: Any, forward: Any) -> Any:
    """Run a step written without `forward`, in which ``self(...)`` goes to what wraps the model."""
    plain = vars(model).get("forward")

    def restore() -> None:
        del model.forward
        if plain is not None:
            model.forward = plain

    def through_wrapper(*args: Any, **kwargs: Any) -> Any:
        restore()  # the wrapper calls the model itself
        try:
            return forward(*args, **kwargs)
        finally:
            model.forward = through_wrapper

    model.forward = through_wrapper
    try:
        return own(data, optim_wrapper)
    finally:
        restore()


def _first_step(step: Callable[..., Any], own: Callable[..., Any], data: Any, optim_wrapper: Any, forward: Any) -> Any:
    """Run a model's own step, and make sure that it calls `forward`, which is what keeps the ranks together."""
    if not isinstance(forward, nn.parallel.DistributedDataParallel):
        object.__setattr__(forward, "_lazyengine_was_called", True)  # nothing to synchronize; looked at once
        return step(data, optim_wrapper, forward)
    calls: list[bool] = []
    handle = forward.register_forward_pre_hook(lambda *_: calls.append(True))
    steps = optim_wrapper.num_optimizer_steps
    try:
        outputs = step(data, optim_wrapper, forward)
    finally:
        handle.remove()
    if calls:
        object.__setattr__(forward, "_lazyengine_was_called", True)
    elif optim_wrapper.num_optimizer_steps != steps:
        name = f"{type(getattr(own, '__self__', None)).__name__}.train_step"
        raise RuntimeError(
            f"{name} has stepped the optimizer without calling `forward`, so that no gradients were synchronized and "
            f"the {get_world_size()} ranks drift apart · call forward(...) instead of self(...); a step that "
            "synchronizes gradients itself needs ModelSetup(wrapper=lambda model, device: model)"
        )
    return outputs


def _predict(model: nn.Module, step: str, data: Any, forward: Forward) -> Any:
    own = _own_step(model, step)
    if own is not None:
        try:
            return own(data)
        except RuntimeError as error:
            if not (is_sharded(model) and "mixed torch.Tensor and DTensor" in str(error)):
                raise
            raise RuntimeError(
                f"{type(model).__name__}.{step} computed with a part of the model, such as self.part.generate(...), "
                "and only a call of the whole model gathers what FSDP2 shards · move it into forward(mode='predict'), "
                "and call self(...)"
            ) from error
    data = move_data(accepted(model, data), _device_of(model))
    return run_forward(forward or model, data, "predict" if "mode" in parameters_of(model) else None)


def _as_mapping(losses: Any) -> Mapping[str, Any]:
    loss = losses if isinstance(losses, _COMPUTED) else getattr(losses, "loss", None)
    if isinstance(loss, _COMPUTED):
        return {"loss": loss}
    if isinstance(losses, Mapping):
        return losses
    raise TypeError(
        f"the model returned {type(losses).__name__} in training · accepted are a dict of losses, one loss tensor, "
        "or an output with a .loss · for a network that returns predictions use LossAdapter(network, loss_fn)"
    )


def _reduce(name: str, value: Any) -> Any:
    """Reduce one entry of the dict: a tensor to its mean, a nested list to its sum; numbers are only logged.

    One value is its own mean: to compute it costs a small model's iteration a tenth, forward and backward. It is copied
    where it may be part of a buffer or parameter, which changes in place before the log is read.
    """
    if isinstance(value, Tensor):
        if not (value.is_floating_point() or value.is_complex()):
            value = value.float()
        if value.dim():
            return value.mean()
        return value.clone() if value.grad_fn is None or value._base is not None else value
    if isinstance(value, (list, tuple)) and not isinstance(value, Weighted):
        return sum(_reduce(name, item) for item in value)
    if isinstance(value, numbers.Real) and "loss" not in name:
        return value if isinstance(value, int | float) else float(value)
    raise TypeError(
        f"the model's {name!r} is {type(value).__name__} · accepted are a tensor or a (nested) list of tensors, and "
        "plain numbers under keys without 'loss'"
    )


def _own_step(model: nn.Module, name: str) -> Callable[..., Any] | None:
    """Return a step that the model has itself; `nn.Module` answers for a missing attribute slowly, by an exception."""
    return getattr(model, name) if hasattr(type(model), name) or name in model.__dict__ else None


def parameters_of(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the forward that a module has now: its own, where one was set on the object."""
    own = module.__dict__.get("forward")
    return _parameters_of(type(module).forward) if own is None else inspect.signature(own).parameters


@functools.lru_cache(maxsize=256)
def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _device_of(module: nn.Module) -> torch.device | None:
    """Return the device of a parameter or buffer that a module has now; torch's iterators are slower."""
    first: Any = module
    while first is not None:  # most have one along their first children
        for tensor in first._parameters.values():
            if tensor is not None:
                return tensor.device
        first = next(iter(first._modules.values()), None)
    for child in module._modules.values():
        if child is not None and (device := _device_of(child)) is not None:
            return device
    return next((buffer.device for buffer in module._buffers.values() if buffer is not None), None)

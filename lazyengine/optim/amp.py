"""Mixed precision: autocast over the whole step or over named modules, and loss scaling for float16."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch
from ..checkpoint import unwrap_module
from ..errors import UsageTypeError, UsageValueError
from ..model.finite import all_finite
from ..nesting import map_leaves
from ..text import listed, near
from ._checks import require
from .optim_wrapper import OptimWrapper

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# A scale of 65536 halved so often is 6e-11: gradients that overflow even then are not finite by themselves.
_MAX_CONSECUTIVE_OVERFLOWS = 50


class AmpOptimWrapper(OptimWrapper):
    """An `OptimWrapper` whose forward passes run in float16 or bfloat16 where that is safe (`torch.autocast`).

    Args:
        optimizer: A torch optimizer over float32 parameters.
        dtype: ``"float16"``, ``"bfloat16"`` or the torch dtype; None is float16 on CUDA and bfloat16 elsewhere.
        loss_scale: For float16 only: ``"dynamic"``, a number for a fixed scale, or a dict of arguments of
            `torch.amp.GradScaler`. With bfloat16 nothing is scaled.
        amp_modules: Names of submodules, such as ``["backbone"]``: only these run in `dtype`, and their outputs are
            cast back to float32, so that the head computes in float32. None: the whole forward pass.
        **kwargs: The other arguments of `OptimWrapper`. With float16, gradients that overflow skip the update and
            lower the scale, as usual; the ``nonfinite`` policy applies to losses and to the norm of finite gradients.
            The host reads the result once an update.

    Attributes:
        dtype: The torch dtype of autocast.
        loss_scaler: The `torch.amp.GradScaler` with float16, else None. Its state is saved.

    Raises:
        UsageTypeError: If ``dtype`` or ``loss_scale`` has the wrong type.
        UsageValueError: If ``dtype`` is another one, or the device cannot compute in it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        dtype: str | torch.dtype | None = None,
        loss_scale: str | float | dict[str, Any] = "dynamic",
        amp_modules: list[str] | tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, **kwargs)
        device_type = self._device_type()
        self.dtype = _dtype_of(dtype, device_type)
        if isinstance(amp_modules, str):
            raise UsageTypeError(f"amp_modules must be a list of names; got {amp_modules!r}, say [{amp_modules!r}]")
        self.amp_modules = None if amp_modules is None else tuple(amp_modules)
        self._prepared: nn.Module | None = None
        options = _scaler_options(loss_scale)
        self._fixed_scale = float(loss_scale) if isinstance(loss_scale, int | float) else None
        if self.dtype == torch.float16:
            self.loss_scaler = torch.amp.GradScaler(device_type, **options)
            self.loss_scale = loss_scale
        self._num_consecutive_overflows = 0

    # ------------------------------------------------------------------ contexts
    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for the forward pass of a training step: that of `OptimWrapper`, and autocast.

        With ``amp_modules`` the modules of ``model`` are prepared once (see `autocast_modules`).
        """
        context = super().optim_context(model)
        if self.amp_modules is not None:
            self._prepare(model, self.amp_modules)
            return context
        autocast = torch.autocast(self._device_type(), self.dtype)
        if isinstance(context, nullcontext):
            return autocast
        stack = ExitStack()
        stack.enter_context(context)
        stack.enter_context(autocast)
        return stack

    @property
    def precision(self) -> dict[str, Any]:
        """The arguments of `autocast_for` with which training computes."""
        modules = None if self.amp_modules is None else list(self.amp_modules)
        return {"dtype": str(self.dtype).removeprefix("torch."), "amp_modules": modules}

    def set_model(self, model: nn.Module) -> None:
        """As `OptimWrapper.set_model`; also prepares the modules of ``amp_modules``."""
        super().set_model(model)
        self._prepare(model, self.amp_modules or ())

    def _prepare(self, model: nn.Module, names: tuple[str, ...]) -> None:
        if model is not self._prepared:
            autocast_modules(model, names, self.dtype)
            self._prepared = model

    # ------------------------------------------------------------------ float16
    def _unscale(self) -> bool:
        """Divide the gradients by the scale; return whether one overflows on any rank (collective)."""
        scaler: Any = self.loss_scaler
        scaler.unscale_(self.optimizer)
        found = _torch.overflow_flags(scaler, self.optimizer)
        if found is None:
            gradients = self._gradients()
            found = [torch.tensor(float(not all_finite(gradients)), device=gradients[0].device)]
        for flag in found:
            self._guard.agree(flag)  # sharded gradients overflow on one rank alone; the scale has to fall on all
        return any(flag.item() for flag in found)

    def step(self, **kwargs: Any) -> None:
        """As `OptimWrapper.step`; with float16 the gradients are unscaled first, and the scale is adapted after.

        Raises:
            TypeError: As `OptimWrapper.step`, and if a closure is given with float16.
        """
        scaler = self.loss_scaler
        if scaler is not None and "closure" in kwargs:
            raise TypeError("a closure computes gradients that no loss scale has reached; use dtype='bfloat16'")
        if scaler is None or not self._gradients() or (self._count.own is not None and not self._count.total()):
            super().step(**kwargs)
            return
        overflow = self._unscale()
        scale = scaler.get_scale() if overflow else None
        try:
            if not overflow:
                self._num_consecutive_overflows = 0
                super().step(**kwargs)
            elif not self._guard.is_active or not self._rejects():
                self._discard()
                self._count_overflow(scaler.get_scale())
        finally:
            scaler.update(self._fixed_scale)
            if scale is not None and self._fixed_scale is None and scaler.get_scale() == scale:
                state = scaler.state_dict()  # the overflow was met on another rank alone
                scaler.load_state_dict({**state, "scale": scale * state["backoff_factor"], "_growth_tracker": 0})

    def _count_overflow(self, scale: float) -> None:
        self._num_consecutive_overflows += 1
        if self._num_consecutive_overflows > _MAX_CONSECUTIVE_OVERFLOWS:
            what = f"float16 gradients overflowed in {self._num_consecutive_overflows} updates in a row, now at a scale"
            raise FloatingPointError(f"{what} of {scale:g}: no scale helps; use bfloat16, or search in float32")

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """As `OptimWrapper.state_dict`, with the scaler's state under ``loss_scaler`` for float16 (as mmengine)."""
        state = super().state_dict()
        if self.loss_scaler is not None:
            state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `OptimWrapper.load_state_dict`; a state without ``loss_scaler`` leaves the scaler as it is."""
        state_dict = dict(state_dict)
        scaler_state = state_dict.pop("loss_scaler", None)
        super().load_state_dict(state_dict)
        if scaler_state and self.loss_scaler is not None:  # where it stands; its options are those given
            found = {key: scaler_state[key] for key in ("scale", "_growth_tracker")}
            self.loss_scaler.load_state_dict({**self.loss_scaler.state_dict(), **found})

    def _device_type(self) -> str:
        return self.optimizer.param_groups[0]["params"][0].device.type


def autocast_for(model: nn.Module, precision: dict[str, Any] | None) -> AbstractContextManager[Any]:
    """Return the context in which a model computes as in training.

    Args:
        model: The model; with ``amp_modules``, its modules are prepared once (see `autocast_modules`).
        precision: What the ``precision`` of a wrapper says: ``dtype`` and, if given, ``amp_modules``, as for
            `AmpOptimWrapper`; None for float32.
    """
    if precision is None:
        return nullcontext()
    device_type, names = next(model.parameters()).device.type, precision.get("amp_modules")
    dtype = _dtype_of(precision["dtype"], device_type)
    if names is None:
        return torch.autocast(device_type, dtype)
    autocast_modules(model, names, dtype)
    return nullcontext()


def autocast_modules(model: nn.Module, names: list[str] | tuple[str, ...], dtype: str | torch.dtype) -> None:
    """Let some submodules compute in ``dtype`` and give their outputs back in float32, wherever they are called.

    The class of each is replaced by a subclass with the same name, so that copies of the model (EMA), validation,
    `torch.compile` and hooks all see it; parameters and state keys stay as they are. Doing it again changes nothing.

    Args:
        model: The model; DDP or compile wrappers around it are looked through.
        names: Names of its submodules, as in ``model.named_modules()``.
        dtype: ``"float16"``, ``"bfloat16"`` or the torch dtype.

    Raises:
        ValueError: If a name is no submodule, it was prepared for another dtype, or its forward was replaced.
    """
    model = unwrap_module(model)
    modules = dict(model.named_modules())
    dtype = _dtype_of(dtype, None)
    for name in names:
        if not name or name not in modules:
            close = near(name, modules) or listed(n for n, _ in model.named_children())
            raise UsageValueError(f"amp_modules: {type(model).__name__} has no submodule {name!r}; close is {close!r}")
        module = unwrap_module(modules[name])
        present = getattr(type(module), "_autocast_dtype", None)
        what = f"amp_modules: {name!r}"
        require("forward" not in vars(module), f"{what} has a forward set on the object, which would be called instead")
        require(present in (None, dtype), f"{what} computes in {present} already and was to compute in {dtype}")
        if present is None:
            module.__class__ = _autocast_class(type(module), dtype)


def _autocast_class(base: type[nn.Module], dtype: torch.dtype) -> type[nn.Module]:
    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tensor = next(self.parameters(), None)
        device_type = "cpu" if tensor is None else tensor.device.type
        with torch.autocast(device_type, dtype):
            output = base.forward(self, *args, **kwargs)
        return map_leaves(to_float32, output)

    def to_float32(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == dtype else value

    members = {"forward": forward, "_autocast_dtype": dtype, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


def _dtype_of(dtype: str | torch.dtype | None, device_type: str | None) -> torch.dtype:
    if dtype is None:
        dtype = torch.float16 if device_type == "cuda" else torch.bfloat16
    if not isinstance(dtype, str | torch.dtype):
        raise UsageTypeError(f"dtype must be a str or a torch.dtype; got {dtype!r}")
    known = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if known not in _DTYPES.values():
        raise UsageValueError(f"dtype of mixed precision must be 'float16' or 'bfloat16'; got {dtype!r}")
    is_unsupported = device_type == "cuda" and known == torch.bfloat16 and not torch.cuda.is_bf16_supported()
    require(not is_unsupported, "this GPU cannot compute in bfloat16; use dtype='float16'")
    assert known is not None
    return known


def _scaler_options(loss_scale: Any) -> dict[str, Any]:
    if isinstance(loss_scale, dict):
        return loss_scale
    if loss_scale == "dynamic":
        return {}
    if not isinstance(loss_scale, int | float) or isinstance(loss_scale, bool):
        raise UsageTypeError(f"loss_scale must be 'dynamic', a number or a dict; got {loss_scale!r}")
    require(loss_scale > 0, f"loss_scale must be greater than 0; got {loss_scale}")
    return {"init_scale": float(loss_scale)}

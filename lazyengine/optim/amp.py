"""Mixed precision: autocast over the whole step or over named modules, and loss scaling for float16."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lazyengine.checkpoint import unwrap_module

from .optim_wrapper import OptimWrapper

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# A scale of 65536 halved so often is 6e-11: gradients that overflow even then are not finite by themselves.
_MAX_CONSECUTIVE_OVERFLOWS = 50


class AmpOptimWrapper(OptimWrapper):
    """An `OptimWrapper` whose forward passes run in float16 or bfloat16 where that is safe (`torch.autocast`).

    Args:
        optimizer: A torch optimizer over float32 parameters.
        dtype: ``"float16"``, ``"bfloat16"`` or the torch dtype; None is float16 on CUDA and bfloat16 elsewhere.
        loss_scale: For float16 only: ``"dynamic"``, a number for a fixed scale, a dict of arguments of
            `torch.amp.GradScaler`, or a scaler. With bfloat16 nothing is scaled.
        amp_modules: Names of submodules, such as ``["backbone"]``: only these run in `dtype`, and their outputs are
            cast back to float32, so that the head computes in float32. None: the whole forward pass.
        **kwargs: The other arguments of `OptimWrapper`. With float16, gradients that overflow skip the update and
            lower the scale, as usual; the ``nonfinite`` policy applies to losses and to the norm of finite gradients.
            The host reads the result once an update, unless ``nonfinite="ignore"`` and the optimizer is fused.

    Attributes:
        dtype: The torch dtype of autocast.
        loss_scaler: The `torch.amp.GradScaler` with float16, else None. Its state is saved.

    Raises:
        TypeError: If ``dtype`` or ``loss_scale`` has the wrong type.
        ValueError: If ``dtype`` is another one, or the device cannot compute in it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        dtype: str | torch.dtype | None = None,
        loss_scale: str | float | dict[str, Any] | torch.amp.GradScaler = "dynamic",
        amp_modules: list[str] | tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, **kwargs)
        device_type = self._device_type()
        self.dtype = _dtype_of(dtype, device_type)
        if isinstance(amp_modules, str):
            raise TypeError(f"amp_modules must be a list of module names; got {amp_modules!r}, say [{amp_modules!r}]")
        self.amp_modules = None if amp_modules is None else tuple(amp_modules)
        self._prepared: nn.Module | None = None
        self._fixed_scale: float | None = None
        self.loss_scaler: torch.amp.GradScaler | None = None
        scaler, self._fixed_scale = _scaler_of(loss_scale, device_type)
        if self.dtype == torch.float16:
            self.loss_scaler = scaler
        self._num_consecutive_overflows = 0
        if self.loss_scaler is not None and self._deferred_check:
            raise ValueError(
                "deferred_check=True does not go with the loss scale of float16; use bfloat16 or leave it out"
            )

    # ------------------------------------------------------------------ contexts
    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for the forward pass of a training step: that of `OptimWrapper`, and autocast.

        With ``amp_modules`` the modules of ``model`` are prepared once (see `autocast_modules`).
        """
        context = super().optim_context(model)
        autocast = self.autocast_context(model)
        if isinstance(context, nullcontext):
            return autocast
        if isinstance(autocast, nullcontext):
            return context
        stack = ExitStack()
        stack.enter_context(context)
        stack.enter_context(autocast)
        return stack

    def autocast_context(self, model: nn.Module | None = None) -> AbstractContextManager[Any]:
        """Return the context in which validation computes in the dtype of training.

        Args:
            model: The model to be called; only needed with ``amp_modules``, whose modules are prepared once.
        """
        if self.amp_modules is None:
            return torch.autocast(self._device_type(), self.dtype)
        if model is not None and model is not self._prepared:
            autocast_modules(model, self.amp_modules, self.dtype)
            self._prepared = model
        return nullcontext()

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """As `OptimWrapper`; also prepares the modules of ``amp_modules``."""
        super().initialize_count_status(model, init_counts, max_counts)
        self.autocast_context(model)

    # ------------------------------------------------------------------ float16
    def _run_backward(self, loss: Tensor, **kwargs: Any) -> None:
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        loss.backward(**kwargs)

    def _unscale(self) -> bool:
        """Divide the gradients by the scale; return whether one overflows on any rank (collective)."""
        scaler: Any = self.loss_scaler
        scaler.unscale_(self.optimizer)
        found = list(scaler._found_inf_per_device(self.optimizer).values())
        for flag in found:
            self._guard.agree(flag)  # sharded gradients overflow on one rank alone; the scale has to fall on all
        return any(flag.item() for flag in found)

    def step(self, **kwargs: Any) -> None:
        """As `OptimWrapper.step`; with float16 the gradients are unscaled first, and the scale is adapted after."""
        scaler = self.loss_scaler
        if scaler is None or not any(p.grad is not None for g in self.optimizer.param_groups for p in g["params"]):
            super().step(**kwargs)
            return
        if not self._guard.is_active and self._clipping is None:
            scaler.step(self.optimizer, **kwargs)
            self.num_optimizer_steps += 1
            scaler.update(self._fixed_scale)
            return
        overflow = self._unscale()
        try:
            if not overflow:
                self._num_consecutive_overflows = 0
                super().step(**kwargs)
            elif not self._guard.is_active or self._accept(None):
                self._note_overflow()
        finally:
            scaler.update(self._fixed_scale)

    def _defers(self, on_host: bool) -> bool:
        return self.loss_scaler is None and super()._defers(on_host)

    def _note_overflow(self) -> None:
        self._discard()
        self._num_consecutive_overflows += 1
        if self._num_consecutive_overflows > _MAX_CONSECUTIVE_OVERFLOWS:
            assert self.loss_scaler is not None
            raise FloatingPointError(
                f"float16 gradients overflowed in {self._num_consecutive_overflows} updates in a row, now at a loss "
                f"scale of {self.loss_scaler.get_scale():g}, so no scale helps: use bfloat16, or look for the cause in "
                "float32"
            )

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
        if scaler_state and self.loss_scaler is not None:
            self.loss_scaler.load_state_dict(scaler_state)

    def _device_type(self) -> str:
        return self.optimizer.param_groups[0]["params"][0].device.type


def autocast_for(
    model: nn.Module, dtype: str | torch.dtype | None, amp_modules: list[str] | tuple[str, ...] | None
) -> AbstractContextManager[Any]:
    """Return the context in which a model computes as an `AmpOptimWrapper` with these arguments lets it in training.

    Args:
        model: The model; with ``amp_modules``, its modules are prepared once (see `autocast_modules`).
        dtype: As for `AmpOptimWrapper`.
        amp_modules: As for `AmpOptimWrapper`.
    """
    device_type = next(model.parameters()).device.type
    known = _dtype_of(dtype, device_type)
    if amp_modules is None:
        return torch.autocast(device_type, known)
    autocast_modules(model, amp_modules, known)
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
            close = get_close_matches(name, modules, n=3) or [n for n, _ in model.named_children()]
            raise ValueError(f"amp_modules: {type(model).__name__} has no submodule {name!r}; close are {close}")
        module = unwrap_module(modules[name])
        present = getattr(type(module), "_autocast_dtype", None)
        if "forward" in vars(module):
            raise ValueError(
                f"amp_modules: the forward of {name!r} was replaced on the object itself, which would be called instead"
            )
        if present is None:
            module.__class__ = _autocast_class(type(module), dtype)
        elif present != dtype:
            raise ValueError(f"amp_modules: {name!r} computes in {present} already and was to compute in {dtype}")


def _autocast_class(base: type[nn.Module], dtype: torch.dtype) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tensor = next(self.parameters(), None)
        device_type = "cpu" if tensor is None else tensor.device.type
        with torch.autocast(device_type, dtype):
            output = base.forward(self, *args, **kwargs)
        return tree_map(to_float32, output)

    def to_float32(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == dtype else value

    members = {"forward": forward, "_autocast_dtype": dtype, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


def _dtype_of(dtype: str | torch.dtype | None, device_type: str | None) -> torch.dtype:
    if dtype is None:
        dtype = torch.float16 if device_type == "cuda" else torch.bfloat16
    if not isinstance(dtype, str | torch.dtype):
        raise TypeError(f"dtype must be a str or a torch.dtype; got {dtype!r}")
    known = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if known not in _DTYPES.values():
        raise ValueError(f"dtype of mixed precision must be 'float16' or 'bfloat16'; got {dtype!r}")
    if device_type == "cuda" and known == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise ValueError("this GPU cannot compute in bfloat16; use dtype='float16'")
    assert known is not None
    return known


def _scaler_of(loss_scale: Any, device_type: str) -> tuple[torch.amp.GradScaler, float | None]:
    """Return the scaler, and the scale that it keeps when that is fixed."""
    if isinstance(loss_scale, torch.amp.GradScaler):
        return loss_scale, None
    if loss_scale == "dynamic":
        return torch.amp.GradScaler(device_type), None
    if isinstance(loss_scale, dict):
        return torch.amp.GradScaler(device_type, **loss_scale), None
    if isinstance(loss_scale, int | float) and not isinstance(loss_scale, bool):
        if not loss_scale > 0:
            raise ValueError(f"loss_scale must be greater than 0; got {loss_scale}")
        return torch.amp.GradScaler(device_type, init_scale=float(loss_scale)), float(loss_scale)
    raise TypeError(f"loss_scale must be 'dynamic', a number, a dict or a GradScaler; got {loss_scale!r}")

"""Everything between a loaded model and its optimizer, in one order: convert, freeze, checkpoint, compile, wrap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..dist import get_world_size
from .activation_checkpointing import checkpoint_activations
from .base_module import init_weights
from .freezing import freeze_parameters
from .patterns import as_patterns, match_modules
from .sync_bn import convert_sync_batchnorm
from .wrappers import DDP, FSDP2

__all__ = ["Compile", "ModelSetup", "materialize"]

Wrapper = Callable[[nn.Module, torch.device], nn.Module]


class Compile:
    """Recipe for ``torch.compile`` in place: the module tree and the state keys stay as they are.

    Args:
        modules: Patterns on dotted names of modules to compile one by one, such as ``"backbone.blocks.*"`` (which
            compiles once for all equal blocks); empty compiles the model's whole forward.
        fullgraph: Raise where the graph would break.
        dynamic: Whether shapes may change; None finds out.
        backend: The compiler.
        mode: ``"default"``, ``"reduce-overhead"``, ``"max-autotune"``; None is the default.
        options: Options for the backend.
    """

    def __init__(
        self,
        modules: str | Iterable[str] = (),
        *,
        fullgraph: bool = False,
        dynamic: bool | None = None,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.modules = as_patterns(modules, "Compile modules")
        self.options = {
            "fullgraph": fullgraph,
            "dynamic": dynamic,
            "backend": backend,
            "mode": mode,
            "options": options,
        }

    def __call__(self, model: nn.Module) -> None:
        """Compile ``model`` or the modules named, in place; the work is done at their first call."""
        targets: dict[int, nn.Module] = {}
        for pattern in self.modules:
            for module in match_modules(model, pattern, "Compile modules").values():
                is_container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
                targets.update((id(part), part) for part in (module.children() if is_container else [module]))
        for module in targets.values() if self.modules else [model]:
            module.compile(**self.options)


class ModelSetup:
    """Prepares a model for training on a device.

    The whole order is: build, `init_weights`, load, then `apply`: device, convert, freeze, checkpoint, compile,
    wrap; then the optimizer. Converting comes before freezing because it replaces layers; freezing comes before
    wrapping because DDP waits for the gradient of everything that required one when it was wrapped; wrapping comes
    before the optimizer because FSDP2 replaces the parameters.

    Args:
        freeze: Patterns on names of parameters and modules that are not trained; see `freeze_parameters`.
        sync_bn: Convert batch norm layers to synchronized ones.
        activation_checkpointing: Patterns on names of modules; see `checkpoint_activations`.
        compile: True or `Compile(...)` compiles in place.
        wrapper: `DDP(...)`, `FSDP2(...)` or any callable of (model, device) that returns what to call in training.
            None is ``DDP()``; DDP is left out where there is one rank only, or nothing to train.

    Raises:
        TypeError: An argument has another type.
    """

    def __init__(
        self,
        freeze: str | Iterable[str] = (),
        sync_bn: bool = False,
        activation_checkpointing: str | Iterable[str] = (),
        compile: Compile | bool | None = False,
        wrapper: Wrapper | None = None,
    ) -> None:
        self.freeze = as_patterns(freeze, "freeze")
        self.sync_bn = bool(sync_bn)
        self.activation_checkpointing = as_patterns(activation_checkpointing, "activation_checkpointing")
        if not isinstance(compile, (bool, Compile, type(None))):
            raise TypeError(f"compile of ModelSetup is {compile!r} · accepted are True, False or Compile(...)")
        self.compile = Compile() if compile is True else (compile or None)
        if wrapper is not None and (isinstance(wrapper, type) or not callable(wrapper)):
            raise TypeError(f"wrapper of ModelSetup is {wrapper!r} · accepted are DDP(...), FSDP2(...) or None")
        self.wrapper = wrapper

    def apply(self, model: nn.Module, device: torch.device | str, *, train: bool = True) -> nn.Module:
        """Prepare ``model`` in place. Collective when there are several ranks: every rank must call.

        A model with parameters on the meta device is wrapped first and then given memory and values by `materialize`,
        so that each rank only ever holds its share of it; load its checkpoint afterwards.

        Args:
            model: Initialized and loaded (unless on the meta device).
            device: The device of this rank.
            train: False only moves and compiles: for a run that evaluates.

        Returns:
            What to pass as ``forward`` to the training step: the model itself or its wrapper. Validation, checkpoints
            and hooks go on using the model.

        Raises:
            ValueError: A pattern matches nothing, or ``sync_bn`` is asked of CPU ranks.
        """
        target = torch.device(device)
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        if not on_meta:
            model.to(target)
        if train:
            if self.sync_bn:
                if target.type == "cpu" and get_world_size() > 1:
                    raise ValueError("sync_bn: torch.nn.SyncBatchNorm does not run on CPUs · leave sync_bn out")
                if convert_sync_batchnorm(model) is not model:
                    raise ValueError("sync_bn: the model is itself a batch norm layer · put it inside a module")
            if self.freeze:
                freeze_parameters(model, self.freeze)
            if self.activation_checkpointing:
                checkpoint_activations(model, self.activation_checkpointing)
        if self.compile is not None:
            self.compile(model)
        shards = train and isinstance(self.wrapper, FSDP2)
        if on_meta and not shards:
            materialize(model, target)
        forward = self._wrap(model, target) if train else model
        if on_meta and shards:
            materialize(model, target)
        return forward

    def _wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        wrapper = DDP() if self.wrapper is None else self.wrapper
        trains = any(parameter.requires_grad for parameter in model.parameters())
        if isinstance(wrapper, DDP) and not (trains and get_world_size() > 1):  # one config for one rank and several
            return model
        return wrapper(model, device)

    def __repr__(self) -> str:
        return f"ModelSetup({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def materialize(model: nn.Module, device: torch.device | str) -> None:
    """Give memory and initial values to a model that was built on the meta device.

    Every module with parameters or buffers of its own is reset by its ``reset_parameters``, as torch's layers have
    it; then `init_weights` runs.

    Args:
        model: Changed in place; whole or sharded by FSDP2.
        device: Where its tensors go.

    Raises:
        TypeError: A module holds tensors that nothing would fill.
    """
    blank = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        and not callable(getattr(module, "reset_parameters", None))
    ]
    if blank:
        raise TypeError(
            f"cannot fill what was built on the meta device: {', '.join(blank[:10])} have tensors of their own but no "
            "reset_parameters() · write one, or build the model on a real device"
        )
    model.to_empty(device=device)
    for module in model.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
    init_weights(model)

"""Everything between a loaded model and its optimizer, in one order: convert, freeze, checkpoint, compile, wrap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import nn

from ..dist import get_world_size
from ..errors import UsageTypeError, UsageValueError
from ..text import listed
from .base_module import init_weights
from .conversion import checkpoint_activations, convert_sync_batchnorm
from .external import ExternalModule
from .modes import FreezeMode, freeze_parameters, pin
from .patterns import as_patterns, match_modules
from .wrappers import DDP, FSDP2

Wrapper = Callable[[nn.Module, torch.device], nn.Module]


@dataclass(eq=False)
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

    modules: str | Iterable[str] = ()
    _: KW_ONLY
    fullgraph: bool = False
    dynamic: bool | None = None
    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.modules = as_patterns(self.modules, "Compile modules")

    @property
    def reuses_memory(self) -> bool:
        """Whether outputs lie in memory that the next call writes to (CUDA graphs): who keeps one copies it."""
        return self.mode in ("reduce-overhead", "max-autotune") or "triton.cudagraphs" in (self.options or {})

    def __call__(self, model: nn.Module) -> None:
        """Compile ``model`` or the modules named, in place; the work is done at their first call."""
        parts = match_modules(model, self.modules, "Compile modules", open_containers=True)
        given = {name: value for name, value in vars(self).items() if name != "modules"}
        for module in parts.values() if self.modules else [model]:
            module.compile(**given)


@dataclass(eq=False)
class ModelSetup:
    """Prepares a model for training on a device.

    The whole order is: build, `init_weights`, load, then `apply`: device, convert, freeze, checkpoint, compile,
    wrap; then the optimizer. Converting comes before freezing because it replaces layers; freezing comes before
    wrapping because DDP waits for the gradient of everything that required one when it was wrapped; wrapping comes
    before the optimizer because FSDP2 replaces the parameters.

    Args:
        freeze: Patterns on names of parameters and modules that are not trained; see `freeze_parameters`.
        freeze_mode: ``"eval"``: modules that are frozen whole evaluate (no dropout, statistics stand still).
            ``"train"``: only their norm layers do, as in version 0.1. An attribute that `set_training` reads, so that a
            resumed run can bring the mode with which it began.
        eval: Patterns on names of modules that evaluate while the rest trains, whoever calls ``model.train()``.
        sync_bn: Convert batch norm layers to synchronized ones.
        activation_checkpointing: Patterns on names of modules; see `checkpoint_activations`.
        compile: True or `Compile(...)` compiles in place.
        wrapper: `DDP(...)`, `FSDP2(...)` or any callable of (model, device) that returns what to call in training.
            None is ``DDP()``; DDP is left out where there is one rank only, or nothing to train. One that splits the
            model itself (tensor or context parallel) has ``data_parallel_mesh``, a `DeviceMesh` of one dimension or
            a method that returns it: loaders, seeds and metrics share the data out along it, other ranks see the same.

    Raises:
        TypeError: An argument has another type.
    """

    freeze: str | Iterable[str] = ()
    sync_bn: bool = False
    activation_checkpointing: str | Iterable[str] = ()
    compile: Compile | bool | None = False
    wrapper: Wrapper | None = None
    freeze_mode: FreezeMode = "eval"
    eval: str | Iterable[str] = ()

    def __post_init__(self) -> None:
        if self.freeze_mode not in ("eval", "train"):
            raise UsageValueError(f"freeze_mode of ModelSetup is {self.freeze_mode!r} · accepted are 'eval', 'train'")
        if not isinstance(self.compile, bool | Compile | None):
            raise UsageTypeError(f"compile of ModelSetup is {self.compile!r} · accepted are a bool or Compile(...)")
        if self.wrapper is not None and (isinstance(self.wrapper, type) or not callable(self.wrapper)):
            raise UsageTypeError(f"wrapper of ModelSetup is {self.wrapper!r} · accepted are DDP(...), FSDP2(...), None")
        for name in ("freeze", "eval", "activation_checkpointing"):
            setattr(self, name, as_patterns(getattr(self, name), name))
        if self.compile is True:
            self.compile = Compile()

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
        for module in (m for m in model.modules() if isinstance(m, ExternalModule)) if on_meta else (model,):
            module.to(target)
        if train:
            if self.sync_bn:
                if target.type == "cpu" and get_world_size() > 1:
                    raise UsageValueError("sync_bn: torch.nn.SyncBatchNorm does not run on CPUs · leave sync_bn out")
                if convert_sync_batchnorm(model) is not model:
                    raise UsageValueError("sync_bn: the model is itself a batch norm layer · put it inside a module")
            for module in match_modules(model, self.eval, "eval").values():
                pin(module, "eval")
            if self.freeze:
                freeze_parameters(model, self.freeze, self.freeze_mode)
            checkpoint_activations(model, self.activation_checkpointing)
        if isinstance(self.compile, Compile):
            self.compile(model)
        shards = train and isinstance(self.wrapper, FSDP2)
        if on_meta and not shards:
            materialize(model, target)
        forward = self.wrap(model, target) if train else model
        if on_meta and shards:
            materialize(model, target)
        return forward

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return what to call in training; again after parameters were unfrozen, for which DDP does not wait else."""
        wrapper = DDP() if self.wrapper is None else self.wrapper
        trains = any(parameter.requires_grad for parameter in model.parameters())
        if isinstance(wrapper, DDP) and not (trains and get_world_size() > 1):  # one config for one rank and several
            return model
        return wrapper(model, device)


def materialize(model: nn.Module, device: torch.device | str) -> None:
    """Give memory and initial values to a model that was built on the meta device.

    Every module with parameters or buffers of its own is reset by its ``reset_parameters``, as torch's layers have
    it; then `init_weights` runs. Tied parameters stay tied.

    Args:
        model: Changed in place; whole or sharded by FSDP2.
        device: Where its tensors go.

    Raises:
        TypeError: A module holds tensors that nothing would fill.
    """
    holders = {name: m for name, m in model.named_modules() if [*m.parameters(False), *m.buffers(False)]}
    blank = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in holders.items()
        if not callable(getattr(module, "reset_parameters", None))
    ]
    if blank:
        raise UsageTypeError(
            f"cannot fill what was built on the meta device: {listed(blank)} have tensors of their own but no "
            "reset_parameters() · write one, or build the model on a real device"
        )
    places: dict[int, list[tuple[nn.Module, str]]] = {}  # to_empty makes two parameters of one that is tied
    for module in holders.values():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append((module, name))
    for module in holders.values():
        module.to_empty(device=device, recurse=False)
    for (first, name), *others in places.values():
        for module, other in others:
            if getattr(module, other) is not getattr(first, name):
                setattr(module, other, getattr(first, name))
    for module in holders.values():
        module.reset_parameters()  # pyright: ignore[reportCallIssue]
    init_weights(model)

"""Activation checkpointing of modules by name: recompute their activations in the backward pass to save memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .patterns import as_patterns, match_modules

__all__ = ["checkpoint_activations"]


def checkpoint_activations(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """Recompute the activations of the named modules in the backward pass instead of keeping them.

    Uses ``torch.utils.checkpoint`` in its non-reentrant form. Only the modules' ``forward`` is replaced: the module
    tree, the state keys and the results stay as they are, and dropout draws the same numbers again. Where a pattern
    matches a module and modules inside it, the outer one is checkpointed; for a ``ModuleList`` or ``ModuleDict``
    its children are.

    Args:
        model: Changed in place.
        patterns: Shell-style patterns on the dotted names of modules, such as ``"backbone.blocks.*"``.

    Returns:
        The names of the checkpointed modules, in the order of the model.

    Raises:
        ValueError: A pattern matches no module.
    """
    chosen: dict[str, nn.Module] = {}
    for pattern in as_patterns(patterns, "activation_checkpointing"):
        for name, module in match_modules(model, pattern, "activation_checkpointing").items():
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                chosen.update((f"{name}.{child_name}", child) for child_name, child in module.named_children())
            else:
                chosen[name] = module
    order = [name for name, _ in model.named_modules() if name in chosen]
    outermost = [name for name in order if not any(name.startswith(f"{other}.") for other in order)]
    for name in outermost:
        module = chosen[name]
        if not isinstance(module.__dict__.get("forward"), _CheckpointedForward):
            module.__dict__["forward"] = _CheckpointedForward(module)
    return outermost


class _CheckpointedForward:
    """Stands in for a module's ``forward``; an object, not a closure, so that the module can be copied and pickled."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if not torch.is_grad_enabled():
            return type(module).forward(module, *args, **kwargs)
        return checkpoint(type(module).forward, module, *args, use_reentrant=False, **kwargs)

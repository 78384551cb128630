"""Changes of a model's layers in place: synchronized batch norm, and recomputing activations to save memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UsageValueError
from .patterns import as_patterns, match_modules
from .step import parameters_of

_CACHES = frozenset(("cache", "cache_params", "layer_past", "past_key_value", "past_key_values"))


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every batch norm layer by ``torch.nn.SyncBatchNorm``, which shares statistics between ranks.

    Parameters and buffers are the same objects before and after, so state keys and an existing optimizer stay valid.

    Args:
        module: Changed in place, unless it is itself a batch norm layer.

    Returns:
        The module, or its replacement.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every ``torch.nn.SyncBatchNorm`` by a batch norm layer that takes inputs of any number of dimensions.

    Of use to run a model that was trained in many processes in one, on a CPU too. Parameters and buffers are the same
    objects before and after.

    Args:
        module: Changed in place, unless it is itself a synchronized layer.

    Returns:
        The module, or its replacement.
    """
    if isinstance(module, nn.SyncBatchNorm):
        plain = _BatchNormXd(module.num_features, module.eps, module.momentum)
        plain.affine, plain.track_running_stats = module.affine, module.track_running_stats
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(plain, name, getattr(module, name))
        return plain.train(module.training)
    for name, child in module.named_children():
        reverted = revert_sync_batchnorm(child)
        if reverted is not child:
            setattr(module, name, reverted)
    return module


class _BatchNormXd(nn.BatchNorm1d):
    """Batch norm for inputs ``(N, C, ...)`` of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


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
        ValueError: A pattern matches no module, or a layer that fills a cache, which it would do again.
    """
    patterns = as_patterns(patterns, "activation_checkpointing")
    chosen = match_modules(model, patterns, "activation_checkpointing", open_containers=True)
    outermost = [name for name in chosen if not any(name.startswith(f"{other}.") for other in chosen)]
    for name in outermost:
        module = chosen[name]
        _check_cache(model, name, module)
        if not isinstance(module.__dict__.get("forward"), _CheckpointedForward):
            module.__dict__["forward"] = _CheckpointedForward(module)
    return outermost


def _check_cache(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Refuse a layer that is passed the cache of a model of transformers; a whole model makes a new one each time."""
    is_model, is_encoder = hasattr(layer, "get_input_embeddings"), getattr(layer, "is_decoder", True) is False
    if is_model or is_encoder or not _CACHES & parameters_of(layer).keys():
        return
    parts = name.split(".")
    for depth in reversed(range(len(parts))):
        outer = model.get_submodule(".".join(parts[:depth]))
        config = getattr(outer, "config", None)
        if getattr(config, "use_cache", None):
            where = ".".join(["model", *parts[:depth]])
            raise UsageValueError(
                f"activation_checkpointing: {name!r} fills the cache of {type(outer).__name__} for generation, and "
                f"would do so twice when it is recomputed · set {where}.config.use_cache = False (use_cache=False of "
                "its config class) for the training; generate(use_cache=True) still has a cache"
            )
        if hasattr(config, "use_cache"):
            return


class _CheckpointedForward:
    """Stands in for a module's ``forward``; an object, not a closure, so that the module can be copied and pickled."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def __wrapped__(self) -> Any:
        """What `inspect.signature` looks at."""
        return type(self.module).forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if not torch.is_grad_enabled():
            return type(module).forward(module, *args, **kwargs)
        return checkpoint(type(module).forward, module, *args, use_reentrant=False, **kwargs)

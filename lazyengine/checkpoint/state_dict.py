"""Between a checkpoint's state dict and a model."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .sharded import shard_state

_SHOWN = 10  # keys of a kind in a message


def unwrap_module(module: nn.Module) -> nn.Module:
    """Return the module inside DDP, DataParallel and ``torch.compile`` wrappers, however nested."""
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod  # pyright: ignore[reportAssignmentType]
        elif isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            module = module.module
        else:
            return module


def get_state_dict(
    module: nn.Module, destination: Any = None, prefix: str = "", keep_vars: bool = False
) -> "OrderedDict[str, Any]":
    """Return a module's state dict with the keys that it has without wrappers.

    Args:
        module: A model; DDP, DataParallel and ``torch.compile`` wrappers are looked through, at any depth, so that keys
            have no ``module.`` and no ``_orig_mod.``.
        destination: As for ``nn.Module.state_dict``.
        prefix: Put before every key.
        keep_vars: Keep parameters attached to the graph.

    Returns:
        The tensors by name; module versions are in its attribute ``_metadata``.
    """
    module = unwrap_module(module)
    if not any(unwrap_module(child) is not child for child in module.modules()):
        return module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
    raw = module.state_dict(prefix=prefix, keep_vars=keep_vars)
    renames = _wrapped_prefixes(module, prefix)
    result: Any = OrderedDict() if destination is None else destination
    metadata = getattr(result, "_metadata", OrderedDict())
    result.update((_strip(key, renames), value) for key, value in raw.items())
    metadata.update((_strip(key + ".", renames)[:-1], v) for key, v in getattr(raw, "_metadata", {}).items())
    result._metadata = metadata
    return result


def _wrapped_prefixes(module: nn.Module, prefix: str) -> dict[str, str]:
    """Map the key prefix inside every wrapper below ``module`` to the one without the wrapper's own attribute."""
    renames = {}
    for name, child in module.named_modules(remove_duplicate=False):
        if name and unwrap_module(child) is not child:
            attribute = "_orig_mod." if hasattr(child, "_orig_mod") else "module."
            renames[f"{prefix}{name}.{attribute}"] = f"{prefix}{name}."
    return renames


def _strip(key: str, renames: dict[str, str]) -> str:
    for inner in sorted(renames, key=len, reverse=True):  # the deepest first: outer prefixes still match after it
        if key.startswith(inner):
            key = renames[inner] + key[len(inner) :]
    return key


def weights_to_cpu(state_dict: Any) -> Any:
    """Return a copy of a (nested) state dict with its tensors on the CPU; ``_metadata`` is kept."""
    if isinstance(state_dict, torch.Tensor):
        return state_dict.cpu()
    if isinstance(state_dict, Mapping):
        moved: Any = OrderedDict() if isinstance(state_dict, OrderedDict) else {}
        moved.update((key, weights_to_cpu(value)) for key, value in state_dict.items())
        if hasattr(state_dict, "_metadata"):
            moved._metadata = state_dict._metadata  # pyright: ignore[reportAttributeAccessIssue]
        return moved
    if isinstance(state_dict, (list, tuple)) and not hasattr(state_dict, "_fields"):
        return type(state_dict)(weights_to_cpu(value) for value in state_dict)
    return state_dict


def load_state_dict(
    module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None
) -> "tuple[list[str], list[str]]":
    """Load tensors into a model and report what did not match.

    Tensors of another shape are left out, as is what the model does not know; unlike ``nn.Module.load_state_dict``
    that is no error unless ``strict``. Missing ``num_batches_tracked`` counters are no mismatch. A model that FSDP2
    shards takes its share of whole tensors; then every rank must call.

    Args:
        module: Receives the tensors; DDP, DataParallel and ``torch.compile`` wrappers are looked through.
        state_dict: Tensors by name, keys as ``get_state_dict`` gives them. Versions of modules in its ``_metadata``
            reach their ``_load_from_state_dict``, which converts old layouts.
        strict: Raise where anything does not match. Every rank raises.
        logger: Where the report goes as a warning, on rank 0: a ``logging.Logger``, ``"current"``, ``"silent"``, a
            logger's name, or None to print.

    Returns:
        The missing and the unexpected keys.

    Raises:
        RuntimeError: ``strict`` and a mismatch; up to ten keys of each kind are listed, with both shapes. The tensors
            that do match have been loaded.
    """
    module = unwrap_module(module)
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []
    own = get_state_dict(module, keep_vars=True)
    state_dict = shard_state(state_dict, own)
    mismatched = {
        key: (tuple(value.shape), tuple(own[key].shape))
        for key, value in state_dict.items()
        if key in own and hasattr(value, "shape") and hasattr(own[key], "shape") and value.shape != own[key].shape
    }
    _load_recursively(module, state_dict, missing, unexpected, errors)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    report = _report(state_dict, missing, unexpected, mismatched, errors)
    if report and strict:
        raise RuntimeError(report)
    if report:
        from ..dist import is_main_process
        from ..logging import print_log

        if is_main_process():
            print_log(report, logger=logger, level=logging.WARNING)
    return missing, unexpected


def _load_recursively(
    root: nn.Module, source: Mapping[str, Any], missing: list[str], unexpected: list[str], errors: list[str]
) -> None:
    """Call every module's ``_load_from_state_dict``, which collects the keys, as ``nn.Module.load_state_dict`` does."""
    metadata = getattr(source, "_metadata", None) or {}
    everything = OrderedDict(source)  # hooks may change it
    incompatible = nn.modules.module._IncompatibleKeys(missing, unexpected)

    def load(module: nn.Module, state: dict[str, Any], prefix: str) -> None:
        module = unwrap_module(module)
        versions = metadata.get(prefix[:-1], {})
        module._load_from_state_dict(state, prefix, versions, True, missing, unexpected, errors)
        for name, child in module._modules.items():
            if child is not None:
                inner = f"{prefix}{name}."
                load(child, {k: v for k, v in state.items() if k.startswith(inner)}, inner)
        for hook in module._load_state_dict_post_hooks.values():
            hook(module, incompatible)

    load(root, everything, "")


def _report(
    source: Mapping[str, Any],
    missing: list[str],
    unexpected: list[str],
    mismatched: dict[str, tuple[tuple, tuple]],
    errors: list[str],
) -> str:
    shapes = [f"{key}: {theirs} in the checkpoint, {ours} in the model" for key, (theirs, ours) in mismatched.items()]
    others = [e for e in errors if not any(f"size mismatch for {key}:" in e for key in mismatched)]
    parts = []
    for title, keys in (
        ("missing in the checkpoint", missing),
        ("unknown to the model", unexpected),
        ("of another shape", shapes),
        ("that could not be loaded", others),
    ):
        if keys:
            more = [f"... and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
            parts.append(f"{len(keys)} {title}:\n    " + "\n    ".join([*keys[:_SHOWN], *more]))
    if not parts:
        return ""
    if missing and unexpected and not any(key in source for key in missing):
        parts.append(_prefix_hint(missing, unexpected, len(unexpected) == len(source)))
    return "\n  ".join(["the model and the checkpoint do not match exactly", *filter(None, parts)])


def _prefix_hint(missing: list[str], unexpected: list[str], is_nothing_known: bool) -> str:
    """Say which prefix would make keys match, when one explains at least half of the missing keys."""
    ours, theirs = set(missing), set(unexpected)
    for prefix in {key[: -len(m)] for key in unexpected for m in missing[:1] if key.endswith(m)} - {""}:
        if sum(prefix + key in theirs for key in ours) * 2 >= len(ours):
            return f"the checkpoint's keys start with {prefix!r}: revise_keys=[(r'^{prefix}', '')] would remove it"
    for prefix in {key[: -len(u)] for key in missing for u in unexpected[:1] if key.endswith(u)} - {""}:
        if is_nothing_known and sum(prefix + key in ours for key in theirs) * 2 >= len(theirs):
            return f"the model's keys start with {prefix!r}: revise_keys=[(r'^', {prefix!r})] would add it"
    return ""

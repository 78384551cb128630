"""Between a checkpoint's state dict and a model."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ..dist import is_main_process
from ..errors import UsageRuntimeError
from ..logging import print_log
from ..plain import rebuild
from .shards import shard_state

_COUNTER = "num_batches_tracked"
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
) -> OrderedDict[str, Any]:
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
    plain = _plain_names(module, prefix)
    raw = module.state_dict(prefix=prefix, keep_vars=keep_vars)
    result: Any = OrderedDict() if destination is None else destination
    metadata = getattr(result, "_metadata", OrderedDict())
    result.update((plain(key), value) for key, value in raw.items())
    metadata.update((plain(key), version) for key, version in getattr(raw, "_metadata", {}).items())
    result._metadata = metadata
    return result


def _plain_names(module: nn.Module, prefix: str = "") -> Callable[[str], str]:
    """Return a function that removes from a key what wrappers inside a module have put there."""
    inside: set[str] = set()
    for name, child in module.named_modules(remove_duplicate=False):
        if unwrap_module(child) is not child:
            inside.add(f"{prefix}{name}._orig_mod" if hasattr(child, "_orig_mod") else f"{prefix}{name}.module")

    def plain(key: str) -> str:
        parts = key.split(".")
        return ".".join(part for i, part in enumerate(parts, 1) if ".".join(parts[:i]) not in inside)

    return plain


def weights_to_cpu(state_dict: Any) -> Any:
    """Return a copy of a (nested) state dict with its tensors on the CPU; ``_metadata`` is kept."""
    return rebuild(state_dict, lambda value, _: value.cpu() if isinstance(value, torch.Tensor) else value)


def load_state_dict(
    module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None
) -> tuple[list[str], list[str]]:
    """Load tensors into a model and report what did not match.

    Tensors of another shape, and integers for a weight, are left out, as is what the model does not know; unlike
    ``nn.Module.load_state_dict`` that is no error unless ``strict``. Missing ``num_batches_tracked`` counters are no
    mismatch. A model that FSDP2 shards takes its share of whole tensors; then every rank must call.

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
    loaded = load_tensors(module, state_dict)
    report_mismatch(loaded.report, strict, logger)
    return loaded.missing, loaded.unexpected


class Loaded(NamedTuple):
    """What came of loading: keys that only one side has, an empty or long report, and whether any weight came in."""

    missing: list[str]
    unexpected: list[str]
    report: str
    has_weights: bool


def load_tensors(module: nn.Module, state_dict: Mapping[str, Any]) -> Loaded:
    """Load what fits, as `load_state_dict` does, without reporting it."""
    module = unwrap_module(module)
    own, plain = get_state_dict(module, keep_vars=True), _plain_names(module)
    apart = _untied(state_dict, own)
    state_dict = shard_state(state_dict, own)
    shapes = {key: (shape_of(value), shape_of(own[key])) for key, value in state_dict.items() if key in own}
    mismatched: dict[str, Any] = {k: pair for k, pair in shapes.items() if pair[1] is not None and pair[0] != pair[1]}
    # codes of a quantized weight are no weight, phases have no sign
    for key in [key for key in shapes if key not in mismatched]:
        if isinstance(own[key], nn.Parameter) and _kind(state_dict[key]) != _kind(own[key]):
            mismatched[key] = (state_dict[key].dtype, own[key].dtype)
    raw: Any = module.state_dict()
    inner = {plain(key): key for key in (*raw._metadata, *raw)}
    given: Any = OrderedDict((inner.get(k, k), value) for k, value in state_dict.items() if k not in mismatched)
    given._metadata = {inner.get(k, k): version for k, version in getattr(state_dict, "_metadata", {}).items()}
    result = module.load_state_dict(given, strict=False)
    filled = {id(own[key]) for key in shapes.keys() - mismatched.keys()}  # a tied weight has one name in some files
    missing = [k for k in map(plain, result.missing_keys) if k not in mismatched and not k.endswith(_COUNTER)]
    missing = [key for key in missing if key not in own or id(own[key]) not in filled]
    unexpected = [plain(key) for key in result.unexpected_keys]
    wanted = weights_in(own)
    has_weights = not wanted or not wanted <= {*missing, *mismatched}
    return Loaded(missing, unexpected, _report(missing, unexpected, mismatched, apart), has_weights)


def _untied(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return the names of one tensor of a model that have several values in a state dict; the last one is loaded."""
    tied: dict[int, list[str]] = {}
    for key, value in own.items():
        if isinstance(given := state_dict.get(key), torch.Tensor) and given.shape == getattr(value, "shape", None):
            tied.setdefault(id(value), []).append(key)
    groups = [keys for keys in tied.values() if len(keys) > 1]
    return [", ".join(k) for k in groups if not all(torch.equal(state_dict[k[-1]], state_dict[key]) for key in k)]


def _kind(tensor: Any) -> tuple[bool, bool]:
    return tensor.dtype.is_floating_point, tensor.dtype.is_complex


def weights_in(own: Mapping[str, Any]) -> set[str]:
    """Return the keys that make a model's weights: its parameters; of a model without any, its buffers."""
    parameters = {key for key, value in own.items() if isinstance(value, nn.Parameter)}
    return parameters or {key for key in own if not key.endswith((_COUNTER, "_extra_state"))}


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor; None for other values, and where a layer finds out at its first batch."""
    if nn.parameter.is_lazy(value) or not hasattr(value, "shape"):
        return None
    return tuple(value.shape)


def report_mismatch(report: str, strict: bool, logger: Any) -> None:
    """Raise or log a report that is not empty.

    Raises:
        UsageRuntimeError: With `strict`.
    """
    if report and strict:
        raise UsageRuntimeError(report)
    if report and is_main_process():
        print_log(report, logger=logger, level=logging.WARNING)


def _report(missing: list[str], unexpected: list[str], mismatched: dict[str, tuple[Any, Any]], apart: list[str]) -> str:
    shapes = [f"{key}: {theirs} in the checkpoint, {ours} in the model" for key, (theirs, ours) in mismatched.items()]
    titles = ("missing in the checkpoint", "unknown to the model", "of another shape or kind of number")
    titles += ("shared in the model and several tensors in the checkpoint, the last of which is taken",)
    parts = []
    for title, keys in zip(titles, (missing, unexpected, shapes, apart)):
        if keys:
            more = [f"... and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
            parts.append(f"{len(keys)} {title}:\n    " + "\n    ".join([*keys[:_SHOWN], *more]))
    if not parts:
        return ""
    parts.append(_prefix_hint(missing, unexpected))
    return "\n  ".join(["the model and the checkpoint do not match exactly", *filter(None, parts)])


def _prefix_hint(missing: list[str], unexpected: list[str]) -> str:
    """Return a sentence on the prefix that would make at least half of the keys match, or an empty text."""
    for ours, theirs, hint in (
        (missing, unexpected, "the checkpoint's keys start with {0!r}: revise_keys=[(r'^{1}', '')] would remove it"),
        (unexpected, missing, "the model's keys start with {0!r}: revise_keys=[(r'^', {0!r})] would add it"),
    ):
        for prefix in {key[: -len(ours[0])] for key in theirs if ours and key.endswith("." + ours[0])}:
            if sum(prefix + key in theirs for key in ours) * 2 >= len(ours):
                return hint.format(prefix, re.escape(prefix))
    return ""

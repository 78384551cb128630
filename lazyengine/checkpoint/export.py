"""Give checkpoints away: as safetensors, or several averaged into one."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..fileio import atomic_write
from .errors import CheckpointError
from .loading import state_dict_of
from .reading import read_checkpoint


def export_safetensors(state_dict: Mapping[str, Any], path: str | os.PathLike[str]) -> list[str]:
    """Write the tensors of a state dict as a safetensors file.

    Tensors that share memory are written once each, since the format has no sharing.

    Args:
        state_dict: Tensors by name; entries that are no tensors (``_extra_state``) are left out.
        path: The file; written atomically.

    Returns:
        The names left out.

    Raises:
        CheckpointError: There is no tensor, or safetensors is not installed.
    """
    try:
        from safetensors.torch import save  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError("safetensors is not installed: pip install 'lazyengine[export]'") from error
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"nothing to export: the state dict has no tensors, only {list(state_dict)[:10]}")
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    return [key for key in state_dict if key not in tensors]


def average_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> "OrderedDict[str, Any]":
    """Average the models of several checkpoints ("model soup", or the last epochs of one run).

    Floating-point and complex tensors are summed in float64 and divided; all others are taken from the last checkpoint.
    Only one checkpoint is in memory beside the sums. Statistics of batch normalization are averaged too, which is not
    what the averaged network would measure: run some training batches through it if it has such layers.

    Args:
        paths: At least one checkpoint, each with the same keys and shapes.

    Returns:
        The averaged state dict, with the dtypes of the last checkpoint.

    Raises:
        CheckpointError: Keys or shapes differ; the first ones and the file are named.
        ValueError: ``paths`` is empty.
    """
    if not paths:
        raise ValueError("average_checkpoints needs at least one checkpoint")
    sums: dict[str, torch.Tensor] = {}
    last: Mapping[str, Any] = {}
    for number, path in enumerate(paths):
        state = state_dict_of(read_checkpoint(path, skip_objects=True), os.fspath(path))
        if number:
            _require_same(last, state, os.fspath(paths[0]), os.fspath(path))
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
                wide = value.to(torch.complex128 if value.is_complex() else torch.float64)
                sums[key] = sums[key].add_(wide) if number else wide.clone()
        last = state
    result: OrderedDict[str, Any] = OrderedDict(last)
    for key, total in sums.items():
        result[key] = (total / len(paths)).to(last[key].dtype)
    result._metadata = getattr(last, "_metadata", OrderedDict())  # pyright: ignore[reportAttributeAccessIssue]
    return result


def _require_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], first: str, path: str) -> None:
    keys = sorted(set(ours) ^ set(theirs))
    shapes = [
        f"{key}: {tuple(ours[key].shape)} and {tuple(theirs[key].shape)}"
        for key in ours
        if key in theirs and getattr(ours[key], "shape", None) != getattr(theirs[key], "shape", None)
    ]
    if keys or shapes:
        what = [f"only one has {keys[:10]}"] if keys else []
        what += [f"shapes differ: {'; '.join(shapes[:10])}"] if shapes else []
        raise CheckpointError(f"cannot average {first} and {path}: {'; '.join(what)}")

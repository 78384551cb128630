"""Describe a batch in an error message."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from .. import _torch, dist
from ..logging import output_path

_MAX_ITEMS = 6


def note_batch(error: Exception, where: str, batch: Any) -> None:
    """Add to an error where it happened and on which batch, and what to do when the memory was too small."""
    error.add_note(f"in {where} on {describe_batch(batch)}")
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_initialized():
        path = output_path(f"out_of_memory_rank{dist.get_rank()}.pickle")
        if _torch.write_memory_snapshot(path):
            error.add_note(
                f"what the memory holds: {path}, for pytorch.org/memory_viz; with ProfilerHook(profile_memory=True) it "
                "also says from where each block was asked for"
            )
    if "Expected more than 1 value per channel" in str(error):
        instead = "raise batch_size, or leave an incomplete last batch out by drop_last=True"
        error.add_note(f"BatchNorm cannot train on a batch of 1: {instead}")
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        error.add_note(
            "out of memory: lower batch_size and raise accumulative_counts by the same factor, compute in bfloat16 "
            "with AmpOptimWrapper, or recompute activations with model_setup.activation_checkpointing"
        )


def describe_batch(batch: Any, depth: int = 0) -> str:
    """Return shapes and types of a batch, for example ``(float32[16, 1, 8, 8], int64[16])``; reads no values."""
    if hasattr(batch, "shape") and hasattr(batch, "dtype"):
        device = getattr(batch, "device", None)
        where = f"@{device}" if device is not None and str(device) != "cpu" else ""
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}{where}"
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        batch = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    if depth >= 3:
        return type(batch).__name__
    if isinstance(batch, dict):
        items = [f"{key}: {describe_batch(value, depth + 1)}" for key, value in list(batch.items())[:_MAX_ITEMS]]
        return "{" + ", ".join(items) + (", …" if len(batch) > _MAX_ITEMS else "") + "}"
    if isinstance(batch, list | tuple):
        items = [describe_batch(value, depth + 1) for value in batch[:_MAX_ITEMS]]
        more = f", … {len(batch)} in all" if len(batch) > _MAX_ITEMS else ""
        open_, close = "[]" if isinstance(batch, list) else "()"
        return open_ + ", ".join(items) + more + close
    return type(batch).__name__

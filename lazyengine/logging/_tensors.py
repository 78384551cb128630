"""Reading one-element tensors: at once where that needs no wait, else many in one copy."""

from __future__ import annotations

from typing import Any

import torch


def to_host(tensors: list[torch.Tensor]) -> list[float]:
    """Values of one-element tensors on any devices and of any dtypes."""
    kinds: dict[torch.device, dict[torch.dtype, list[int]]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault(tensor.device, {}).setdefault(tensor.dtype, []).append(i)
    result: list[Any] = [0.0] * len(tensors)
    for device, by_dtype in kinds.items():
        order = [i for indices in by_dtype.values() for i in indices]
        stacks = [torch.stack([tensors[i] for i in indices]) for indices in by_dtype.values()]
        if len(stacks) > 1 and device.type != "mps":  # mps has no float64: there, one copy for each dtype
            stacks = [torch.cat([stack.to(torch.float64) for stack in stacks])]
        values = [value for stack in stacks for value in stack.cpu().tolist()]
        for i, value in zip(order, values):
            result[i] = float(value) if tensors[i].is_floating_point() else int(value)
    return result


def is_on_host(tensor: torch.Tensor) -> bool:
    """Whether reading the tensor needs no wait."""
    return tensor.is_cpu


def keep_value(tensor: torch.Tensor) -> torch.Tensor | float:
    """Return the value where reading it needs no wait, else a tensor that holds it, without its graph."""
    if tensor.numel() != 1:
        raise TypeError(
            f"HistoryBuffer.update: a scalar is recorded, got a tensor of shape {tuple(tensor.shape)}; reduce it first"
        )
    if tensor.__class__ is not torch.Tensor:
        if hasattr(tensor, "full_tensor"):  # a DTensor, as FSDP2 makes them
            tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        tensor = tensor.detach().clone()  # a Parameter will change in place
    if is_on_host(tensor):
        return tensor.item()
    if tensor.dim():
        tensor = tensor.reshape(())
    if tensor.is_inference():
        return tensor.clone()
    # A fresh result is not written to again. One that was written to in place may be a buffer of the model.
    return tensor.detach().clone() if tensor._version else tensor.detach()

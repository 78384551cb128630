"""Recipes for training one model in several ranks, and the way back to the plain model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoint import unwrap_module as unwrap
from .patterns import as_patterns, match_modules

__all__ = ["DDP", "FSDP2", "unwrap"]


class DDP:
    """Recipe for ``torch.nn.parallel.DistributedDataParallel``: every rank holds the whole model.

    Args:
        find_unused_parameters: Allow iterations in which some parameters take no part in the loss; costs a walk
            over the graph in every iteration. Parameters that never take part are better frozen.
        static_graph: Promise that every iteration uses the same parameters in the same way.
        broadcast_buffers: Copy the buffers of rank 0 to all ranks in every training forward. Nothing is sent for a
            model without buffers.
        gradient_as_bucket_view: Let gradients be views of the communication buckets, which saves a copy.
        bucket_cap_mb: Size of the communication buckets in MiB; None is torch's default.
        **options: Any other option of ``DistributedDataParallel``.
    """

    def __init__(
        self,
        *,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        broadcast_buffers: bool = True,
        gradient_as_bucket_view: bool = False,
        bucket_cap_mb: float | None = None,
        **options: Any,
    ) -> None:
        self.options = {
            "find_unused_parameters": find_unused_parameters,
            "static_graph": static_graph,
            "gradient_as_bucket_view": gradient_as_bucket_view,
            "bucket_cap_mb": bucket_cap_mb,
            **options,
        }
        if not broadcast_buffers:  # torch warns of the argument when it is given, although True is its default
            self.options["broadcast_buffers"] = False

    def __call__(self, model: nn.Module, device: torch.device | str) -> nn.Module:
        """Wrap ``model``. Collective: every rank must call.

        Args:
            model: Already on ``device``, with everything frozen that shall be.
            device: The device of this rank.

        Returns:
            The callable to pass as ``forward`` to the training step.

        Raises:
            RuntimeError: No process group is running.
        """
        _check_process_group("DDP")
        target = torch.device(device)
        device_ids = None if target.type == "cpu" else [target if target.index is None else target.index]
        return nn.parallel.DistributedDataParallel(model, device_ids=device_ids, **self.options)

    def __repr__(self) -> str:
        return f"DDP({', '.join(f'{name}={value}' for name, value in self.options.items())})"


class FSDP2:
    """Recipe for ``torch.distributed.fsdp.fully_shard``: splits parameters, gradients, optimizer state over ranks.

    Args:
        modules: Patterns on dotted names of modules that become a unit of communication each, such as
            ``"backbone.blocks.*"``; for a ``ModuleList`` its children do. What is left is one more unit.
        param_dtype: Type for computation and for gathering parameters, such as ``"bfloat16"``; None keeps theirs.
            Batch norm layers compute in float32, the type of their statistics.
        reduce_dtype: Type for reducing gradients; None is ``param_dtype``.
        output_dtype: Type that the forward of the whole model returns floating tensors in; None leaves them.
        reshard_after_forward: Free gathered parameters after the forward pass and gather them again for the
            backward pass: less memory, more communication.
        cpu_offload: Keep parameters, gradients and optimizer state in host memory.

    Raises:
        TypeError: A pattern is not text.
        ValueError: A type is unknown.
    """

    def __init__(
        self,
        modules: str | Iterable[str] = (),
        *,
        param_dtype: str | torch.dtype | None = None,
        reduce_dtype: str | torch.dtype | None = None,
        output_dtype: str | torch.dtype | None = None,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
    ) -> None:
        self.modules = as_patterns(modules, "FSDP2 modules")
        self.param_dtype = _dtype(param_dtype, "param_dtype")
        self.reduce_dtype = _dtype(reduce_dtype, "reduce_dtype")
        self.output_dtype = _dtype(output_dtype, "output_dtype")
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def __call__(self, model: nn.Module, device: torch.device | str) -> nn.Module:
        """Shard ``model`` in place over all ranks. Collective: every rank must call.

        Args:
            model: On ``device`` or on the meta device.
            device: The device of this rank.

        Returns:
            The same module; it is also what to call.

        Raises:
            RuntimeError: No process group is running.
            ValueError: A pattern matches no module.
        """
        _check_process_group("FSDP2")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
        offload_policy = CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy()
        inner = MixedPrecisionPolicy(self.param_dtype, self.reduce_dtype)
        outer = MixedPrecisionPolicy(self.param_dtype, self.reduce_dtype, self.output_dtype)
        units: dict[str, nn.Module] = {}
        for pattern in self.modules:
            for name, module in match_modules(model, pattern, "FSDP2 modules").items():
                is_container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
                units.update(module.named_children() if is_container else [(name, module)])
        wanted = {id(module) for module in units.values()}
        for module in reversed(list(model.modules())):  # inner units first
            if module is model:
                policy = outer
            elif self.param_dtype is not None and isinstance(module, _BatchNorm):
                policy = MixedPrecisionPolicy(torch.float32, torch.float32, self.param_dtype)
            elif id(module) in wanted:
                policy = inner
            else:
                continue
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=self.reshard_after_forward,
                mp_policy=policy,
                offload_policy=offload_policy,
            )
        return model

    def __repr__(self) -> str:
        return f"FSDP2({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 shards ``model``; looks at no module that is not imported yet."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def reshard(model: nn.Module) -> None:
    """Let every part of a model that FSDP2 shards hold this rank's share alone, as it does outside of its forward.

    With ``reshard_after_forward=False`` a forward without a backward leaves whole parameters behind.
    """
    if not is_sharded(model):  # looked at in every iteration
        return
    for module in model.modules():
        if is_sharded(module):
            module.reshard()  # type: ignore[operator]


def _check_process_group(wrapper: str) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError(
            f"{wrapper} needs several processes that know one another, and no process group is running · start with "
            "torchrun --nproc_per_node=N, or leave the wrapper out"
        )


def _dtype(dtype: str | torch.dtype | None, argument: str) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(
            f"{argument} of FSDP2 is {dtype!r} · accepted are 'bfloat16', 'float16', 'float32' or a torch.dtype"
        )
    return found

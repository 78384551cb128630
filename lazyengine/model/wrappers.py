"""Recipes for training one model in several ranks, and a look at the parameters that take no part."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import batch_norms
from ..errors import UsageRuntimeError, UsageTypeError, UsageValueError
from ..logging import print_log
from ..text import did_you_mean, listed, table
from .patterns import as_patterns, match_modules

_LEFT_ALONE = {"static_graph", "mixed_precision"}  # with them torch must see the model's own first iteration


class DDP:
    """Recipe for ``torch.nn.parallel.DistributedDataParallel``: every rank holds the whole model.

    Args:
        find_unused_parameters: Allow iterations in which some parameters take no part in the loss; costs a walk
            over the graph in every iteration. Parameters that never take part are better frozen.
        broadcast_buffers: Copy the buffers of rank 0 to all ranks in every training forward. Nothing is sent for a
            model without buffers.
        **options: Other options of ``DistributedDataParallel``: ``static_graph`` promises that every iteration uses the
            same parameters in the same way (with it, and with ``mixed_precision``, the first step behind a resume on
            three ranks or more may differ in the last bits), ``gradient_as_bucket_view`` saves a copy of the gradients,
            ``bucket_cap_mb`` is the size of the communication buckets in MiB.

    Raises:
        TypeError: ``DistributedDataParallel`` has no such option.
    """

    def __init__(self, *, find_unused_parameters: bool = False, broadcast_buffers: bool = True, **options: Any) -> None:
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        for name in options:
            if name not in known:
                raise UsageTypeError(f"DDP has no option {name!r}.{did_you_mean(name, known)}")
        self.options = {"find_unused_parameters": find_unused_parameters, **options}
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
        wrapped = _NamingDDP(model, device_ids=device_ids, **self.options)
        is_sparse = any(getattr(module, "sparse", False) for module in model.modules())
        if torch.distributed.get_world_size() > 2 and not is_sparse and not self.options.keys() & _LEFT_ALONE:
            wrapped.settle_buckets()
        return wrapped

    def __repr__(self) -> str:
        return f"DDP({', '.join(f'{name}={value}' for name, value in self.options.items())})"


class _Leaves(nn.Module):
    """Returns the trained parameters of a model as they are; a backward pass reaches the last one first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> list[Tensor]:
        return [each.view_as(each) for each in self.model.parameters() if each.requires_grad]


class _NamingDDP(nn.parallel.DistributedDataParallel):
    """Names the parameters without a gradient, which torch numbers when the next iteration begins."""

    def settle_buckets(self) -> None:
        """Let torch sort the gradients into buckets anew before the first iteration, instead of behind it.

        Three ranks and more add a gradient up in an order that its place in a bucket decides: the first iteration of a
        resumed run would differ in the last bits from that of a run that was not stopped.
        """
        model, gradients = self.module, [(each, each.grad) for each in self.module.parameters()]
        self.module = _Leaves(model)
        outputs = self()
        torch.autograd.backward(outputs, [each.new_zeros(()).expand_as(each) for each in outputs])
        self.module = model
        for parameter, gradient in gradients:
            parameter.grad = gradient

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        try:
            return super().forward(*inputs, **kwargs)
        except RuntimeError as error:
            numbers = re.search(r"indices which did not receive grad for rank \d+: ([\d ]+)", str(error))
            if self.find_unused_parameters or numbers is None:
                raise
            trained = [name for name, value in self.module.named_parameters() if value.requires_grad]
            names = [trained[int(number)] for number in numbers[1].split()]
            raise RuntimeError(
                f"{len(names)} trained parameters took no part in the loss of the iteration before: "
                f"{listed(names, 8)}. DDP waits for their gradients: freeze what never takes part "
                "(ModelSetup(freeze=[...])); where it does in other iterations, set "
                "ModelSetup(wrapper=DDP(find_unused_parameters=True)). "
                "lazyengine.model.detect_anomalous_params(loss, model) lists them before a backward."
            ) from error


@dataclass(eq=False)
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

    modules: str | Iterable[str] = ()
    _: KW_ONLY
    param_dtype: str | torch.dtype | None = None
    reduce_dtype: str | torch.dtype | None = None
    output_dtype: str | torch.dtype | None = None
    reshard_after_forward: bool = True
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        self.modules = as_patterns(self.modules, "FSDP2 modules")
        for name in ("param_dtype", "reduce_dtype", "output_dtype"):
            given = getattr(self, name)
            dtype = getattr(torch, given, None) if isinstance(given, str) else given
            if (dtype is not None and not isinstance(dtype, torch.dtype)) or (dtype is None) != (given is None):
                raise UsageValueError(
                    f"{name} of FSDP2 is {given!r} · accepted are 'bfloat16', 'float16', 'float32' or a torch.dtype"
                )
            setattr(self, name, dtype)

    def __call__(self, model: nn.Module, device: torch.device | str) -> nn.Module:
        """Shard ``model`` in place over all ranks. Collective: every rank must call.

        Args:
            model: On ``device`` or on the meta device.
            device: The device of this rank.

        Returns:
            The same module; it is also what to call.

        Raises:
            RuntimeError: No process group is running.
            ValueError: A pattern matches no module, or parts a tied parameter between two units.
        """
        _check_process_group("FSDP2")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
        offload_policy = CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy()
        options: Any = dict(mesh=mesh, reshard_after_forward=self.reshard_after_forward, offload_policy=offload_policy)
        dtypes: list[Any] = [self.param_dtype, self.reduce_dtype, self.output_dtype]
        inner, outer = MixedPrecisionPolicy(*dtypes[:2]), MixedPrecisionPolicy(*dtypes)
        units = set(match_modules(model, self.modules, "FSDP2 modules", open_containers=True).values())
        _check_ties(model, units)
        for module in reversed(list(model.modules())):  # inner units first
            if module is model:
                policy = outer
            elif self.param_dtype is not None and isinstance(module, batch_norms()):
                policy = MixedPrecisionPolicy(torch.float32, torch.float32, dtypes[0])
            elif module in units:
                policy = inner
            else:
                continue
            fully_shard(module, mp_policy=policy, **options)
        return model


def detect_anomalous_params(loss: Tensor, model: nn.Module) -> list[str]:
    """Write to the log which trained parameters ``loss`` does not depend on, and return their names.

    Args:
        loss: What ``backward()`` is called on; call this before.
        model: The model that made the loss.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    gradients: Any = [None] * len(trained)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
    names = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
    if names:
        listing = table([(name, tuple(trained[name].shape)) for name in names], indent="  ", gap=" ")
        text = "trained parameters take no part in the loss; freeze them, or set find_unused_parameters of DDP"
        print_log(f"{len(names)} {text}:\n{listing}", "current", logging.ERROR)
    return names


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 shards ``model``; looks at no module that is not imported yet."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def reshard(model: nn.Module) -> None:
    """Let every part of a model that FSDP2 shards hold this rank's share alone, as it does outside of its forward.

    With ``reshard_after_forward=False`` a forward without a backward leaves whole parameters behind.
    """
    for module in model.modules() if is_sharded(model) else ():
        if is_sharded(module):
            module.reshard()  # type: ignore[operator]


def _check_ties(model: nn.Module, units: set[nn.Module]) -> None:
    seen: dict[int, tuple[str, str]] = {}  # the name of a parameter, and of the unit that holds it
    owners = {"": ""}
    for path, module in model.named_modules(remove_duplicate=False):
        owners[path] = path if module in units else owners[path.rpartition(".")[0]]
        for name, parameter in module.named_parameters(path, recurse=False, remove_duplicate=False):
            first, unit = seen.setdefault(id(parameter), (name, owners[path]))
            if unit != owners[path]:
                apart = listed(repr(each) for each in (unit, owners[path]) if each)
                raise UsageValueError(
                    f"FSDP2 modules: {first} and {name} are one tied parameter, and each unit keeps its own · take "
                    f"{apart} out of modules, so that the unit of what is left holds it, or name a module around both"
                )


def _check_process_group(wrapper: str) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise UsageRuntimeError(
            f"{wrapper} needs several processes that know one another, and no process group is running · start with "
            "torchrun --nproc_per_node=N, or leave the wrapper out"
        )

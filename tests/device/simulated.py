"""A CUDA device on a machine without one: its tensors claim to be there and are computed on the host.

What a real device would make the host wait for is noted, with the lines that asked for it. A copy to the host that does
not wait holds garbage until the host has waited for what was recorded behind it, as on a real device. Not simulated are
autocast, storages (and so checkpoints) and several devices.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # which looks at what is replaced here
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
_ATEN: Any = torch.ops.aten
# Of these the host waits for the result, or for its size.
_READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class OnDevice(torch.Tensor):
    """A tensor of the device. To torch's own code it is a meta tensor, which autograd handles on any machine."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        shell = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        make: Any = torch.Tensor._make_subclass
        return make(cls, shell, False, device_for_backend_keys=DEVICE)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} came from outside of the simulated device")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        if id(self) not in memo:
            copied = memo[id(self)] = OnDevice(self.held.clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True  # type: ignore[attr-defined]
        return memo[id(self)]

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


class _WithIndex(TorchFunctionMode):
    """Gives the device its index in calls of torch, which would ask the driver for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.device:
            args, kwargs = tree_map(_with_index, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _with_index(value: Any) -> Any:
    return DEVICE if isinstance(value, str | torch.device) and str(value) == "cuda" else value


class SimulatedDevice(TorchDispatchMode):
    """The device.

    Attributes:
        waits: For each time that the host waited: the operator, and the lines that asked for it, innermost first.
        under_way: Copies to the host that nobody has waited for: where to, and what.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def wait(self, what: str) -> None:
        """Let the host wait for everything."""
        frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__]
        lines = (f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[:-7:-1])
        self.waits.append(f"{what} in {' < '.join(lines)}")
        self.arrive(self.under_way)

    def arrive(self, copies: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Let copies to the host arrive."""
        for target, value in copies:
            target.copy_(value)
        self.under_way = [each for each in self.under_way if all(each is not other for other in copies)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        on_device = [each for each in given if isinstance(each, OnDevice)]
        asked = kwargs.get("device")
        if func is _ATEN.empty_strided.default and asked == torch.device("meta"):  # a shell
            return func(*args, **kwargs)
        is_there = bool(on_device) if asked is None else torch.device(asked).type in ("cuda", "meta")
        if not is_there and not on_device:
            return func(*args, **kwargs)
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        is_blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        free = lambda each: each.held if isinstance(each, OnDevice) else each  # noqa: E731
        held_args, held_kwargs = tree_map(free, (args, kwargs))
        to_host = not is_there if name == "_to_copy" else not isinstance(args[0], OnDevice)
        if name in ("_to_copy", "copy_") and on_device and to_host:
            return self._to_host(name, held_args, held_kwargs, is_blocking)
        if name in ("_to_copy", "copy_", "_foreach_copy_") and len(on_device) < len(given) and is_blocking:
            self.wait(f"{name} to the device")
        if name in _READS or (name in _INDEXING and any(e is not None and e.dtype == torch.bool for e in args[1])):
            self.wait(name)
        owners = {id(each.held): each for each in on_device}

        def own(each: Any) -> Any:
            if not isinstance(each, torch.Tensor):
                return each
            return owners[id(each)] if id(each) in owners else OnDevice(each)

        result = func(*held_args, **held_kwargs)
        return tree_map(own, result) if is_there else result

    def _to_host(self, name: str, args: Any, kwargs: Any, is_blocking: bool) -> torch.Tensor:
        kwargs.pop("non_blocking", None)
        value = _ATEN._to_copy(args[0], **kwargs) if name == "_to_copy" else args[1].to(args[0].dtype, copy=True)
        target = torch.empty_like(value) if name == "_to_copy" else args[0]
        target.fill_(torch.nan if target.is_floating_point() else 77)
        self.under_way.append((target, value))
        if is_blocking:
            self.wait(f"{name} to the host")
        return target


def _event_class(device: SimulatedDevice) -> type:
    class Event:
        """Knows which copies were under way when it was recorded, on a stream of its own device."""

        def __init__(self, where: Any = None, *, enable_timing: bool = False) -> None:
            self.where, self.before = where, None
            self.is_timed = enable_timing

        def record(self, stream: Any = None) -> None:
            assert self.is_timed or stream == ("stream", self.where.index), "that may be a stream of another device"
            self.before = list(device.under_way)

        def synchronize(self) -> None:
            assert self.before is not None, "it was never recorded"
            device.arrive(self.before)

        def query(self) -> bool:
            return self.before is not None

        def elapsed_time(self, other: Any) -> float:
            assert self.is_timed
            assert other.query()
            return 1.0

    return Event


@contextlib.contextmanager
def simulated_device() -> Iterator[SimulatedDevice]:
    """Let ``cuda:0`` be a simulated device inside."""
    device = SimulatedDevice()
    event = _event_class(device)
    index_of = torch.cuda._utils._get_device_index
    fakes: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda where: index_of(where),  # which refuses a device without an index, as torch does
        "synchronize": lambda where=None: device.wait("synchronize"),
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda *_: 3 << 20,
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "is_bf16_supported": lambda *_: True,
        "default_generators": (torch.Generator(),),
        "Event": event,
    }
    with contextlib.ExitStack() as stack:
        for name, fake in fakes.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, fake))
        stack.enter_context(mock.patch.object(torch, "Event", event))
        stack.enter_context(mock.patch.object(torch.accelerator, "is_available", lambda: True))  # noqa: PT008
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda index: ("stream", index)))
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        stack.enter_context(device)
        stack.enter_context(_WithIndex())
        yield device

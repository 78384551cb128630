"""A CUDA device on a machine without one: its tensors claim to be there and are computed on the host.

What a real device would make the host wait for is counted, with the line that asked for it. A copy to the host that
does not wait holds garbage until something was waited for that was recorded behind it, as on a real device.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
_aten: Any = torch.ops.aten
# Of these the host waits for the result, or for its size.
_READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "is_pinned"}
_READS -= {"is_pinned"}


class OnDevice(torch.Tensor):
    """A tensor that is on the device to everyone but the mode, which computes with what it holds."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        # To torch's own code it is a meta tensor, which autograd handles on any machine, with the keys of a device.
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
    """Names the device with its index, which torch would ask the driver for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_with_index, (args, kwargs or {}))
        return func(*args, **kwargs)


def _with_index(value: Any) -> Any:
    return DEVICE if (isinstance(value, str) and value == "cuda") or (isinstance(value, torch.device) and value == torch.device("cuda")) else value


class SimulatedDevice(TorchDispatchMode):
    """The device.

    Attributes:
        waits: For each time that the host had to wait: the operator and the line that asked for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []  # copies to the host: where to, and what

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def wait(self, what: str, number: int | None = None) -> None:
        """Let the host wait: for everything, or for the first copies that were under way."""
        frames = [f for f in traceback.extract_stack()[:-2] if "/torch/" not in f.filename and f.filename != __file__]
        self.waits.append(f"{what} in " + " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames[:-7:-1]))
        self.arrive(number)

    def arrive(self, number: int | None = None) -> None:
        """Let copies to the host arrive."""
        number = len(self.under_way) if number is None else number
        arrived, self.under_way = self.under_way[:number], self.under_way[number:]
        for target, value in arrived:
            target.copy_(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if kwargs.get("device") == torch.device("meta") and func is _aten.empty_strided.default: return func(*args, **kwargs)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        on_device = [each for each in given if isinstance(each, OnDevice)]
        asked = kwargs.get("device")
        is_there = torch.device(asked).type in ("cuda", "meta") if asked is not None else bool(on_device)
        if not is_there and not on_device:
            return func(*args, **kwargs)
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        self._look(name, args, kwargs, given, on_device, is_there)
        owners = {id(each.held): each for each in on_device}
        free = lambda each: each.held if isinstance(each, OnDevice) else each  # noqa: E731
        plain_args, plain_kwargs = tree_map(free, args), tree_map(free, kwargs)
        if name == "_to_copy" and on_device and not is_there:
            return self._to_host(plain_args[0], plain_kwargs)
        if name == "copy_" and on_device and not isinstance(args[0], OnDevice):
            return self._copy_to_host(args, plain_args, kwargs.get("non_blocking", len(args) > 2 and args[2]))
        result = func(*plain_args, **plain_kwargs)

        def wrap(each: Any) -> Any:
            if not isinstance(each, torch.Tensor):
                return each
            return owners[id(each)] if id(each) in owners else OnDevice(each)

        return tree_map(wrap, result) if is_there else result

    def _look(self, name: str, args: Any, kwargs: Any, given: Any, on_device: Any, is_there: bool) -> None:
        """Count what the host would wait for."""
        is_index = name in ("index", "index_put_", "index_put", "_index_put_impl_")
        crosses = is_there and len(on_device) < len(given) and name in ("_to_copy", "copy_", "_foreach_copy_")
        blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if name in _READS or (is_index and any(e is not None and e.dtype == torch.bool for e in args[1])):
            self.wait(name)
        elif crosses and isinstance(args[0], torch.Tensor | list) and blocking:
            if not (name == "copy_" and args[1].dim() == 0 and False):
                self.wait(f"{name} between host and device")

    def _to_host(self, held: torch.Tensor, kwargs: Any) -> torch.Tensor:
        non_blocking = kwargs.pop("non_blocking", False)
        value = _aten._to_copy(held, **kwargs)
        if not non_blocking:
            self.wait("_to_copy to the host")
            return value
        target = torch.full_like(value, torch.nan if value.is_floating_point() else 77)
        self.under_way.append((target, value))
        return target

    def _copy_to_host(self, args: Any, plain_args: Any, non_blocking: bool) -> torch.Tensor:
        if not non_blocking:
            self.wait("copy_ to the host")
            return _aten.copy_(*plain_args[:2])
        args[0].fill_(torch.nan if args[0].is_floating_point() else 77)
        self.under_way.append((args[0], plain_args[1].clone()))
        return args[0]


@contextlib.contextmanager
def simulated_device() -> Iterator[SimulatedDevice]:
    """Let ``cuda:0`` be a simulated device inside."""
    device = SimulatedDevice()

    class Event:
        """Knows which copies were under way before it."""

        def __init__(self, where: Any = None, *, enable_timing: bool = False) -> None:
            assert where is None or torch.device(where).type == "cuda"
            self.moment: float | None = None

        def record(self, stream: Any = None) -> None:
            self.before = list(device.under_way)
            self.moment = 0.0

        def synchronize(self) -> None:
            assert self.moment is not None, "waits for an event that was never recorded"
            for entry in self.before:
                if any(entry is each for each in device.under_way):
                    entry[0].copy_(entry[1])
            device.under_way = [e for e in device.under_way if not any(e is each for each in self.before)]

        def query(self) -> bool:
            return self.moment is not None

        def elapsed_time(self, other: Any) -> float:
            assert None not in (self.moment, other.moment)
            return 1.0

    torch._C._ensureCUDADeviceGuardSet()  # one that does nothing
    torch._C._set_only_lift_cpu_tensors(True)
    real = torch.cuda
    fakes: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda where: real._utils._get_device_index(where),
        "synchronize": lambda where=None: device.wait("synchronize"),
        "empty_cache": lambda: None,
        "memory_allocated": lambda *_: 1 << 20,
        "max_memory_allocated": lambda *_: 3 << 20,
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "is_bf16_supported": lambda *_: True,
        "default_generators": (torch.Generator(),),
        "Event": Event,
    }
    with contextlib.ExitStack() as stack:
        for name, fake in fakes.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, fake))
        stack.enter_context(mock.patch.object(torch, "Event", Event))
        stack.enter_context(mock.patch.object(torch.accelerator, "is_available", lambda: True))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda *_: None))
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with device, _WithIndex():
                yield device
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
            torch._C._set_only_lift_cpu_tensors(False)

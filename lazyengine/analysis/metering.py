"""Counts what one iteration computes and how much memory it holds, operator by operator.

It does so alike for tensors that have values and for those that only have shapes, so that what is planned and what is
measured in a real run are the same numbers.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

from .. import _torch
from ..nesting import iter_leaves

_ATEN: Any = torch.ops.aten
_MORE_FORMULAS = {  # torch's table has those of accelerators
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *qkv, **_: sdpa_flop_count(*qkv[:3]),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda *gqkv, **_: sdpa_backward_flop_count(*gqkv[:4]),
}
_MORE_FORMULAS |= {  # of an LSTM: two products in each step
    _ATEN.mkldnn_rnn_layer: lambda x, w, u, *_, **__: 2 * math.prod(x[:2]) * (math.prod(w) + math.prod(u)),
    _ATEN.mkldnn_rnn_layer_backward: lambda x, w, u, *_, **__: 4 * math.prod(x[:2]) * (math.prod(w) + math.prod(u)),
}
_MAX_GUESSES = 2000  # at one place: a loop until a value is reached would never end
_NOT_COUNTED = ("rnn", "lstm", "gru", "_fft", "_svd", "_qr", "_eig", "_inv", "cholesky", "cdist")  # parts of names
KINDS = ("weights", "averaged weights", "gradients", "optimizer", "data", "activations")


class NeedsValuesError(Exception):
    """What is counted depends on values, which are not there."""


class Meter:
    """Counts FLOPs by phase and module, and the bytes of tensors that are alive by kind and module.

    One multiply-add is two FLOPs. Counted are matrix products, convolutions and attention, by torch's own formulas;
    what is known to compute much and has no formula is named in `uncounted`. A tensor is alive as long as its storage
    is; what a kernel needs for itself while it runs is not seen.

    Args:
        model: Its parameters and buffers are ``"weights"``; modules go by their names in it.
        guess_otherwise: Take a value that is asked for and not there for another one than usual.

    Attributes:
        flops: By phase (``"forward"``, ``"backward"``, ``"step"``) and name of the module at work.
        uncounted: How often operators without a formula were met.
        guesses: Where code outside of torch and the engine asked for values that are not there, and how often.
        total: The bytes that are alive.
        peak: The most of them since `forget_peak`.
        at_peak: The bytes that were alive then by kind (see `KINDS`) and name of a module.
    """

    def __init__(self, model: nn.Module, *, guess_otherwise: bool = False) -> None:
        self.flops: Counter[tuple[str, str]] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.guesses: Counter[str] = Counter()
        self._guess_otherwise = guess_otherwise
        self.peak = 0
        self._formulas = FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS).flop_registry
        self._is_backward = ModuleTracker()  # not entered, for which it refuses `torch.autograd.grad` of a leaf
        self._model = model
        self._names: dict[int, str] = {}  # of modules by id
        self._within: list[str] = []  # modules whose forward runs
        self._backward_of = ""  # module whose backward runs
        self._module_of: dict[int, str] = {}  # parameters by id
        self._alive: dict[int, tuple[Any, int, tuple[str, str]]] = {}
        self._bytes: Counter[tuple[str, str]] = Counter()
        self.total = 0
        self._at_peak: dict[tuple[str, str], int] = {}
        self._is_at_peak = False
        self._flags: dict[int, Tensor] = {}  # that are 0 where all is finite
        self._is_stepping = False
        for name, module in model.named_modules():
            self._names[id(module)] = name
            for each in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                self._module_of.setdefault(id(each), name)
                self.mark("weights", each, name)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Meter]:
        """Count inside."""
        handles = [
            register_optimizer_step_pre_hook(lambda *_: self._set_stepping(True)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self._note_state(optimizer)),
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        for parameter in self._model.parameters():
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(self._note_gradient))
        try:
            with _torch.watching_operators(self._run):
                yield self
        finally:
            for handle in handles:
                handle.remove()

    @property
    def at_peak(self) -> dict[tuple[str, str], int]:
        """Return the bytes that were alive at the peak by kind and module."""
        self._keep_peak()
        return {key: number for key, number in self._at_peak.items() if number}

    def forget_peak(self) -> None:
        """Let the peak be that of what comes."""
        self.peak, self._is_at_peak = self.total, True

    def mark(self, kind: str, value: Any, module: str = "") -> None:
        """Count the tensors in a nesting as of a kind, whether they were known or not."""
        for _, leaf in iter_leaves(value):
            if isinstance(leaf, Tensor):
                self._see(leaf, (kind, module), is_known=True)

    def hold(self, kind: str, number: int) -> None:
        """Count bytes of a kind that stay alive."""
        self._bytes[kind, ""] += number
        self.total += number

    def bytes_of(self, kind: str) -> int:
        """Return the bytes of a kind that are alive now."""
        return sum(number for (each, _), number in self._bytes.items() if each == kind)

    # ------------------------------------------------------------------ inside
    def _run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator is _ATEN._local_scalar_dense.default and not _has_values(args[0]):
            return 0.0 if id(args[0]) in self._flags else self._guess(args[0])
        if operator is _ATEN._amp_foreach_non_finite_check_and_unscale_.default:
            self._flags[id(args[1])] = args[1]  # kept, so that no other tensor gets the id
        if operator is _ATEN.mkldnn_rnn_layer.default and not _has_values(args[0]):
            raise NeedsValuesError("only the kernel of an LSTM knows the memory that it needs")
        outputs = operator(*args, **kwargs)
        packet = getattr(operator, "_overloadpacket", None)
        formula = self._formulas.get(packet)
        module = self._module()
        if formula is not None:
            self.flops[self._phase(), module] += int(formula(*args, **kwargs, out_val=outputs))
        elif any(part in str(packet) for part in _NOT_COUNTED):
            self.uncounted[str(packet)] += 1
        kind = "optimizer" if self._is_stepping else "activations"
        for leaf in outputs if isinstance(outputs, list | tuple) else (outputs,):
            if isinstance(leaf, Tensor):
                self._see(leaf, (kind, module))
        return outputs

    def _guess(self, tensor: Tensor) -> Any:
        """Return a value for one that is not there; where torch or the engine asks, one with which all goes well."""
        known = getattr(tensor, "constant", None)
        if known is not None:
            return known.item()
        frame: Any = sys._getframe(1)
        while frame.f_back and (_of_torch(frame) or frame.f_globals.get("__name__") in (__name__, _torch.__name__)):
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
            return _a_value(tensor.dtype)
        place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        self.guesses[place] += 1
        if self.guesses[place] > _MAX_GUESSES:
            raise NeedsValuesError(f"{place} asks for values over and over")
        return _a_value(tensor.dtype, otherwise=self._guess_otherwise)

    def _see(self, tensor: Tensor, owner: tuple[str, str], is_known: bool = False) -> None:
        if tensor.is_sparse:
            if not _has_values(tensor):
                raise NeedsValuesError("a sparse tensor has as many entries as its values say")
            for part in (tensor._indices(), tensor._values()):
                self._see(part, owner, is_known)
            return
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # of other layouts
            return
        key, size = id(storage), storage.nbytes()
        former = self._alive.get(key)
        if former is not None and former[1] == size and not is_known:
            return
        if former is not None:
            self._forget(key)
        self._alive[key] = (weakref.ref(storage, lambda _: self._forget(key)), size, owner)
        self._bytes[owner] += size
        self.total += size
        if self.total > self.peak:
            self.peak, self._is_at_peak = self.total, True

    def _forget(self, key: int) -> None:
        self._keep_peak()
        found = self._alive.pop(key, None)
        if found is not None:
            _, size, owner = found
            self._bytes[owner] -= size
            self.total -= size

    def _keep_peak(self) -> None:
        if self._is_at_peak:
            self._at_peak, self._is_at_peak = dict(self._bytes), False

    def _note_gradient(self, parameter: Tensor) -> None:
        self.mark("gradients", parameter.grad, self._module_of.get(id(parameter), ""))

    def _note_state(self, optimizer: torch.optim.Optimizer) -> None:
        self._is_stepping = False
        for parameter, state in optimizer.state.items():
            self.mark("optimizer", state, self._module_of.get(id(parameter), ""))

    def _set_stepping(self, is_stepping: bool) -> None:
        self._is_stepping = is_stepping

    def _phase(self) -> str:
        return "step" if self._is_stepping else "backward" if self._is_backward.is_bw else "forward"

    def _module(self) -> str:
        if self._within:
            return self._within[-1]
        return self._backward_of if self._is_backward.is_bw else ""

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if (name := self._names.get(id(module))) is not None:
            self._within.append(name)
            for node in _nodes_of(inputs):
                node.register_prehook(lambda *_: self._go_back_from(name))

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if (name := self._names.get(id(module))) is not None:
            self._within.pop()
            for node in _nodes_of(outputs):
                if node.metadata.setdefault("module", name) == name:  # else a module inside has made it
                    node.register_prehook(lambda *_: self._go_back_into(name))

    def _go_back_into(self, name: str) -> None:
        self._backward_of = name

    def _go_back_from(self, name: str) -> None:
        if self._backward_of == name or self._backward_of.startswith(f"{name}."):  # else the one before has begun
            self._backward_of = name.rpartition(".")[0]


def _nodes_of(value: Any) -> list[Any]:
    leaves = (leaf for _, leaf in iter_leaves(value))
    return [leaf.grad_fn for leaf in leaves if isinstance(leaf, Tensor) and leaf.grad_fn is not None]


def _of_torch(frame: Any) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", "functorch")


def _has_values(tensor: Tensor) -> bool:
    return not hasattr(tensor, "fake_mode")


def _a_value(dtype: torch.dtype, *, otherwise: bool = False) -> Any:
    """Return what a tensor without values is taken for: all is well, all are finite, a loss is 1."""
    if dtype is torch.bool:
        return not otherwise
    return (-1e9 if otherwise else 1.0) if dtype.is_floating_point else 1 + otherwise

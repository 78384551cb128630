"""Which module makes something that is not finite out of what is, in a forward and a backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..nesting import iter_leaves
from ..text import listed


class NotFinite(NamedTuple):
    """The first thing that is not finite although everything that it is made of is.

    Attributes:
        name: Dotted name of the module; empty for the model itself.
        module: The module.
        what: What is not finite: ``"its output"``, or which gradient.
        inputs: Inputs of the module's forward.
        values: What is not finite.
    """

    name: str
    module: nn.Module
    what: str
    inputs: tuple[Any, ...]
    values: Any

    def as_text(self) -> str:
        """Return it as a sentence without its end."""
        shown = (
            f"{self.name} ({type(self.module).__name__})" if self.name else f"the model, {type(self.module).__name__}"
        )
        own = [name for name, value in self.module.named_parameters(recurse=False) if not all_finite(value)]
        return f"{self.what} in {shown}" + (f", whose {listed(own)} is not finite" if own else "")


class FiniteWatch:
    """A context in which the first module is found that makes something not finite out of finite inputs.

    In the forward pass that is the innermost module with finite inputs and an output that is not. Where all outputs are
    finite it is, in the backward pass, the module whose output's gradient is finite and whose parameter's or input's
    gradient is not.

    Args:
        model: The model.
        on_found: Called at once with what was found, inside the pass.

    Attributes:
        found: What was found; None as long as everything is finite.
    """

    def __init__(self, model: nn.Module, on_found: Callable[[NotFinite], object] = lambda found: None) -> None:
        self._model, self._on_found = model, on_found
        self._names = {module: name for name, module in model.named_modules()}
        self._parents = {child: module for module in self._names for child in module.children()}
        self._has_bad_output: set[nn.Module] = set()
        self._between: NotFinite | None = None
        self._handles: list[Any] = []
        self.found: NotFinite | None = None

    def __enter__(self) -> FiniteWatch:
        for module in self._names:
            self._handles.append(module.register_forward_hook(self._after_forward, with_kwargs=True))
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    hook = parameter.register_post_accumulate_grad_hook
                    self._handles.append(hook(lambda each, name=name, m=module: self._parameter_arrived(m, name, each)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self.found is None and self._between is not None:
            self._find(self._between)

    def _find(self, found: NotFinite) -> None:
        if self.found is None:
            self.found = found
            self._on_found(found)

    def _after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = (*args, *kwargs.values())
        if self.found is not None or not all_finite(inputs):
            return
        if not all_finite(output):
            self._find(NotFinite(self._names[module], module, "its output", inputs, output))
            return
        for tensor in _with_gradient(output):
            tensor.register_hook(lambda gradient: self._output_arrived(module, inputs, gradient))
        for tensor in _with_gradient(inputs):
            tensor.register_hook(lambda gradient: self._input_arrived(module, inputs, gradient))

    def _output_arrived(self, module: nn.Module, inputs: Any, gradient: Tensor) -> None:
        if all_finite(gradient):
            return
        self._has_bad_output.add(module)
        is_same = self._between is not None and self._between.module is module  # its last child's output is its own
        if (self._between is None or is_same) and (parent := self._parents.get(module)) is not None:
            what = f"the gradient behind {self._names[module]}"  # unless a module turns out to have it
            self._between = NotFinite(self._names[parent], parent, what, inputs, gradient)

    def _input_arrived(self, module: nn.Module, inputs: Any, gradient: Tensor) -> None:
        if module not in self._has_bad_output and not all_finite(gradient):
            self._find(NotFinite(self._names[module], module, "the gradient of its input", inputs, gradient))

    def _parameter_arrived(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        if module not in self._has_bad_output and parameter.grad is not None and not all_finite(parameter.grad):
            self._find(NotFinite(self._names[module], module, f"the gradient of its {name}", (), parameter.grad))


def all_finite(value: Any) -> bool:
    """Return whether all numbers in a nesting of tensors are finite (of sharded ones, those of this rank)."""
    return all(_is_finite(leaf) for _, leaf in iter_leaves(value))


def broken_buffers(model: nn.Module) -> dict[str, str]:
    """Return the buffers that hold ``"nan"`` or ``"inf"``, by name; waits once for each device.

    Minus infinity, which masks are made of, is none.
    """
    largest: dict[torch.device, dict[str, Tensor]] = {}
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.numel() and not buffer.is_meta:
            local: Tensor = getattr(buffer, "to_local", lambda buffer=buffer: buffer)()
            largest.setdefault(local.device, {})[name] = local.detach().float().amax()
    values = {n: v for each in largest.values() for n, v in zip(each, torch.stack(list(each.values())).tolist())}
    return {name: str(value) for name, value in values.items() if not value < math.inf}


def _is_finite(leaf: Any) -> bool:
    if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
        return True
    local: Tensor = getattr(leaf, "to_local", lambda: leaf)()
    return bool(torch.isfinite(local.coalesce().values() if local.is_sparse else local).all())


def _with_gradient(value: Any) -> list[Tensor]:
    return [leaf for _, leaf in iter_leaves(value) if isinstance(leaf, Tensor) and leaf.requires_grad]

"""Operations, activations and parameters of a model, counted by fvcore."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..model import evaluating
from ..text import format_count

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore compiles a loss with the deprecated torch.jit.script when it is imported
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, flop_count_str, flop_count_table, parameter_count
    from fvcore.nn import parameter_count_table as parameter_count_table  # which the package has too
    from fvcore.nn.jit_analysis import JitModelAnalysis


class _Analyzer(JitModelAnalysis):
    """Traces without warnings, in eval mode."""

    def __init__(self, model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> None:
        super().__init__(model, inputs)
        self.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")

    def _analyze(self) -> Any:
        with evaluating(self._model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.trace is deprecated and warns of every branch
            return super()._analyze()


class FlopAnalyzer(_Analyzer, FlopCountAnalysis):
    """Counts the operations of one forward pass; one multiply-add is one operation.

    The model is traced in eval mode and without gradients, and then put back: nothing in it changes. ``total()``,
    ``by_module()``, ``by_operator()``, ``by_module_and_operator()``, ``unsupported_ops()`` (operations that were not
    counted) and ``uncalled_modules()`` give the results, ``set_op_handle`` counts further operators.

    Args:
        model: The module to analyze.
        inputs: A tensor, or a tuple with the positional arguments of its forward.
    """


class ActivationAnalyzer(_Analyzer, ActivationCountAnalysis):
    """Counts the values that convolutions and matrix products put out in one forward pass; used as `FlopAnalyzer`.

    Args:
        model: The module to analyze.
        inputs: A tensor, or a tuple with the positional arguments of its forward.
    """


def flop_count(model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> tuple[dict[str, float], dict[str, int]]:
    """Count the operations of one forward pass by operator.

    Args:
        model: The module to analyze.
        inputs: A tensor, or a tuple with the positional arguments of its forward.

    Returns:
        Giga-operations by operator name, and how often each operator that is not counted was met.
    """
    return _by_operator(FlopAnalyzer(model, inputs), 1e9)


def activation_count(model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> tuple[dict[str, float], dict[str, int]]:
    """Count the activations of one forward pass by operator.

    Args:
        model: The module to analyze.
        inputs: A tensor, or a tuple with the positional arguments of its forward.

    Returns:
        Mega-activations by operator name, and how often each operator that is not counted was met.
    """
    return _by_operator(ActivationAnalyzer(model, inputs), 1e6)


def get_model_complexity_info(
    model: nn.Module,
    input_shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None,
    inputs: Tensor | tuple[Any, ...] | None = None,
    show_table: bool = True,
    show_arch: bool = True,
) -> dict[str, Any]:
    """Count operations, activations and parameters, as numbers and as text.

    The model is analyzed in eval mode, whatever mode it is in, and left as it was.

    Args:
        model: The module to analyze.
        input_shape: Shape of one input without the batch dimension, such as ``(3, 224, 224)``, or several such
            shapes for several inputs; random inputs with a batch of one are made.
        inputs: The input or inputs themselves; exactly one of ``input_shape`` and ``inputs`` is given.
        show_table: Make ``out_table``.
        show_arch: Make ``out_arch``.

    Returns:
        A dict with ``flops``, ``activations``, ``params`` (numbers), ``flops_str``, ``activations_str``,
        ``params_str`` (such as ``"4.1G"``), ``out_table`` (a row for each module) and ``out_arch`` (the printed
        model with the counts).

    Raises:
        ValueError: Not exactly one of ``input_shape`` and ``inputs`` is given, or ``input_shape`` holds something
            else.
    """
    if (input_shape is None) == (inputs is None):
        raise ValueError(
            f"give exactly one of input_shape and inputs, got input_shape={input_shape} and "
            f"{'no inputs' if inputs is None else 'inputs'}"
        )
    if inputs is None:
        inputs = _random_inputs(model, input_shape)
    flops, activations = FlopAnalyzer(model, inputs), ActivationAnalyzer(model, inputs)
    numbers = {"flops": flops.total(), "activations": activations.total(), "params": parameter_count(model)[""]}
    return {
        **numbers,
        **{f"{name}_str": format_count(number) for name, number in numbers.items()},
        "out_table": "\n" + flop_count_table(flops, activations=activations) if show_table else "",
        "out_arch": "\n" + flop_count_str(flops, activations) if show_arch else "",
    }


def _by_operator(analysis: Any, unit: float) -> tuple[dict[str, float], dict[str, int]]:
    counts = {operator: count / unit for operator, count in analysis.by_operator().items()}
    return counts, dict(analysis.unsupported_ops())


def _random_inputs(model: nn.Module, input_shape: Any) -> tuple[Tensor, ...]:
    shapes = input_shape
    if shapes and all(isinstance(size, int) for size in shapes):
        shapes = (shapes,)
    if not shapes or not all(isinstance(shape, tuple) and all(isinstance(n, int) for n in shape) for shape in shapes):
        raise ValueError(f"input_shape must be a tuple of ints or a tuple of such tuples, got {input_shape!r}")
    parameter = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)  # leaves the random stream of the caller alone
    return tuple(torch.randn(1, *shape, generator=generator).to(parameter.device) for shape in shapes)

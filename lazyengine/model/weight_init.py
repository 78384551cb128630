"""Functions that fill the ``weight`` and ``bias`` of one module in place; what a module lacks is skipped."""

from __future__ import annotations

import math

from torch import Tensor, nn

__all__ = [
    "bias_init_with_prob",
    "caffe2_xavier_init",
    "constant_init",
    "kaiming_init",
    "normal_init",
    "trunc_normal_init",
    "uniform_init",
    "xavier_init",
]


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill the weight with ``val`` and the bias with ``bias``."""
    if (weight := _tensor(module, "weight")) is not None:
        nn.init.constant_(weight, val)
    _fill_bias(module, bias)


def xavier_init(module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal") -> None:
    """Fill the weight by Glorot and Bengio (2010), the bias with ``bias``.

    Variance ``gain^2 * 2 / (fan_in + fan_out)``; http://proceedings.mlr.press/v9/glorot10a/glorot10a.pdf.

    Args:
        module: Its ``weight`` needs at least two dimensions.
        gain: Scales the standard deviation.
        bias: What the bias is filled with.
        distribution: ``"normal"`` or ``"uniform"``.
    """
    check_distribution(distribution)
    if (weight := _tensor(module, "weight")) is not None:
        if distribution == "uniform":
            nn.init.xavier_uniform_(weight, gain=gain)
        else:
            nn.init.xavier_normal_(weight, gain=gain)
    _fill_bias(module, bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Fill the weight from a normal distribution, the bias with ``bias``."""
    if (weight := _tensor(module, "weight")) is not None:
        nn.init.normal_(weight, mean, std)
    _fill_bias(module, bias)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Fill the weight from a normal distribution cut to ``[a, b]`` (absolute values), the bias with ``bias``.

    Draws by ``torch.nn.init.trunc_normal_``, so with the same distribution as mmengine but not the same numbers.
    """
    if (weight := _tensor(module, "weight")) is not None:
        nn.init.trunc_normal_(weight, mean, std, a, b)
    _fill_bias(module, bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Fill the weight uniformly from ``[a, b]``, the bias with ``bias``."""
    if (weight := _tensor(module, "weight")) is not None:
        nn.init.uniform_(weight, a, b)
    _fill_bias(module, bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: str = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """Fill the weight by He et al. (2015), the bias with ``bias``.

    Variance ``gain(nonlinearity, a)^2 / fan``; https://arxiv.org/abs/1502.01852.

    Args:
        module: Its ``weight`` needs at least two dimensions.
        a: Negative slope of the rectifier that follows (``leaky_relu`` only).
        mode: ``"fan_in"`` keeps the variance of activations, ``"fan_out"`` that of gradients.
        nonlinearity: Name in ``torch.nn.functional``; ``"relu"`` or ``"leaky_relu"``.
        bias: What the bias is filled with.
        distribution: ``"normal"`` or ``"uniform"``.
    """
    check_distribution(distribution)
    if (weight := _tensor(module, "weight")) is not None:
        fill = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
        fill(weight, a=a, mode=mode, nonlinearity=nonlinearity)  # pyright: ignore[reportArgumentType]
    _fill_bias(module, bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Fill the weight as Caffe2's ``XavierFill`` does: uniform with variance ``1 / fan_in``; the bias with ``bias``."""
    kaiming_init(module, a=1, mode="fan_in", nonlinearity="leaky_relu", bias=bias, distribution="uniform")


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias with which a sigmoid gives ``prior_prob``: ``-log((1 - p) / p)`` (https://arxiv.org/abs/1708.02002).

    Raises:
        ValueError: ``prior_prob`` is not between 0 and 1.
    """
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob must be between 0 and 1, got {prior_prob}")
    return -math.log((1 - prior_prob) / prior_prob)


def check_distribution(distribution: str) -> None:
    """Raise ValueError unless ``distribution`` is ``"normal"`` or ``"uniform"``."""
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"distribution must be 'normal' or 'uniform', got {distribution!r}")


def _fill_bias(module: nn.Module, value: float) -> None:
    if (bias := _tensor(module, "bias")) is not None:
        nn.init.constant_(bias, value)


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    """Return ``module.<name>`` if it is a tensor: ``weight`` and ``bias`` may also be None or a bool."""
    value = getattr(module, name, None)
    return value if isinstance(value, Tensor) else None

"""Initializers: objects that fill chosen layers of a module, for the ``init_cfg`` of `BaseModule`.

``layer`` chooses layers by class; ``override`` gives single submodules something else. ``init_cfg`` takes one
initializer or a list, applied in order, except that `PretrainedInit` always comes last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from ..checkpoint import load_checkpoint
from ..logging import print_log
from .init_record import record_init
from .patterns import near_matches
from .weight_init import (
    bias_init_with_prob,
    check_distribution,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)

__all__ = [
    "BaseInit",
    "Caffe2XavierInit",
    "ConstantInit",
    "KaimingInit",
    "NormalInit",
    "PretrainedInit",
    "TruncNormalInit",
    "UniformInit",
    "XavierInit",
]

Layer = str | type[nn.Module]


class BaseInit:
    """Base class: chooses layers and fills each by `fill`, which a subclass writes.

    Called on a module, it fills all of its submodules (itself included) that ``layer`` names, then those that
    ``override`` names.

    Args:
        bias: What biases are filled with.
        bias_prob: Instead of ``bias``: the probability that a sigmoid shall give; see `bias_init_with_prob`.
        layer: Class name or class of the layers to fill, or several. A name matches the class and its direct bases,
            a class matches by ``isinstance``.
        override: By dotted name of a submodule: another initializer for all layers inside it, or None for this one.

    Raises:
        TypeError: An argument has a type that is not listed above.
        ValueError: ``bias_prob`` is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        if isinstance(bias, bool) or not isinstance(bias, (int, float)):
            raise TypeError(f"bias of {type(self).__name__} must be a number, got {bias!r}")
        self.bias = bias if bias_prob is None else bias_init_with_prob(bias_prob)
        layers = [] if layer is None else [layer] if isinstance(layer, (str, type)) else list(layer)
        for item in layers:
            if not isinstance(item, (str, type)):
                raise TypeError(f"layer of {type(self).__name__} takes class names or classes, got {item!r}")
        self.layers = layers
        if override is not None and not isinstance(override, Mapping):
            raise TypeError(
                f"override of {type(self).__name__} is {type(override).__name__} · accepted is a dict from the name of "
                "a submodule to an initializer or None, such as {'head.cls': ConstantInit(val=0, bias_prob=0.01)}"
            )
        self.override = dict(override or {})
        for name, initializer in self.override.items():
            if initializer is not None and not callable(initializer):
                raise TypeError(f"override[{name!r}] must be an initializer or None, got {initializer!r}")

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        raise NotImplementedError

    def __call__(self, module: nn.Module) -> None:
        """Fill the chosen layers of ``module`` in place.

        Raises:
            ValueError: Neither ``layer`` nor ``override`` is given, or ``override`` names no submodule.
        """
        if not self.layers and not self.override:
            raise ValueError(
                f"{self} names no layer, so that nothing of {type(module).__name__} would be filled · give layer, such "
                "as layer='Conv2d' or layer=['Conv2d', 'Linear'], or override={'name': ...}"
            )
        if self.layers:
            chosen = [submodule for submodule in _bottom_up(module) if self._names(submodule)]
            for submodule in chosen:
                self.fill(submodule)
            if not chosen:
                message = f"{self}: {type(module).__name__} holds no such layer; nothing was filled"
                print_log(message, logger="current", level=logging.WARNING)
        record_init(module, str(self))
        for name, initializer in self.override.items():
            submodule = _submodule(module, name, self)
            if initializer is None or (isinstance(initializer, BaseInit) and not initializer.layers):
                (initializer or self)._fill_all(submodule)
            else:
                initializer(submodule)

    def _fill_all(self, module: nn.Module) -> None:
        for submodule in _bottom_up(module):
            self.fill(submodule)
        record_init(module, str(self))

    def _names(self, module: nn.Module) -> bool:
        names = {type(module).__name__, *(base.__name__ for base in type(module).__bases__)}
        return any(layer in names if isinstance(layer, str) else isinstance(module, layer) for layer in self.layers)

    def __repr__(self) -> str:
        parts = [f"{name}={value}" for name, value in vars(self).items() if name not in ("layers", "override")]
        if self.layers:
            parts.append(f"layer={[layer if isinstance(layer, str) else layer.__name__ for layer in self.layers]}")
        if self.override:
            parts.append(f"override={self.override}")
        return f"{type(self).__name__}({', '.join(parts)})"


class ConstantInit(BaseInit):
    """Fill weights with ``val``; the other arguments are `BaseInit`'s."""

    def __init__(
        self,
        val: float,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(bias=bias, bias_prob=bias_prob, layer=layer, override=override)
        self.val = val

    def fill(self, module: nn.Module) -> None:
        constant_init(module, self.val, self.bias)


class XavierInit(BaseInit):
    """Fill weights by Glorot and Bengio (2010); see `xavier_init`. The other arguments are `BaseInit`'s.

    Args:
        gain: Scales the standard deviation.
        distribution: ``"normal"`` or ``"uniform"``.
    """

    def __init__(
        self,
        gain: float = 1,
        distribution: str = "normal",
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(bias=bias, bias_prob=bias_prob, layer=layer, override=override)
        check_distribution(distribution)
        self.gain = gain
        self.distribution = distribution

    def fill(self, module: nn.Module) -> None:
        xavier_init(module, self.gain, self.bias, self.distribution)


class NormalInit(BaseInit):
    """Fill weights from a normal distribution of ``mean`` and ``std``; the other arguments are `BaseInit`'s."""

    def __init__(
        self,
        mean: float = 0,
        std: float = 1,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(bias=bias, bias_prob=bias_prob, layer=layer, override=override)
        self.mean = mean
        self.std = std

    def fill(self, module: nn.Module) -> None:
        normal_init(module, self.mean, self.std, self.bias)


class TruncNormalInit(BaseInit):
    """Fill weights from a normal distribution cut to ``[a, b]``; the other arguments are `BaseInit`'s.

    Args:
        mean: Mean before cutting.
        std: Standard deviation before cutting.
        a: Smallest value, absolute (not in standard deviations).
        b: Largest value, absolute.
    """

    def __init__(
        self,
        mean: float = 0,
        std: float = 1,
        a: float = -2,
        b: float = 2,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(bias=bias, bias_prob=bias_prob, layer=layer, override=override)
        if not a < b:
            raise ValueError(f"TruncNormalInit needs a < b, got a={a}, b={b}")
        self.mean = mean
        self.std = std
        self.a = a
        self.b = b

    def fill(self, module: nn.Module) -> None:
        trunc_normal_init(module, self.mean, self.std, self.a, self.b, self.bias)


class UniformInit(BaseInit):
    """Fill weights uniformly from ``[a, b]``; the other arguments are `BaseInit`'s."""

    def __init__(
        self,
        a: float = 0,
        b: float = 1,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(bias=bias, bias_prob=bias_prob, layer=layer, override=override)
        self.a = a
        self.b = b

    def fill(self, module: nn.Module) -> None:
        uniform_init(module, self.a, self.b, self.bias)


class KaimingInit(BaseInit):
    """Fill weights by He et al. (2015); see `kaiming_init`. The other arguments are `BaseInit`'s.

    Args:
        a: Negative slope of the rectifier that follows (``leaky_relu`` only).
        mode: ``"fan_in"`` or ``"fan_out"``.
        nonlinearity: ``"relu"`` or ``"leaky_relu"``.
        distribution: ``"normal"`` or ``"uniform"``.
    """

    def __init__(
        self,
        a: float = 0,
        mode: str = "fan_out",
        nonlinearity: str = "relu",
        distribution: str = "normal",
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(bias=bias, bias_prob=bias_prob, layer=layer, override=override)
        check_distribution(distribution)
        if mode not in ("fan_in", "fan_out"):
            raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
        self.a = a
        self.mode = mode
        self.nonlinearity = nonlinearity
        self.distribution = distribution

    def fill(self, module: nn.Module) -> None:
        kaiming_init(module, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)


class Caffe2XavierInit(KaimingInit):
    """Fill weights as Caffe2's ``XavierFill`` does: uniform, variance ``1 / fan_in``; arguments are `BaseInit`'s."""

    def __init__(
        self,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: Layer | Sequence[Layer] | None = None,
        override: Mapping[str, BaseInit | None] | None = None,
    ) -> None:
        super().__init__(
            1, "fan_in", "leaky_relu", "uniform", bias=bias, bias_prob=bias_prob, layer=layer, override=override
        )


class PretrainedInit:
    """Load a module's weights from a checkpoint, after all other initializers and all children.

    Args:
        checkpoint: Path or URL that the checkpoint loader accepts.
        prefix: Load only the entries under this prefix and strip it: ``"backbone."`` takes a detector's backbone.
        map_location: Where the tensors are read to.
        revise_keys: Pairs of a regular expression and its replacement, applied to every key in order.
        strict: Raise when keys or shapes do not match; otherwise mismatches are logged.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = "cpu",
        revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
        strict: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location
        self.revise_keys = list(revise_keys)
        self.strict = strict

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into ``module`` in place."""
        load_checkpoint(
            module,
            self.checkpoint,
            map_location=self.map_location,
            strict=self.strict,
            logger="current",
            revise_keys=self.revise_keys,
            prefix=self.prefix,
        )
        record_init(module, str(self))

    def __repr__(self) -> str:
        return f"PretrainedInit({self.checkpoint!r}" + (f", prefix={self.prefix!r})" if self.prefix else ")")


def apply_initializers(module: nn.Module, initializers: Sequence[Callable[[nn.Module], object]]) -> None:
    """Apply initializers to ``module`` in order, naming the module in what they raise."""
    for initializer in initializers:
        try:
            initializer(module)
        except Exception as error:
            error.add_note(f"while initializing {type(module).__name__} with {initializer}")
            raise
        record_init(module, str(initializer))  # an initializer of the user's own does not record itself


def _bottom_up(module: nn.Module) -> list[nn.Module]:
    """Return all submodules, children before parents, in the order of ``Module.apply``."""
    order: list[nn.Module] = []
    module.apply(order.append)
    return order


def _submodule(module: nn.Module, name: str, initializer: BaseInit) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in module.named_modules() if known]
        raise ValueError(
            f"override of {type(initializer).__name__} names {name!r}, which {type(module).__name__} does not have"
            f"{near_matches(name, names)}"
        ) from None

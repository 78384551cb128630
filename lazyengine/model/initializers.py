"""Initializers: objects that fill chosen layers of a module, for the ``init_cfg`` of `BaseModule`.

``layer`` chooses layers by class; ``override`` gives single submodules something else. ``init_cfg`` takes one
initializer or a list, applied in order, except that `PretrainedInit` always comes last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from torch import nn

from ..checkpoint import load_checkpoint
from ..logging import print_log
from .init_record import record_init
from .patterns import near_matches
from .weight_init import (
    bias_init_with_prob,
    caffe2_xavier_init,
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


@dataclass(eq=False, repr=False, kw_only=True)
class BaseInit:
    """Base class: chooses layers and fills each by `fill`, which a subclass writes.

    Called on a module, it fills all of its submodules (itself included) that ``layer`` names, then those that
    ``override`` names. These arguments are given by keyword and belong to every initializer.

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

    bias: float = 0
    bias_prob: float | None = None
    layer: Layer | Sequence[Layer] | None = None
    override: Mapping[str, BaseInit | None] | None = None

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if isinstance(self.bias, bool) or not isinstance(self.bias, (int, float)):
            raise TypeError(f"bias of {kind} must be a number, got {self.bias!r}")
        if self.bias_prob is not None:
            self.bias = bias_init_with_prob(self.bias_prob)
        for item in self._layers():
            if not isinstance(item, (str, type)):
                raise TypeError(f"layer of {kind} takes class names or classes, got {item!r}")
        if self.override is not None and not isinstance(self.override, Mapping):
            raise TypeError(
                f"override of {kind} is {type(self.override).__name__} · accepted is a dict from the name of a "
                "submodule to an initializer or None, such as {'head.cls': ConstantInit(val=0, bias_prob=0.01)}"
            )
        for name, initializer in (self.override or {}).items():
            if initializer is not None and not callable(initializer):
                raise TypeError(f"override[{name!r}] of {kind} must be an initializer or None, got {initializer!r}")

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        raise NotImplementedError

    def __call__(self, module: nn.Module) -> None:
        """Fill the chosen layers of ``module`` in place.

        Raises:
            ValueError: Neither ``layer`` nor ``override`` is given, or ``override`` names no submodule.
        """
        layers = self._layers()
        if not layers and not self.override:
            raise ValueError(
                f"{self} names no layer, so that nothing of {type(module).__name__} would be filled · give layer, such "
                "as layer='Conv2d' or layer=['Conv2d', 'Linear'], or override={'name': ...}"
            )
        if layers:
            chosen = [submodule for submodule in _bottom_up(module) if _is_named(submodule, layers)]
            for submodule in chosen:
                self.fill(submodule)
            if not chosen:
                message = f"{self}: {type(module).__name__} holds no such layer; nothing was filled"
                print_log(message, logger="current", level=logging.WARNING)
        record_init(module, str(self))
        for name, initializer in (self.override or {}).items():
            submodule = _submodule(module, name, self)
            if initializer is None or (isinstance(initializer, BaseInit) and initializer.layer is None):
                (initializer or self)._fill_all(submodule)
            else:
                initializer(submodule)

    def _fill_all(self, module: nn.Module) -> None:
        for submodule in _bottom_up(module):
            self.fill(submodule)
        record_init(module, str(self))

    def _layers(self) -> list[Layer]:
        if self.layer is None:
            return []
        return [self.layer] if isinstance(self.layer, (str, type)) else list(self.layer)

    def __repr__(self) -> str:
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own["layer"] = [layer if isinstance(layer, str) else layer.__name__ for layer in self._layers()] or None
        given = ", ".join(f"{name}={value}" for name, value in own.items() if value is not None)
        return f"{type(self).__name__}({given})"


@dataclass(eq=False, repr=False)
class ConstantInit(BaseInit):
    """Fill weights with ``val``; `BaseInit` has the arguments by keyword."""

    val: float

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        constant_init(module, self.val, self.bias)


@dataclass(eq=False, repr=False)
class XavierInit(BaseInit):
    """Fill weights by Glorot and Bengio (2010); see `xavier_init`. `BaseInit` has the arguments by keyword.

    Args:
        gain: Scales the standard deviation.
        distribution: ``"normal"`` or ``"uniform"``.
    """

    gain: float = 1
    distribution: str = "normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distribution(self.distribution)

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        xavier_init(module, self.gain, self.bias, self.distribution)


@dataclass(eq=False, repr=False)
class NormalInit(BaseInit):
    """Fill weights from a normal distribution; `BaseInit` has the arguments by keyword."""

    mean: float = 0
    std: float = 1

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        normal_init(module, self.mean, self.std, self.bias)


@dataclass(eq=False, repr=False)
class TruncNormalInit(BaseInit):
    """Fill weights from a normal distribution cut to ``[a, b]``; `BaseInit` has the arguments by keyword.

    Args:
        mean: Mean before cutting.
        std: Standard deviation before cutting.
        a: Smallest value, absolute (not in standard deviations).
        b: Largest value, absolute.
    """

    mean: float = 0
    std: float = 1
    a: float = -2
    b: float = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.a < self.b:
            raise ValueError(f"TruncNormalInit needs a < b, got a={self.a}, b={self.b}")

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        trunc_normal_init(module, self.mean, self.std, self.a, self.b, self.bias)


@dataclass(eq=False, repr=False)
class UniformInit(BaseInit):
    """Fill weights uniformly from ``[a, b]``; `BaseInit` has the arguments by keyword."""

    a: float = 0
    b: float = 1

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        uniform_init(module, self.a, self.b, self.bias)


@dataclass(eq=False, repr=False)
class KaimingInit(BaseInit):
    """Fill weights by He et al. (2015); see `kaiming_init`. `BaseInit` has the arguments by keyword.

    Args:
        a: Negative slope of the rectifier that follows (``leaky_relu`` only).
        mode: ``"fan_in"`` or ``"fan_out"``.
        nonlinearity: ``"relu"`` or ``"leaky_relu"``.
        distribution: ``"normal"`` or ``"uniform"``.
    """

    a: float = 0
    mode: str = "fan_out"
    nonlinearity: str = "relu"
    distribution: str = "normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distribution(self.distribution)
        if self.mode not in ("fan_in", "fan_out"):
            raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {self.mode!r}")

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        kaiming_init(module, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)


@dataclass(eq=False, repr=False)
class Caffe2XavierInit(BaseInit):
    """Fill weights as Caffe2's ``XavierFill`` does: uniform, variance ``1 / fan_in``; arguments are `BaseInit`'s."""

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        caffe2_xavier_init(module, self.bias)


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


def _is_named(module: nn.Module, layers: Sequence[Layer]) -> bool:
    names = {type(module).__name__, *(base.__name__ for base in type(module).__bases__)}
    return any(layer in names if isinstance(layer, str) else isinstance(module, layer) for layer in layers)


def _submodule(module: nn.Module, name: str, initializer: BaseInit) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in module.named_modules() if known]
        raise ValueError(
            f"override of {type(initializer).__name__} names {name!r}, which {type(module).__name__} does not have"
            f"{near_matches(name, names)}"
        ) from None

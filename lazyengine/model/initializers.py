"""Filling weights: functions for one module, and initializers, which fill chosen layers of a module.

The functions fill the ``weight`` and ``bias`` of one module in place; what a module lacks is skipped. Initializers are
what ``init_cfg`` of `BaseModule` holds:
``layer`` chooses layers by class; ``override`` gives single submodules something else. ``init_cfg`` takes one
initializer or a list, applied in order, except that `PretrainedInit` always comes last.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor, nn

from ..checkpoint import is_sharded_tensor, load_checkpoint
from ..dist import is_main_process
from ..errors import UsageTypeError, UsageValueError
from ..logging import MMLogger, print_log
from ..text import table
from .patterns import near_matches

Layer = str | type[nn.Module]
UNCHANGED = "not touched: as its constructor left it"


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill the weight with ``val`` and the bias with ``bias``."""
    _fill(module, bias, nn.init.constant_, val)


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
    _fill(module, bias, nn.init.xavier_uniform_ if distribution == "uniform" else nn.init.xavier_normal_, gain)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Fill the weight from a normal distribution, the bias with ``bias``."""
    _fill(module, bias, nn.init.normal_, mean, std)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Fill the weight from a normal distribution cut to ``[a, b]`` (absolute values), the bias with ``bias``.

    Draws by ``torch.nn.init.trunc_normal_``, so with the same distribution as mmengine but not the same numbers.
    """
    _fill(module, bias, nn.init.trunc_normal_, mean, std, a, b)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Fill the weight uniformly from ``[a, b]``, the bias with ``bias``."""
    _fill(module, bias, nn.init.uniform_, a, b)


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
    fill = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
    _fill(module, bias, fill, a, mode, nonlinearity)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Fill the weight as Caffe2's ``XavierFill`` does: uniform with variance ``1 / fan_in``; the bias with ``bias``."""
    kaiming_init(module, a=1, mode="fan_in", nonlinearity="leaky_relu", bias=bias, distribution="uniform")


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias with which a sigmoid gives ``prior_prob``: ``-log((1 - p) / p)`` (https://arxiv.org/abs/1708.02002).

    Raises:
        ValueError: ``prior_prob`` is not between 0 and 1.
    """
    if not 0 < prior_prob < 1:
        raise UsageValueError(f"prior_prob must be between 0 and 1, got {prior_prob}")
    return -math.log((1 - prior_prob) / prior_prob)


def check_distribution(distribution: str) -> None:
    """Raise ValueError unless ``distribution`` is ``"normal"`` or ``"uniform"``."""
    if distribution not in ("normal", "uniform"):
        raise UsageValueError(f"distribution must be 'normal' or 'uniform', got {distribution!r}")


@dataclass(eq=False, repr=False, kw_only=True)
class BaseInit:
    """Base class: chooses layers and fills each by `fill`.

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
    _function: ClassVar[Callable[..., None]]

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if isinstance(self.bias, bool) or not isinstance(self.bias, (int, float)):
            raise UsageTypeError(f"bias of {kind} must be a number, got {self.bias!r}")
        if self.bias_prob is not None:
            self.bias = bias_init_with_prob(self.bias_prob)
        check_distribution(getattr(self, "distribution", "normal"))
        for item in self._layers():
            if not isinstance(item, (str, type)):
                raise UsageTypeError(f"layer of {kind} takes class names or classes, got {item!r}")
        if self.override is not None and not isinstance(self.override, Mapping):
            raise UsageTypeError(
                f"override of {kind} is {type(self.override).__name__} · accepted is a dict from the name of a "
                "submodule to an initializer or None, such as {'head.cls': ConstantInit(val=0, bias_prob=0.01)}"
            )
        for name, initializer in (self.override or {}).items():
            if initializer is not None and not callable(initializer):
                raise UsageTypeError(f"override[{name!r}] of {kind} is {initializer!r}: no initializer or None")

    def fill(self, module: nn.Module) -> None:
        """Fill the weight and bias of one module in place."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if not hasattr(BaseInit, field.name)}
        self._function(module, bias=self.bias, **own)

    def __call__(self, module: nn.Module) -> None:
        """Fill the chosen layers of ``module`` in place.

        Raises:
            ValueError: Neither ``layer`` nor ``override`` is given, or ``override`` names no submodule.
        """
        layers = self._layers()
        if not layers and not self.override:
            raise UsageValueError(
                f"{self} names no layer, so that nothing of {type(module).__name__} would be filled · give layer, such "
                "as layer='Conv2d' or layer=['Conv2d', 'Linear'], or override={'name': ...}"
            )
        if layers:
            chosen = [submodule for submodule in _bottom_up(module) if _is_named(submodule, layers)]
            for submodule in chosen:
                self.fill(submodule)
            if not chosen:
                text = f"{self}: {type(module).__name__} holds no such layer; nothing was filled"
                print_log(text, "current", logging.WARNING)
        record_init(module, str(self))
        submodules = dict(module.named_modules())
        for name, initializer in (self.override or {}).items():
            if name not in submodules:
                raise UsageValueError(
                    f"override of {type(self).__name__} names {name!r}, which {type(module).__name__} does not have"
                    f"{near_matches(name, list(submodules)[1:])}"
                )
            if initializer is None or (isinstance(initializer, BaseInit) and initializer.layer is None):
                (initializer or self)._fill_all(submodules[name])
            else:
                initializer(submodules[name])

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

    _function = staticmethod(constant_init)


@dataclass(eq=False, repr=False)
class XavierInit(BaseInit):
    """Fill weights by Glorot and Bengio (2010); see `xavier_init`. `BaseInit` has the arguments by keyword.

    Args:
        gain: Scales the standard deviation.
        distribution: ``"normal"`` or ``"uniform"``.
    """

    gain: float = 1
    distribution: str = "normal"

    _function = staticmethod(xavier_init)


@dataclass(eq=False, repr=False)
class NormalInit(BaseInit):
    """Fill weights from a normal distribution; `BaseInit` has the arguments by keyword."""

    mean: float = 0
    std: float = 1

    _function = staticmethod(normal_init)


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
            raise UsageValueError(f"TruncNormalInit needs a < b, got a={self.a}, b={self.b}")

    _function = staticmethod(trunc_normal_init)


@dataclass(eq=False, repr=False)
class UniformInit(BaseInit):
    """Fill weights uniformly from ``[a, b]``; `BaseInit` has the arguments by keyword."""

    a: float = 0
    b: float = 1

    _function = staticmethod(uniform_init)


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
        if self.mode not in ("fan_in", "fan_out"):
            raise UsageValueError(f"mode must be 'fan_in' or 'fan_out', got {self.mode!r}")

    _function = staticmethod(kaiming_init)


@dataclass(eq=False, repr=False)
class Caffe2XavierInit(BaseInit):
    """Fill weights as Caffe2's ``XavierFill`` does: uniform, variance ``1 / fan_in``; arguments are `BaseInit`'s."""

    _function = staticmethod(caffe2_xavier_init)


@dataclass(eq=False, repr=False)
class PretrainedInit:
    """Load a module's weights from a checkpoint, after all other initializers and all children.

    Args:
        checkpoint: Path or URL that the checkpoint loader accepts.
        prefix: Load only the entries under this prefix and strip it: ``"backbone."`` takes a detector's backbone.
        map_location: Where the tensors are read to.
        revise_keys: Pairs of a regular expression and its replacement, applied to every key in order.
        strict: Raise when keys or shapes do not match; otherwise mismatches are logged.
    """

    checkpoint: str
    prefix: str | None = None
    map_location: str = "cpu"
    revise_keys: Sequence[tuple[str, str]] = ()
    strict: bool = False

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into ``module`` in place."""
        load_checkpoint(
            module,
            self.checkpoint,
            map_location=self.map_location,
            strict=self.strict,
            logger="current",
            revise_keys=list(self.revise_keys),
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


def _fill(module: nn.Module, bias: float, fill: Callable[..., object], *arguments: object) -> None:
    """Fill ``module.weight`` by ``fill`` and ``module.bias`` with ``bias``; either may also be None or a bool."""
    weight, own_bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor):
        fill(weight, *arguments)
    if isinstance(own_bias, Tensor):
        nn.init.constant_(own_bias, bias)


class InitRecord:
    """Follows the parameters of a model through its initialization.

    A parameter counts as changed when its version counter moved (in-place operations) or a few of its values did
    (writes through ``.data``, which the counter does not see).

    Args:
        model: The module whose parameters are followed.
    """

    active: ContextVar[InitRecord | None] = ContextVar("active_init_record", default=None)

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._seen = {parameter: _fingerprint(parameter) for parameter in model.parameters()}
        self._info = dict.fromkeys(self._seen, UNCHANGED)

    def attribute(self, module: nn.Module, info: str) -> None:
        """Credit what changed below ``module`` since the last call to ``info``."""
        for name, parameter in module.named_parameters():
            if parameter not in self._seen:
                raise RuntimeError(
                    f"init_weights replaced or added the parameter {name!r} of {type(module).__name__} · it must fill "
                    "parameters in place, because optimizers and wrappers hold on to them"
                )
            fingerprint = _fingerprint(parameter)
            if fingerprint != self._seen[parameter]:
                self._seen[parameter] = fingerprint
                self._info[parameter] = info

    def by_name(self) -> dict[str, str]:
        """Return what filled each parameter, by its name."""
        return {name: self._info[parameter] for name, parameter in self.model.named_parameters()}

    def write_to_log(self) -> None:
        """Write the whole table to the log file, and a line of totals to the log."""
        if not is_main_process():
            return
        logger = MMLogger.get_current_instance()
        by_name = self.by_name()
        totals = Counter(by_name.values())
        counts = [f"{count} by {info}" for info, count in totals.items() if info != UNCHANGED]
        counts.append(f"{totals[UNCHANGED]} as their constructors left them")
        logger.info("init_weights: %d parameters: %s", len(by_name), "; ".join(counts))
        rows = [(name, tuple(value.shape), by_name[name]) for name, value in self.model.named_parameters()]
        text = "what filled each parameter:\n" + table(rows)
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None, "init_weights")
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)


def record_init(module: nn.Module, info: str) -> None:
    """Credit changes below ``module`` to ``info`` in the record that is active, if any."""
    if (record := InitRecord.active.get()) is not None:
        record.attribute(module, info)


def _fingerprint(parameter: Tensor) -> tuple[object, ...]:
    values = parameter.detach()
    if is_sharded_tensor(values):
        values = values.to_local()  # pyright: ignore[reportAttributeAccessIssue]
    count = values.numel()
    if count == 0 or values.is_meta:
        return (parameter._version,)
    flat = values.flatten()
    return (parameter._version, *(flat[index].item() for index in (0, count // 2, count - 1)))

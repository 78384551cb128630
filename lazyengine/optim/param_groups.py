"""Options of single parameters: which learning rate, weight decay and other optimizer options each of them gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from lazyengine.checkpoint import unwrap_module

from ._layer_decay import layer_scales

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_DEFORMABLE = ("DeformConv2d", "ModulatedDeformConv2d")  # of mmcv, which need not be installed
_MULTIPLIERS = {"lr_mult": "lr", "decay_mult": "weight_decay"}
_GROUP_BY = ("options", "key", "param")
# Parts that wrappers put into names and that no user writes.
_WRAPPER_PARTS = ("_orig_mod.", "_checkpoint_wrapped_module.")


class ParamGroup(dict[str, Any]):
    """One parameter group whose ``lr_mult`` and ``decay_mult`` are applied when an optimizer fills in its defaults.

    `torch.optim.Optimizer` completes each group by ``group.setdefault(option, default)``. This is where the base
    learning rate and weight decay are known, so this is where they are multiplied: in any optimizer of torch's
    interface, with or without an `OptimWrapper`.
    """

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Set ``key`` to ``default``, multiplied where the group has a multiplier for it, unless it is set."""
        if key not in self:
            multiplier = self.get({"lr": "lr_mult", "weight_decay": "decay_mult"}.get(key, ""), 1.0)
            self[key] = default if multiplier == 1.0 else default * multiplier
        return self[key]


@dataclass
class _Rules:
    """The arguments of `param_groups` that decide about one parameter."""

    custom_keys: dict[str, dict[str, Any]]
    bias_lr_mult: float | None
    bias_decay_mult: float | None
    norm_decay_mult: float | None
    dwconv_decay_mult: float | None
    flat_decay_mult: float | None
    dcn_offset_lr_mult: float | None
    sorted_keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.sorted_keys = sorted(sorted(self.custom_keys), key=len, reverse=True)

    def decide(self, entry: _Entry) -> tuple[str | None, dict[str, Any]]:
        """Return the matched key, if any, and the options of a parameter; multipliers of 1 are left out."""
        key = next((key for key in self.sorted_keys if key in entry.matched_name), None)
        options = dict(self.custom_keys[key]) if key is not None else self._by_kind(entry)
        return key, {name: value for name, value in options.items() if not (name in _MULTIPLIERS and value == 1.0)}

    def _by_kind(self, entry: _Entry) -> dict[str, Any]:
        is_norm = isinstance(entry.module, _NORMS)
        is_conv = isinstance(entry.module, nn.Conv2d)
        is_bias = entry.own_name == "bias"
        options: dict[str, Any] = {}
        if is_bias and not is_norm and not entry.inside_deformable and self.bias_lr_mult is not None:
            options["lr_mult"] = self.bias_lr_mult
        if (
            entry.inside_deformable
            and is_conv
            and "conv_offset" in entry.prefix
            and self.dcn_offset_lr_mult is not None
        ):
            options["lr_mult"] = self.dcn_offset_lr_mult
        # A convolution of one input channel and one group is no depthwise one.
        is_depthwise = is_conv and entry.module.in_channels == entry.module.groups > 1
        decay_mult = None
        if is_norm and self.norm_decay_mult is not None:
            decay_mult = self.norm_decay_mult
        elif is_bias and not entry.inside_deformable and self.bias_decay_mult is not None:
            decay_mult = self.bias_decay_mult
        elif is_depthwise and self.dwconv_decay_mult is not None:
            decay_mult = self.dwconv_decay_mult
        elif entry.parameter.ndim == 1 and not entry.inside_deformable and self.flat_decay_mult is not None:
            decay_mult = self.flat_decay_mult
        if decay_mult is not None:
            options["decay_mult"] = decay_mult
        return options


@dataclass
class _Entry:
    """One place at which a parameter is registered; a shared parameter has several."""

    prefix: str
    own_name: str
    parameter: Tensor
    module: Any
    inside_deformable: bool

    @property
    def name(self) -> str:
        """Full name of the parameter."""
        return f"{self.prefix}.{self.own_name}" if self.prefix else self.own_name

    @property
    def matched_name(self) -> str:
        """What custom keys are searched in: the name, with a dot before a parameter of the root (as mmengine)."""
        return f"{self.prefix}.{self.own_name}"


def param_groups(
    model: nn.Module,
    *,
    custom_keys: dict[str, dict[str, Any]] | None = None,
    bias_lr_mult: float | None = None,
    bias_decay_mult: float | None = None,
    norm_decay_mult: float | None = None,
    dwconv_decay_mult: float | None = None,
    flat_decay_mult: float | None = None,
    dcn_offset_lr_mult: float | None = None,
    layer_decay: float | None = None,
    layer_id: Callable[[str], int] | None = None,
    bypass_duplicate: bool = False,
    group_by: str = "options",
) -> list[ParamGroup]:
    """Return the parameter groups of a model, ready for any torch optimizer.

    Multipliers apply to the learning rate and weight decay that the optimizer is built with:
    ``AdamW(param_groups(model, norm_decay_mult=0), lr=1e-3, weight_decay=0.05)``. Frozen parameters are left out.

    Args:
        model: The model; DDP or compile wrappers around it are looked through.
        custom_keys: Options of the parameters whose full name contains a key: ``lr_mult``, ``decay_mult`` or any option
            of the optimizer. The longest key wins, then the alphabetically first; it sets aside the multipliers below.
        bias_lr_mult: Factor of the learning rate of biases, except those of norm layers and of DCN offsets.
        bias_decay_mult: Factor of the weight decay of biases, except those of norm layers and of DCN offsets.
        norm_decay_mult: Factor of the weight decay of all parameters of norm layers.
        dwconv_decay_mult: Factor of the weight decay of depthwise `Conv2d` layers.
        flat_decay_mult: Factor of the weight decay of other parameters with one dimension.
        dcn_offset_lr_mult: Factor of the learning rate of the offset layers of deformable convolutions.
        layer_decay: Factor of the learning rate from one transformer layer to the one before it, in `(0, 1]`;
            multiplied with the other factors. A custom key that sets ``lr`` itself is left alone.
        layer_id: Function from a parameter's full name to its layer, 0 being the stem and the greatest number the
            head; None recognizes the usual names (``blocks.0``, ``encoder.layer.0``, ``stages.1.blocks.0`` ...).
        bypass_duplicate: A parameter registered under several names is taken once. When its names lead to different
            options this is an error, unless ``bypass_duplicate`` says that the first name decides.
        group_by: ``"options"``: parameters with equal options share a group (fastest). ``"key"``: one group a matched
            key, named by it. ``"param"``: one group a parameter, as mmengine.

    Returns:
        A list of dicts with ``params``, ``param_names``, the options and multipliers, in the order of the model.

    Raises:
        ValueError: If a key matches no parameter, an option looks misspelled, a value is out of range, names of a
            shared parameter disagree, or nothing is left to train.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"param_groups needs a torch.nn.Module; got {type(model).__name__}")
    if group_by not in _GROUP_BY:
        raise ValueError(f"group_by must be one of {_GROUP_BY}; got {group_by!r}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1]; got {layer_decay!r}")
    if layer_id is not None and layer_decay is None:
        raise ValueError("layer_id is only used with layer_decay; give both")
    custom_keys = dict(custom_keys or {})
    rules = _Rules(
        custom_keys,
        bias_lr_mult,
        bias_decay_mult,
        norm_decay_mult,
        dwconv_decay_mult,
        flat_decay_mult,
        dcn_offset_lr_mult,
    )
    entries = list(_entries(model))
    _check_keys(custom_keys, entries)
    trainable = [entry for entry in entries if entry.parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no trainable parameter: nothing to optimize")
    scales = layer_scales([e.name for e in entries], layer_decay, layer_id) if layer_decay is not None else {}
    return _grouped(_decide(trainable, rules, scales, bypass_duplicate), group_by)


def _decide(
    entries: list[_Entry], rules: _Rules, scales: dict[str, float], bypass_duplicate: bool
) -> Iterator[tuple[_Entry, str | None, dict[str, Any]]]:
    """Yield each parameter once, with the custom key that matched it and its options, scaled for its layer."""
    decided: dict[int, tuple[str, dict[str, Any]]] = {}
    for entry in entries:
        key, options = rules.decide(entry)
        scale = scales.get(entry.name, 1.0)
        if scale != 1.0 and "lr" not in options:
            options["lr_mult"] = options.get("lr_mult", 1.0) * scale
        first = decided.get(id(entry.parameter))
        if first is not None:
            _check_shared(first, entry.name, options, bypass_duplicate)
            continue
        decided[id(entry.parameter)] = (entry.name, options)
        yield entry, key, options


def _grouped(decided: Iterable[tuple[_Entry, str | None, dict[str, Any]]], group_by: str) -> list[ParamGroup]:
    groups: dict[Any, ParamGroup] = {}
    for entry, key, options in decided:
        identity: Any = tuple(sorted((name, repr(value)) for name, value in options.items()))
        if group_by == "key":
            identity = (key, identity)
        elif group_by == "param":
            identity = entry.name
        if identity not in groups:
            label = {"name": key or "(no key)"} if group_by == "key" else {}
            groups[identity] = ParamGroup(params=[], param_names=[], **label, **options)
        groups[identity]["params"].append(entry.parameter)
        groups[identity]["param_names"].append(entry.name)
    return list(groups.values())


def check_groups(optimizer: Optimizer) -> None:
    """Check that an optimizer took all that its groups from `param_groups` ask for.

    Raises:
        ValueError: If a group has an option that the optimizer does not know, or a multiplier was not applied.
    """
    defaults = optimizer.defaults
    for group in optimizer.param_groups:
        for multiplier, option in _MULTIPLIERS.items():
            if multiplier not in group:
                continue
            if option not in defaults:
                raise ValueError(f"{multiplier} is given but {type(optimizer).__name__} has no {option} to multiply")
            if not isinstance(group, ParamGroup) and group[option] is defaults[option] and group[multiplier] != 1.0:
                raise ValueError(
                    f"{type(optimizer).__name__} ignored {multiplier}={group[multiplier]}: it does not take its groups "
                    f"as torch's optimizers do. Set {option} itself in custom_keys"
                )
        if isinstance(group, ParamGroup):
            known = {*defaults, *_MULTIPLIERS, "params", "param_names", "name", "initial_lr", "initial_momentum"}
            for option in group.keys() - known:
                close = get_close_matches(option, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"custom_keys sets {option!r}, but {type(optimizer).__name__} has no such option; "
                    f"it has {', '.join(sorted(defaults))}{hint}"
                )


def param_group_table(optimizer: Any, max_names: int = 3) -> str:
    """Return a table of an optimizer's groups: what differs between them, their size, and the first names.

    Args:
        optimizer: An optimizer, an `OptimWrapper`, or the list that `param_groups` returned.
        max_names: Number of parameter names shown for each group.
    """
    groups = optimizer if isinstance(optimizer, list) else optimizer.param_groups
    hidden = {"params", "param_names", "initial_lr", "initial_momentum"}
    options = [key for key in dict.fromkeys(key for group in groups for key in group) if key not in hidden]
    shown = [key for key in options if key in ("lr", "weight_decay") or len({repr(g.get(key)) for g in groups}) > 1]
    rows = [["group", *shown, "tensors", "elements", "parameters"]]
    for index, group in enumerate(groups):
        names = group.get("param_names", [])
        more = f", and {len(names) - max_names} more" if len(names) > max_names else ""
        elements = sum(parameter.numel() for parameter in group["params"])
        cells = [_cell(group.get(key)) for key in shown]
        rows.append(
            [str(index), *cells, str(len(group["params"])), f"{elements:,}", ", ".join(names[:max_names]) + more]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{float(value):.6g}" if isinstance(value, float | Tensor) and not isinstance(value, bool) else str(value)


def _entries(model: nn.Module) -> Iterator[_Entry]:
    yield from _entries_of(unwrap_module(model), "", False)


def _entries_of(module: nn.Module, prefix: str, inside_deformable: bool) -> Iterator[_Entry]:
    # Depth first with the module's own parameters ahead: the order of mmengine, and one visit for each name.
    for own_name, parameter in module.named_parameters(recurse=False):
        clean = f"{prefix}."
        for part in _WRAPPER_PARTS:
            clean = clean.replace(part, "")
        yield _Entry(clean[:-1], own_name, parameter, module, inside_deformable)
    is_deformable = any(base.__name__ in _DEFORMABLE for base in type(module).__mro__)
    for child_name, child in module.named_children():
        yield from _entries_of(child, f"{prefix}.{child_name}" if prefix else child_name, is_deformable)


def _check_keys(custom_keys: dict[str, dict[str, Any]], entries: list[_Entry]) -> None:
    for key, options in custom_keys.items():
        if not isinstance(options, dict):
            raise TypeError(f"custom_keys[{key!r}] must be a dict such as dict(lr_mult=0.1); got {options!r}")
        if not any(key in entry.matched_name for entry in entries):
            paths = {e.name.rsplit(".", depth)[0] for e in entries for depth in range(e.name.count(".") + 1)}
            parts = {part for path in paths for part in path.split(".") if not part.isdigit()}
            close = get_close_matches(key, sorted(paths | parts), n=3)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"its modules are {_top_names(entries)}"
            raise ValueError(f"custom_keys: {key!r} is part of no parameter name of the model; {hint}")
        for option, value in options.items():
            close = get_close_matches(option, _MULTIPLIERS, n=1, cutoff=0.75)
            if option not in _MULTIPLIERS and close:
                raise ValueError(f"custom_keys[{key!r}]: unknown option {option!r}; did you mean {close[0]!r}?")
            if option in _MULTIPLIERS and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
                raise ValueError(f"custom_keys[{key!r}]: {option} must be a number from 0 on; got {value!r}")
            if option in _MULTIPLIERS and _MULTIPLIERS[option] in options:
                raise ValueError(f"custom_keys[{key!r}]: give {option} or {_MULTIPLIERS[option]}, not both")


def _top_names(entries: list[_Entry]) -> str:
    return ", ".join(dict.fromkeys(entry.name.split(".")[0] for entry in entries))


def _check_shared(
    first: tuple[str, dict[str, Any]], name: str, options: dict[str, Any], bypass_duplicate: bool
) -> None:
    first_name, first_options = first
    if not bypass_duplicate and repr(sorted(first_options.items())) != repr(sorted(options.items())):
        raise ValueError(
            f"{first_name!r} and {name!r} are the same parameter, but their options differ: {first_options} and "
            f"{options}. "
            "Give both the same, or bypass_duplicate=True to let the first name decide"
        )

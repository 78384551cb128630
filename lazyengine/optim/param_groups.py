"""Options of single parameters: which learning rate, weight decay and other optimizer options each of them gets."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch
from ..checkpoint import unwrap_module
from ..errors import UsageTypeError
from ..text import did_you_mean, listed, table
from ._checks import require, require_int

_NORMS = (*_torch.batch_norms(), *_torch.instance_norms(), nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_NORM_NAME = re.compile(r"Norm(?![a-z])")  # of transformers, timm, x-transformers ...; not "Normed", "Normalizer"
_DEFORMABLE = ("DeformConv2d", "ModulatedDeformConv2d")  # of mmcv, which need not be installed
_MULTIPLIERS = {"lr_mult": "lr", "decay_mult": "weight_decay"}
_GROUP_BY = ("options", "key", "param")
# Parts that wrappers put into names and that no user writes.
_WRAPPER_PARTS = ("_orig_mod.", "_checkpoint_wrapped_module.")
_OF_SCHEDULERS = ("initial_", "max_", "min_", "base_", "swa_")  # what torch's schedulers write into groups
NOT_OPTIONS = {"params", "param_names", "initial_lr", "initial_momentum", "initial_betas"}

# A numbered block: `blocks.3` (timm), `encoder.layer.3` (transformers), `h.3` (GPT-2), `resblocks.3` (CLIP),
# `layers.encoder_layer_3` (torchvision), `stages.1.blocks.3` (Swin, ConvNeXt: every level counts).
_BLOCK = re.compile(r"(?:^|\.)(?:blocks?|layers?|h|resblocks|stages?|encoder_layers?|decoder_layers?)[._](\d+)(?=\.|$)")
_STEM = re.compile(
    r"(?:^|\.)(?:patch_embed\w*|pos_embed\w*|position_embed\w*|positional_embedding|embed\w*|cls_token|class_token|"
    r"class_embedding|dist_token|mask_token|reg_token|register_tokens|tok_embed\w*|token_embed\w*|wte|wpe|stem|"
    r"conv_proj|patch_embedding|shared)(?:\.|$)"
)


class ParamGroup(dict[str, Any]):
    """One parameter group whose ``lr_mult`` and ``decay_mult`` are applied when an optimizer fills in its defaults.

    `torch.optim.Optimizer` completes each group by ``group.setdefault(option, default)``. This is where the base
    learning rate and weight decay are known, so this is where they are multiplied: in any optimizer of torch's
    interface, with or without an `OptimWrapper`.
    """

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Set ``key`` to ``default``, multiplied where the group has a multiplier for it, unless it is set."""
        if key not in self:
            multiplier = next((self.get(m, 1.0) for m, option in _MULTIPLIERS.items() if option == key), 1.0)
            what = f"{key}=None: the optimizer sets it itself, so that it has nothing to multiply by {multiplier}"
            has_value = multiplier == 1.0 or default is not None
            require(has_value, f"{what}; give the optimizer a {key}, or no multiplier")
            value: Any = default
            self[key] = value if multiplier == 1.0 else value * multiplier
        return self[key]


class _Entry(NamedTuple):
    """One place at which a parameter is registered; a shared parameter has several."""

    path: str  # what custom keys are searched in: the name, with a dot before a parameter of the root (as mmengine)
    parameter: Tensor
    module: Any
    inside_deformable: bool

    @property
    def name(self) -> str:
        """Full name of the parameter."""
        return self.path.removeprefix(".")


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
        norm_decay_mult: Factor of the weight decay of all parameters of norm layers: torch's, and those of other
            libraries, which are known by their name and the shape of their parameters.
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
        UsageValueError: If a key or a multiplier matches no parameter, an option looks misspelled, a value is out of
            range, names of a shared parameter disagree, or nothing is left to train.
    """
    if not isinstance(model, nn.Module):
        raise UsageTypeError(f"param_groups needs a torch.nn.Module; got {type(model).__name__}")
    require(group_by in _GROUP_BY, f"group_by must be one of {_GROUP_BY}; got {group_by!r}")
    require(layer_decay is None or 0 < layer_decay <= 1, f"layer_decay must be in (0, 1]; got {layer_decay!r}")
    require(layer_id is None or layer_decay is not None, "layer_id is only used with layer_decay; give both")

    def choose(entry: _Entry) -> tuple[str | None, dict[str, Any]]:
        """Return the custom key that matches a parameter, and its options, scaled for its layer."""
        key = next((key for key in sorted_keys if key in entry.path), None)
        options = by_kind(entry, given) if key is None else keys[key]
        options = {name: value for name, value in options.items() if not (name in _MULTIPLIERS and value == 1.0)}
        scale = scales.get(entry.name, 1.0)
        if scale != 1.0 and "lr" not in options:
            options["lr_mult"] = options.get("lr_mult", 1.0) * scale
        return key, options

    multipliers = {
        "bias_lr_mult": bias_lr_mult,
        "dcn_offset_lr_mult": dcn_offset_lr_mult,
        "norm_decay_mult": norm_decay_mult,
        "bias_decay_mult": bias_decay_mult,
        "dwconv_decay_mult": dwconv_decay_mult,
        "flat_decay_mult": flat_decay_mult,
    }
    given = {name: value for name, value in multipliers.items() if value is not None}
    for name, value in given.items():
        _require_factor(name, value)
    keys = custom_keys or {}
    sorted_keys = sorted(sorted(keys), key=len, reverse=True)
    entries = list(_entries_of(unwrap_module(model), "", False))
    _check_keys(keys, entries)
    matched = set().union(*map(kinds_of, entries))
    for name in given:
        kinds = listed(sorted({type(e.module).__name__ for e in entries}))
        what = f"{name}={given[name]}: {type(model).__name__} has no such parameter; its layers are {kinds}"
        require(name in matched, f"{what}. Leave it out, or name what is meant in custom_keys")
    trainable = [entry for entry in entries if entry.parameter.requires_grad]
    require(bool(trainable), f"{type(model).__name__} has no trainable parameter: nothing to optimize")
    scales = layer_scales([e.name for e in entries], layer_decay, layer_id) if layer_decay is not None else {}
    return _grouped(trainable, choose, bypass_duplicate, group_by)


def kinds_of(entry: _Entry) -> set[str]:
    """Return the multipliers whose kind of parameter this is."""
    module, is_free = entry.module, not entry.inside_deformable
    is_conv, is_bias, is_norm = isinstance(module, nn.Conv2d), entry.path.endswith(".bias"), is_norm_layer(module)
    holds = {
        "bias_lr_mult": is_bias and not is_norm and is_free,
        "dcn_offset_lr_mult": is_conv and not is_free and "conv_offset" in entry.path.rpartition(".")[0],
        "norm_decay_mult": is_norm,
        "bias_decay_mult": is_bias and is_free,
        # A convolution of one input channel and one group is no depthwise one.
        "dwconv_decay_mult": is_conv and module.in_channels == module.groups > 1,
        "flat_decay_mult": entry.parameter.ndim == 1 and is_free,
    }
    return {name for name, is_so in holds.items() if is_so}


def by_kind(entry: _Entry, given: dict[str, float]) -> dict[str, Any]:
    """Return the options that the kind of a parameter asks for: of each option the first multiplier that holds."""
    kinds = kinds_of(entry)
    chosen = [name for name in given if name in kinds]
    return {"lr_mult" if name.endswith("_lr_mult") else "decay_mult": given[name] for name in reversed(chosen)}


def is_norm_layer(module: nn.Module) -> bool:
    """Return whether a layer normalizes: one of torch's, or one called so (``LlamaRMSNorm``) of flat parameters."""
    if isinstance(module, _NORMS):
        return True
    own = list(module.parameters())
    is_flat = all(parameter.numel() == max(parameter.shape, default=1) for parameter in own)
    return is_flat and not any(module.children()) and _NORM_NAME.search(type(module).__name__) is not None


def _grouped(
    entries: list[_Entry],
    choose: Callable[[_Entry], tuple[str | None, dict[str, Any]]],
    bypass_duplicate: bool,
    group_by: str,
) -> list[ParamGroup]:
    """Return each parameter once, in the group of those with the same options (or key, or alone)."""
    groups: dict[Any, ParamGroup] = {}
    chosen: dict[int, tuple[str, str]] = {}
    for entry in entries:
        key, options = choose(entry)
        alike = repr(sorted(options.items()))
        if id(entry.parameter) in chosen:
            first_name, first = chosen[id(entry.parameter)]
            what = f"{first_name!r} and {entry.name!r} are the same parameter, but their options differ"
            advice = "Give both the same, or bypass_duplicate=True to let the first name decide"
            require(bypass_duplicate or first == alike, f"{what}: {first} and {alike}. {advice}")
            continue
        chosen[id(entry.parameter)] = entry.name, alike
        identity: Any = {"options": alike, "key": (key, alike), "param": entry.name}[group_by]
        if identity not in groups:
            label = {"name": key or "(no key)"} if group_by == "key" else {}
            groups[identity] = ParamGroup(params=[], param_names=[], **label, **options)
        groups[identity]["params"].append(entry.parameter)
        groups[identity]["param_names"].append(entry.name)
    return list(groups.values())


def check_groups(optimizer: Optimizer) -> None:
    """Check that an optimizer took all that its groups ask for.

    Raises:
        UsageValueError: If a group has an option that the optimizer does not know, or a multiplier was not applied.
    """
    name, defaults = type(optimizer).__name__, optimizer.defaults
    known = {*defaults, *_MULTIPLIERS, *NOT_OPTIONS, "name"}
    for index, group in enumerate(optimizer.param_groups):
        for multiplier, option in _MULTIPLIERS.items():
            factor = group.get(multiplier)
            has_option = factor is None or option in defaults
            require(has_option, f"{multiplier} is given but {name} has no {option} to multiply")
            is_taken = isinstance(group, ParamGroup) or group.get(option) is not defaults.get(option)
            what = f"{name} ignored {multiplier}={factor}: it does not take its groups as torch's optimizers do"
            require(is_taken or factor in (None, 1.0), f"{what}. Set {option} itself in custom_keys")
        for option in sorted(group.keys() - known):
            is_label = isinstance(group[option], str) or option.startswith(_OF_SCHEDULERS)
            if not is_label and option not in _read_by(type(optimizer)):
                hint = f"it has {listed(sorted(defaults), 20)}.{did_you_mean(option, known)}"
                advice = " Scale rates with lr_mult or layer_decay of param_groups." if option == "lr_scale" else ""
                require(False, f"group {index} sets {option!r}, but {name} has no such option; {hint}{advice}")


@functools.cache
def _read_by(kind: type) -> set[str]:
    """Return the texts in the code of an optimizer's class: the options that it may read without a default."""
    own = [base for base in kind.__mro__ if base not in Optimizer.__mro__]
    functions = [inspect.unwrap(value) for base in own for value in vars(base).values() if callable(value)]
    waiting = [function.__code__ for function in functions if hasattr(function, "__code__")]
    texts: set[str] = set()
    while waiting:
        constants = waiting.pop().co_consts
        texts.update(value for value in constants if isinstance(value, str))
        waiting += [value for value in constants if isinstance(value, types.CodeType)]
    return texts


def param_group_table(optimizer: Any, max_names: int = 3) -> str:
    """Return a table of an optimizer's groups: what differs between them, their size, and the first names.

    Args:
        optimizer: An optimizer, an `OptimWrapper`, or the list that `param_groups` returned.
        max_names: Number of parameter names shown for each group.
    """
    groups = optimizer if isinstance(optimizer, list) else optimizer.param_groups
    options = [key for key in dict.fromkeys(key for group in groups for key in group) if key not in NOT_OPTIONS]
    shown = [key for key in options if key in ("lr", "weight_decay") or len({repr(g.get(key)) for g in groups}) > 1]
    rows: list[list[object]] = [["group", *shown, "tensors", "elements", "parameters"]]
    for index, group in enumerate(groups):
        names = group.get("param_names", [])
        more = f", and {len(names) - max_names} more" if len(names) > max_names else ""
        elements = sum(parameter.numel() for parameter in group["params"])
        cells = [_cell(group.get(key)) for key in shown]
        rows.append([index, *cells, len(group["params"]), f"{elements:,}", ", ".join(names[:max_names]) + more])
    return table(rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{float(value):.6g}" if isinstance(value, float | Tensor) and not isinstance(value, bool) else str(value)


def _entries_of(module: nn.Module, prefix: str, inside_deformable: bool) -> Iterator[_Entry]:
    # Depth first with the module's own parameters ahead: the order of mmengine, and one visit for each name.
    for own_name, parameter in module.named_parameters(recurse=False):
        clean = f"{prefix}."
        for part in _WRAPPER_PARTS:
            clean = clean.replace(part, "")
        yield _Entry(clean + own_name, parameter, module, inside_deformable)
    is_deformable = any(base.__name__ in _DEFORMABLE for base in type(module).__mro__)
    for child_name, child in module.named_children():
        yield from _entries_of(child, f"{prefix}.{child_name}" if prefix else child_name, is_deformable)


def _check_keys(custom_keys: dict[str, dict[str, Any]], entries: list[_Entry]) -> None:
    for key, options in custom_keys.items():
        where = f"custom_keys[{key!r}]"
        if not isinstance(options, dict):
            raise UsageTypeError(f"{where} must be a dict such as dict(lr_mult=0.1); got {options!r}")
        if not any(key in entry.path for entry in entries):
            paths = {e.name.rsplit(".", depth)[0] for e in entries for depth in range(e.name.count(".") + 1)}
            parts = {part for path in paths for part in path.split(".") if not part.isdigit()}
            top = listed(dict.fromkeys(entry.name.split(".")[0] for entry in entries))
            hint = did_you_mean(key, sorted(paths | parts)) or f" Its modules are {top}."
            require(False, f"custom_keys: {key!r} is part of no parameter name of the model.{hint}")
        for option, value in options.items():
            base = _MULTIPLIERS.get(option)
            if base is None:
                hint = did_you_mean(option, _MULTIPLIERS, cutoff=0.75)
                require(not hint, f"{where}: unknown option {option!r}.{hint}")
                continue
            _require_factor(f"{where}: {option}", value)
            require(base not in options, f"{where}: give {option} or {base}, not both")


def _require_factor(name: str, value: Any) -> None:
    is_factor = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    require(is_factor, f"{name} must be a number from 0 on; got {value!r}")


def layer_scales(
    names: Sequence[str], layer_decay: float, layer_id: Callable[[str], int] | None = None
) -> dict[str, float]:
    """Return the factor of the learning rate of every parameter: ``layer_decay ** (last_layer - layer)``.

    Layer 0 is the stem (embeddings, tokens), then comes one layer a block in the order of the model, and last what
    follows the blocks (final norm, head), whose factor is 1. Parameters of a stage outside its blocks (a downsampling)
    belong to the stage's last block. The formula is that of ELECTRA (Clark et al., ICLR 2020), applied to vision
    transformers by BEiT (Bao et al., ICLR 2022).

    Args:
        names: Full names of the parameters, in the order of the model.
        layer_decay: Factor from one layer to the one before it, in `(0, 1]`.
        layer_id: Gives the layer of a parameter by its name where the usual names do not fit; 0 is the stem, the
            greatest number that it returns the head.

    Raises:
        UsageValueError: If no name looks like a numbered block, or ``layer_id`` returns something that is no layer.
    """
    layers = {name: layer_id(name) for name in names} if layer_id else _layers_by_name(names)
    for name, layer in layers.items():
        require_int(f"layer_id({name!r})", layer, 0)
    last = max(layers.values(), default=0)
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def _layers_by_name(names: Sequence[str]) -> dict[str, int]:
    # The prefixes that end in a block's number: `a.layers.1.blocks.0.w` has two.
    paths = {name: tuple(name[: match.end()] for match in _BLOCK.finditer(name)) for name in names}
    blocks = dict.fromkeys(path for path in paths.values() if path)
    # A path that others extend is not a block of its own (`stages.1` beside `stages.1.blocks.0`).
    blocks = [b for b in blocks if not any(other != b and other[: len(b)] == b for other in blocks)]
    what = "layer_decay: no parameter name holds a numbered block such as 'blocks.0.' or 'encoder.layer.0.'"
    advice = "pass layer_id=a function from the parameter's name to its layer"
    require(bool(blocks), f"{what} (names begin with {', '.join(names[:3])}); {advice}")
    number = {block: index + 1 for index, block in enumerate(blocks)}
    layers = {}
    for name, path in paths.items():
        if path:
            layers[name] = max(index for block, index in number.items() if block[: len(path)] == path)
        else:
            layers[name] = 0 if _STEM.search(name) else len(blocks) + 1
    return layers

"""What an optimizer's saved state has to fit: the same groups of the same parameters, and which options differ."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam

from .._torch import take_step
from ..errors import UsageValueError
from ..logging import print_log
from ..text import listed, short
from ._checks import require
from .param_groups import NOT_OPTIONS

_NEED_STATE = {"amsgrad", "centered"}  # options that need a state from the first step on

_SMALL = (2, 3, 4, 5, 6, 7)
_HOW = ("foreach", "fused", "capturable")  # options without influence on what is kept
_PLAIN = (Tensor, int, float, str, bytes, list, tuple, dict, type(None))


def options_as_built(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the plain options of each parameter group, with the initial value where a schedule has begun."""
    found = []
    for group in groups:
        options = {key: group.get(f"initial_{key}", value) for key, value in group.items() if key not in NOT_OPTIONS}
        if "betas" in group and "initial_momentum" in group:
            options["betas"] = (group["initial_momentum"], *group["betas"][1:])
        numbers = {key: v.item() for key, v in options.items() if isinstance(v, Tensor) and v.numel() == 1}
        found.append({**{key: v for key, v in options.items() if not isinstance(v, Tensor)}, **numbers})
    return found


def check_same_groups(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Check that a saved state has the groups, and in them the parameters, of an optimizer.

    Raises:
        UsageValueError: If it has not.
    """
    for key in ("state", "param_groups"):
        names = listed(sorted(map(str, state_dict)))
        require(key in state_dict, f"not an optimizer's state: no key {key!r}; it has {names}")
    saved, present = state_dict["param_groups"], optimizer.param_groups
    saved_sizes, sizes = [len(g["params"]) for g in saved], [len(g["params"]) for g in present]
    was = f"the saved optimizer has {len(saved_sizes)} parameter groups of sizes [{listed(saved_sizes, 8)}]"
    now = f"this one {len(sizes)} of sizes [{listed(sizes, 8)}]. Build it with the same model, freezing and groups"
    advice = 'of mmengine with paramwise_cfg, param_groups(..., group_by="param")'
    require(saved_sizes == sizes, f"{was}, {now}; {advice}")
    for index, (old, new) in enumerate(zip(saved, present)):
        for was, now in zip(old.get("param_names") or (), new.get("param_names") or ()):
            what = f"parameter group {index}: the saved optimizer has {was!r} where this one has {now!r}"
            require(was == now, f"{what}. Build it with the same model and param_groups options")


def flaw_of(optimizer: Optimizer, state_dict: dict[str, Any]) -> str | None:
    """Return what of a saved state no optimizer of this class can have saved; None where nothing is known.

    Whether the groups are the same says `check_same_groups`. Of torch's optimizers the state of each parameter is
    compared with what a step makes of a small one.

    Args:
        optimizer: The optimizer that would load it.
        state_dict: The state; tensors may be stand-ins.
    """
    pairs = list(zip(state_dict["param_groups"], optimizer.param_groups))
    if any(len(saved["params"]) != len(group["params"]) for saved, group in pairs):
        return None  # other groups: loading says in what
    for index, (saved, group) in enumerate(pairs):
        samples: dict[Any, dict[str, Any]] = {}
        for option in (key for key in saved if key in group and key not in NOT_OPTIONS):
            if not _is_alike(saved[option], group[option]):
                return f"group {index}: {option}={short(saved[option], 40)} where this one has {group[option]!r}"
        for number, parameter in zip(saved["params"], group["params"]):
            entry, kind = state_dict["state"].get(number), (parameter.dim(), parameter.dtype, parameter.device)
            if entry and kind not in samples:
                samples[kind] = _state_of_a_step(optimizer, saved, parameter)
            for key, sample in samples[kind].items() if entry else ():
                value = entry.get(key)
                if isinstance(value, _PLAIN) and isinstance(sample, Tensor) and not _is_sound(value, sample, parameter):
                    what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else short(value, 40)
                    return f"parameter {number}: {key} is {what}, of a parameter of shape {tuple(parameter.shape)}"
    return None


def _is_alike(saved: Any, present: Any) -> bool:
    number = (int, float, Tensor)
    if isinstance(present, tuple | list):
        is_same_length = isinstance(saved, tuple | list) and len(saved) == len(present)
        return is_same_length and all(each is None or isinstance(each, number) for each in saved)
    return saved is None or not isinstance(present, number) or isinstance(saved, number)


def _is_sound(value: Any, sample: Tensor, parameter: Tensor) -> bool:
    if sample.numel() == 1:  # a count; earlier versions of torch had numbers
        return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
    is_like_parameter = sample.dim() == parameter.dim() and sample.shape == _SMALL[: sample.dim()]
    return isinstance(value, Tensor) and (not is_like_parameter or value.shape == parameter.shape)


def _state_of_a_step(optimizer: Optimizer, saved: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Return the state that a step makes of a small parameter with as many dimensions; nothing for foreign classes."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim.") or isinstance(optimizer, LBFGS | SparseAdam):
        return {}
    small = torch.ones(_SMALL[: parameter.dim()], dtype=parameter.dtype, device=parameter.device, requires_grad=True)
    options = {k: saved.get(k, v) for k, v in optimizer.defaults.items() if k not in _HOW}
    options = {k: v for k, v in options.items() if not isinstance(v, Tensor)}
    made = kind([small], **{k: v for k, v in options.items() if k in inspect.signature(kind).parameters})
    made.param_groups[0].update(options)
    small.grad = torch.zeros_like(small)
    take_step(made)
    return dict(made.state[small])


def option_changes(saved_as_built: list[dict[str, Any]], as_built: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return which options were built with another value than those of a saved state were.

    What was built alike is no change, whatever a hook or a schedule has made of it since.

    Returns:
        For each its ``group`` (the number), ``option``, ``was`` and ``is``.
    """
    return [
        {"group": index, "option": option, "was": old[option], "is": now}
        for index, (old, new) in enumerate(zip(saved_as_built, as_built))
        for option, now in new.items()
        if option in old and old[option] != now
    ]


def apply_changes(optimizer: Optimizer, changes: list[dict[str, Any]], are_in_force: list[bool], why_not: str) -> None:
    """Set options that were changed by the user in the groups of an optimizer whose state was loaded, and log them.

    Args:
        optimizer: The optimizer.
        changes: What `option_changes` returned.
        are_in_force: For each whether to set it.
        why_not: What keeps the others from having an effect.

    Raises:
        UsageValueError: If an option needs a state that the loaded optimizer has not kept.
    """
    for change, is_in_force in zip(changes, are_in_force):
        group, option, value = optimizer.param_groups[change["group"]], change["option"], change["is"]
        what, was = f"{type(optimizer).__name__}, group {change['group']}: {option}={value!r}", f"{change['was']!r}"
        if not is_in_force:
            print_log(f"{what} (was {was}) has no effect: {why_not}", "current", logging.WARNING)
            continue
        if value and option in _NEED_STATE:
            raise UsageValueError(
                f"parameter group {change['group']}: {option}={value!r} needs a state that the saved optimizer, which "
                f"had {option}={was}, has not kept: leave it, or begin anew from the weights (load_from)."
            )
        _set_option(group, option, value)
        print_log(f"{what} (was {was}) is in force from here", "current", logging.WARNING)


def undo_schedules(groups: list[dict[str, Any]], as_built: list[dict[str, Any]]) -> None:
    """Give the options of groups that schedules have moved the values that they were built with."""
    for group, built in zip(groups, as_built):
        for option in built.keys() & group.keys():
            if f"initial_{option}" in group or (option == "betas" and "initial_momentum" in group):
                _set_option(group, option, built[option])


def _set_option(group: dict[str, Any], option: str, value: Any) -> None:
    """Set an option, and what a schedule of it begins from."""
    if isinstance(group[option], Tensor):
        group[option].fill_(value)
    else:
        group[option] = value
    if f"initial_{option}" in group:
        group[f"initial_{option}"] = value
    if option == "betas" and "initial_momentum" in group:
        group["momentum"] = group["initial_momentum"] = value[0]


def is_overruled(groups: list[dict[str, Any]], as_built: list[dict[str, Any]], change: dict[str, Any]) -> bool:
    """Return whether a schedule of the present groups begins from a value of its own, whatever a changed option is."""
    built = as_built[change["group"]][change["option"]]
    return groups[change["group"]].get(f"initial_{change['option']}", built) != built

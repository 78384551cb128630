"""What the checkpoint of a run looks like inside, so that one which only pretends to be one is known before a resume.

Tensors are not looked at: these functions get the file with stand-ins in their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..text import printable

FORMAT_VERSION = 2
"""Of checkpoints; version 0.1 wrote none. Each version reads those of all earlier ones."""
NEEDED = ("state_dict", "optimizer", "train_loop", "param_schedulers")
"""Entries without which nothing can be resumed."""
_NO_TENSOR = (str, bytes, list, tuple)
_STEP_COUNTS = ("num_optimizer_steps", "num_steps_owed", "inner_count", "num_consecutive_skips", "num_accumulated")
_COUNTS = ("epoch", "iter", "batch", "samples")


def why_not_resumable(checkpoint: Any) -> str | None:
    """Return why a run cannot be resumed from a checkpoint, as far as its structure says; None where nothing does.

    Args:
        checkpoint: What the file holds; tensors may be stand-ins.
    """
    if lack := _what_is_missing(checkpoint):
        return lack
    version = checkpoint["meta"].get("format_version", 1) if isinstance(checkpoint.get("meta"), dict) else 1
    if _is_count(version) and version > FORMAT_VERSION:
        return f"it has format {version}, and this lazyengine reads up to {FORMAT_VERSION}; update lazyengine"
    flaws = [name for name, is_sound in _CHECKS.items() if not _holds(is_sound, checkpoint.get(name))]
    if flaws:
        return f"it is damaged, or not a checkpoint of lazyengine: its {', '.join(flaws)} cannot be what it stands for"
    return None


def _what_is_missing(checkpoint: Any) -> str | None:
    """None for the state of a whole run; otherwise what a file such as published weights lacks."""
    keys = [str(key) for key in checkpoint] if isinstance(checkpoint, dict) else []
    missing = [key for key in NEEDED if key not in keys]
    if not missing:
        return None
    held = printable(", ".join(keys[:8]) + (", …" if len(keys) > 8 else ""))
    return (
        f"it has no {', '.join(missing)}. It holds {held or type(checkpoint).__name__}; weights alone are loaded with "
        "load_from (or --checkpoint)"
    )


def _holds(is_sound: Any, value: Any) -> bool:
    try:
        return bool(is_sound(value))
    except (TypeError, KeyError, AttributeError, RecursionError):  # a class of somebody else in place of a dict
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_meta(meta: Any) -> bool:
    hashes = (meta.get(name) or {} for name in ("frozen", "external"))
    texts = (meta.get(name, "") for name in ("run_id", "freeze_mode"))
    counts = (meta.get(name, 0) for name in ("epoch", "iter", "start", "format_version", "seed_scheme"))
    tables = (*hashes, meta.get("experiment") or {})
    are_texts = all(_is_named(each) and all(isinstance(v, str) for v in each.values()) for each in tables)
    data = meta.get("data") or {}
    is_data = _is_named(data) and all(map(_is_named, data.values()))
    return is_data and are_texts and all(map(_is_count, counts)) and all(isinstance(t, str) for t in texts)


def _is_state_dict(state: Any) -> bool:
    wrong = (int, float, *_NO_TENSOR, type(None))
    return _is_named(state) and not any(isinstance(v, wrong) for k, v in state.items() if "extra_state" not in k)


def _is_optimizer(state: Any) -> bool:
    if not _is_named(state):
        return False
    if "param_groups" not in state:  # several, by name, and what they count together
        return all(isinstance(each, Mapping) for each in state.values()) and all(
            _is_optimizer(each) for name, each in state.items() if name != "optim_wrapper"
        )
    groups, states, counters = state["param_groups"], state["state"], state.get("optim_wrapper", {})
    are_groups = isinstance(groups, list) and all(map(_is_group, groups)) and _is_named(counters)
    values = [value for each in states.values() for value in each.values()]  # of an optimizer, by parameter
    is_counted = all(_is_count(counters.get(name, 0)) for name in _STEP_COUNTS)
    built = counters.get("as_built", groups)
    is_built = isinstance(built, list) and len(built) == len(groups) and all(map(_is_named, built))
    return are_groups and is_counted and is_built and not any(isinstance(value, str | bytes) for value in values)


def _is_group(group: Any) -> bool:
    is_rate = not isinstance(group.get("lr", 0.0), (*_NO_TENSOR, Mapping, bool))  # None: the optimizer sets it
    return _is_named(group) and isinstance(group["params"], list) and all(map(_is_count, group["params"])) and is_rate


def _is_position(state: Any) -> bool:
    lengths = (state.get(name) for name in ("epoch_length", "global_batch_size", "accumulative_counts"))
    are_counts = "iter" in state and all(_is_count(state.get(name, 0)) for name in _COUNTS)
    return are_counts and isinstance(state.get("val_due", False), bool) and all(n is None or n > 0 for n in lengths)


def _are_schedulers(states: Any) -> bool:
    chains = list(states.values()) if isinstance(states, Mapping) else [states]
    return all(isinstance(chain, list) and all(map(_is_scheduler, chain)) for chain in chains)


def _is_scheduler(state: Any) -> bool:
    return _is_named(state) and all(isinstance(state.get(name, 0), int) for name in ("last_step", "_global_step"))


def _is_hub(state: Any) -> bool:
    curves, info = state["log_scalars"], state["runtime_info"]
    return _is_named(curves) and _is_named(info) and all(map(_is_curve, curves.values()))


def _is_curve(curve: Any) -> bool:
    counts = (curve[name] for name in ("max_length", "num_updates", "num_ints", "longest_window"))
    is_summed = curve["older"] is None or (isinstance(curve["older"], list | tuple) and len(curve["older"]) == 5)
    wrong = (*_NO_TENSOR, int, float, Mapping)
    are_tensors = not isinstance(curve["values"], (*wrong, type(None))) and not isinstance(curve["counts"], wrong)
    return _is_named(curve) and are_tensors and is_summed and all(map(_is_count, counts))


def _are_hooks(states: Any) -> bool:
    return states is None or (_is_named(states) and all(isinstance(state, Mapping) for state in states.values()))


def _are_ranks(states: Any) -> bool:
    return states is None or (isinstance(states, list) and all(map(_is_named, states)))


_CHECKS = {
    "meta": _is_meta,
    "state_dict": _is_state_dict,
    "optimizer": _is_optimizer,
    "train_loop": _is_position,
    "param_schedulers": _are_schedulers,
    "message_hub": _is_hub,
    "hooks": _are_hooks,
    "ranks": _are_ranks,
}

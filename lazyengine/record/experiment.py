"""What two starts of an experiment differ in: their configs, leaf by leaf."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.flat import flat_config as flat_config  # of this package too
from ..nesting import iter_leaves

_PLACES = ("runner.work_dir", "runner.experiment_name", "runner.resume", "runner.launcher", "runner.device")
_COUNTERS = ("last_step", "_global_step", "last_epoch", "_step_count", "verbose")
_OVERRULED = {
    "runner.load_from": "the checkpoint holds the weights",
    "runner.seed_scheme": "the checkpoint's stays",
    "init_cfg": "the checkpoint holds the weights",
    "init_scale": "the scale that was reached stays",
}
"""Arguments that a resume does not ask, by path or by name."""


def saved_config(folder: str, text: str) -> dict[str, str] | None:
    """Return the values of a config that a checkpoint holds as Python text, which is not run.

    They are read from a ``config.json`` beside a ``config.py`` with the same text, in the folder of the checkpoint or
    of a start.

    Args:
        folder: The folder of the checkpoint.
        text: The config.

    Returns:
        The values by path; None where there is no such file.
    """
    for path in [folder, *sorted(glob.glob(os.path.join(glob.escape(folder), "*", "")), reverse=True)]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            if Path(path, "config.py").read_text(encoding="utf-8") == text:
                return flat_config(Path(path, "config.json").read_text(encoding="utf-8"))
    return None


def built_values(loader: Any, wrappers: Mapping[str, Any], schedulers: Any) -> dict[str, str]:
    """Return what was built of an experiment as text by path, also where no config says it; call before a resume.

    Args:
        loader: The train loader.
        wrappers: The optimizer wrappers by name.
        schedulers: The schedulers, one or nested.
    """
    dataset: Any = getattr(loader, "dataset", None)
    found: dict[str, Any] = {"loader.dataset": _class(dataset)}
    if hasattr(type(dataset), "__len__"):
        with contextlib.suppress(TypeError):  # a ChainDataset of streams without length has one that raises
            found["loader.dataset.length"] = len(dataset)
    for name in ("batch_size", "drop_last"):
        found[f"loader.{name}"] = getattr(loader, name, None)
    sampler = getattr(loader, "sampler", None)
    found["loader.sampler"] = _class(sampler)
    found.update({f"loader.sampler.{key}": getattr(sampler, key, None) for key in ("shuffle", "seed", "round_up")})
    for name, wrapper in wrappers.items():
        path = f"optim_wrapper.{name}".rstrip(".")
        found[f"{path}.optimizer"] = _class(wrapper.optimizer)
        found[f"{path}.accumulative_counts"] = wrapper.accumulative_counts
        found[f"{path}.precision"] = wrapper.precision and str(wrapper.precision)
        clipping = getattr(getattr(wrapper, "_clipping", None), "options", {})
        found.update({f"{path}.clip_grad.{key}": value for key, value in clipping.items()})
    for i, (_, scheduler) in enumerate(iter_leaves(schedulers or [])):
        found[f"param_schedulers[{i}]"] = _class(scheduler)
        found.update({f"param_schedulers[{i}].{key}": value for key, value in _plain(scheduler)})
    return {path: json.dumps(value, default=str) for path, value in found.items() if value is not None}


def _class(value: Any) -> str | None:
    return None if value is None else type(value).__qualname__


def _plain(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object that are plain values, and no counters."""
    kinds = (bool, int, float, str, tuple)
    items = sorted(getattr(value, "__dict__", {}).items())
    return [(key, v) for key, v in items if isinstance(v, kinds) and key not in _COUNTERS and key[:1] != "_"]


def changed_options(
    former: Mapping[str, str], present: Mapping[str, str], name: str, options: Collection[str]
) -> set[str]:
    """Return which options of an optimizer two configs have otherwise; all, where they build its groups otherwise.

    Args:
        former: The values of a config by path.
        present: Those of the other.
        name: The name of the optimizer's wrapper; empty where it is the only one.
        options: All options.
    """
    node = ".".join(filter(None, ("runner.optim_wrapper", name, "optimizer")))
    was, now = (
        {path.removeprefix(f"{at}."): value for path, value in values.items() if path.startswith(f"{at}.")}
        for values in (former, present)
        for at in (values.get(node, node),)  # a node that has a name stands under it
    )
    changed = {path for path in was.keys() | now.keys() if was.get(path) != now.get(path)}
    return set(options) if any(path.startswith("params") for path in changed) else changed & set(options)


def changed_values(
    former: Mapping[str, str], present: Mapping[str, str], wrappers: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what differs between the values of two starts and the options of optimizers, and what becomes of it.

    Where a run lies and what it is called is no difference. A value that is not there is None.

    Args:
        former: The values of the checkpoint by path.
        present: Those of this start.
        wrappers: The optimizer wrappers by name, whose state was loaded: their ``changes`` are in force.

    Returns:
        Entries with ``path``, ``was``, ``is``, ``effect`` (``"in force"`` or ``"without effect"``) and ``why``.
    """
    options = [(name, change) for name, wrapper in wrappers.items() for change in wrapper.changes]
    in_force = {change["option"] for _, change in options}
    optimizers = {type(wrapper.optimizer).__name__: wrapper.optimizer.defaults for wrapper in wrappers.values()}
    changes, of_config = [], set()
    for path in dict.fromkeys([*former, *present]):
        was, now = former.get(path), present.get(path)
        if was == now or path.startswith(_PLACES):
            continue
        parts = path.replace("[", ".").split(".")
        parent, _, option = path.rpartition(".")
        why = next((why for name, why in _OVERRULED.items() if path.startswith(name) or name in parts), "")
        if option in optimizers.get(present.get(f"{parent}._target_", "").rpartition(".")[2], ()):
            of_config.add(option)
            why = "" if option in in_force else "the saved value stays"
        changes.append(_change(path, was, now, why))
    for name, change in options:
        if change["option"] not in of_config:
            parts = (name, f"optimizer.param_groups[{change['group']}]", change["option"])
            changes.append(_change(".".join(filter(None, parts)), change["was"], change["is"]))
    return changes


def changed_lines(what: str, lines: Sequence[str], former: str | None = None) -> list[dict[str, Any]]:
    """Return entries as those of `changed_values` for what is told in lines: ``"code"`` or ``"data"``."""
    return [{**_change(line, former, None), "why": what} for line in lines]


def as_line(change: Mapping[str, Any]) -> str:
    """Return a change, with the iteration ``from_iter`` from which it counts, as a line of the log."""
    what = f"{change['was']} -> {change['is']}" if change["why"] not in ("code", "data") else change["why"]
    if change["effect"] == "in force":
        return f"{change['path']}: {what}: in force from iteration {change['from_iter']}"
    return f"{change['path']}: {what}: without effect, because {change['why']}"


def _change(path: str, was: Any, now: Any, overruled: str = "") -> dict[str, Any]:
    effect = "without effect" if overruled else "in force"
    return {"path": path, "was": was, "is": now, "effect": effect, "why": overruled}

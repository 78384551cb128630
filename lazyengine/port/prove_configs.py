"""Show that a ported config says what the old one said: both as leaves, compared one by one.

The way back from our form to mmengine's is written here on its own, from what the runner and its parts mean, and shares
nothing with the translation.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..config import arguments_of, is_node, target_of
from .classes import GROUP_RULE, RENAMED
from .expressions import Symbol
from .mmengine_configs import LAYER_DECAY, PARAMWISE

_OF_NO_EFFECT = re.compile(
    r"(default_scope|custom_imports|log_level|launcher|vis_backends|env_cfg|tta_\w+|_scope_)(\.|$)"
    r"|.*(\.|^)(_scope_|_delete_)$|.*\.(backend_args|file_client_args)(\.|$)|.*\.worker_init_fn(\.|$)"
    r"|visualizer\.(name|save_dir|vis_backends\.\d+\.(save_dir|img_save_dir|config_save_file|scalar_save_file))$"
    r"|(default|custom)_hooks\.\w+\.(interval_exp_name|out_suffix|keep_local|log_metric_by_epoch|draw_gt|draw_pred)$"
    r"|(default|custom)_hooks\.\w+\.priority$|randomness\.diff_rank_seed$|auto_scale_lr\.|optim_wrapper\.use_fsdp$"
)
_MADE_EXPLICIT = re.compile(
    r"(default|custom)_hooks\.\w+(\.(type|interval|strict_load|min_delta|count_iters))?$|\w+_dataloader(\.\d+)?\.collate_fn\.type$"
    r"|\w+_cfg(\.(type|by_epoch))?$|optim_wrapper(\.\w+)?\.type$|visualizer\.type$|log_processor\.type$|randomness\.seed$"
    r"|.*data_preprocessor\.(type|batch_augments(\..*)?)$|param_scheduler\..*count_iters$"
)
_MODES = ("train", "val", "test")


@dataclass(frozen=True)
class Difference:
    """A leaf that is not the same.

    Attributes:
        path: Where it is, in mmengine's form.
        old: What the old config says; `"(nothing)"` where it says nothing.
        new: What the new one says.
    """

    path: str
    old: object
    new: object


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes modules that cannot be imported importable while it is entered: every name in them is a class.

    Args:
        packages: Names of the top packages to stand in for.
    """

    def __init__(self, packages: Sequence[str]):
        self.packages = packages

    def __enter__(self) -> StandIns:
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)
        made = [name for name, module in sys.modules.items() if getattr(module, "__loader__", None) is self]
        for name in made:
            del sys.modules[name]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for a module of the packages."""
        is_ours = name.partition(".")[0] in self.packages
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module, in which any public name is a class that takes any arguments."""

        def missing(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            module.__dict__[name] = made = _stand_in(name, spec.name)
            return made

        module = ModuleType(spec.name)
        module.__path__ = []
        module.__dict__["__getattr__"] = missing
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


class _StandIn(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def method(**kwargs: Any) -> Any:
            return cls(**kwargs)

        method.__name__, method.__module__ = name, cls.__module__
        method.__qualname__ = f"{cls.__name__}.{name}"
        return method


def _stand_in(name: str, module: str) -> type:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    return _StandIn(name, (), {"__init__": init, "__module__": module})


# ------------------------------------------------------------------------------------------------ the way back
def as_mmengine(cfg: Any) -> dict[str, Any]:
    """Return a loaded config of ours in mmengine's form.

    Args:
        cfg: The config; where it has a `runner`, what that holds counts, else its parts by name.
    """
    parts = dict(arguments_of(cfg))
    runner = dict(arguments_of(parts["runner"])) if "runner" in parts else {}
    held = {**parts, **runner}
    result: dict[str, Any] = {}
    if "model" in held:
        result["model"] = _plain(held["model"])
    preprocessor = parts.get("data_preprocessor")
    if preprocessor is not None:
        result["data_preprocessor"] = _plain(preprocessor)
        arguments = arguments_of(held["model"]) if is_node(held.get("model")) else {}
        if arguments.get("data_preprocessor") is preprocessor:
            del result["model"]["data_preprocessor"]
    _put_optimizer(held, result)
    for mode in _MODES:
        _put_loop(mode, parts, held.get(f"{mode}_loop"), result)
    hooks = runner.get("hooks") or {**parts.get("default_hooks", {}), **parts.get("custom_hooks", {})}
    custom = parts.get("custom_hooks", {})
    if defaults := {name: _plain(hook) for name, hook in hooks.items() if name not in custom}:
        result["default_hooks"] = defaults
    if custom:
        result["custom_hooks"] = [_plain(hooks[name]) for name in custom]
    for name in ("visualizer", "log_processor", "load_from", "resume", "work_dir", "experiment_name"):
        if name in held:
            result[name] = _plain(held[name])
    randomness = {"seed": held.get("seed"), "deterministic": held.get("deterministic") == "warn" or None}
    if kept := {name: value for name, value in randomness.items() if value is not None}:
        result["randomness"] = kept
    return result


def _put_optimizer(held: dict[str, Any], result: dict[str, Any]) -> None:
    if "optim_wrapper" in held:
        wrapper = result["optim_wrapper"] = _plain(held["optim_wrapper"])
        if wrapper.get("type") == "OptimWrapperDict":
            del wrapper["type"]
            for part in wrapper.values():
                _name_groups(part)
        else:
            _name_groups(wrapper)
    schedulers = held.get("param_schedulers")
    if schedulers is not None:
        plain = _plain(schedulers)
        for one in plain if isinstance(plain, list) else [s for each in plain.values() for s in each]:
            one.pop("optimizer", None)
        result["param_scheduler"] = plain


def _name_groups(wrapper: dict[str, Any]) -> None:
    optimizer = wrapper.get("optimizer")
    if isinstance(optimizer, dict):
        groups = optimizer.pop("params", {})
        if groups.get("type", "").endswith(".groups"):
            wrapper["constructor"] = groups["type"].removesuffix(".groups")
            groups = groups["paramwise_cfg"]
        groups = {k: v for k, v in groups.items() if k not in ("model", "type")}
        if "layer_decay" in groups:
            groups["layer_decay_rate"] = groups.pop("layer_decay")
        if groups:
            wrapper["paramwise_cfg"] = groups
    elif optimizer == "REQUIRED":
        del wrapper["optimizer"]


def _put_loop(mode: str, parts: dict[str, Any], loop: Any, result: dict[str, Any]) -> None:
    arguments = dict(arguments_of(loop)) if is_node(loop) else {}
    loader = arguments.pop("dataloader", None)
    loader = loader if is_node(loader) or isinstance(loader, list) else parts.get(f"{mode}_dataloader")
    evaluator = arguments.pop("evaluator", None)
    evaluator = (
        evaluator if evaluator is not None and _plain(evaluator) != "REQUIRED" else parts.get(f"{mode}_evaluator")
    )
    if loader is not None:
        result[f"{mode}_dataloader"] = (
            [_loader_as_mmengine(each) for each in loader] if isinstance(loader, list) else _loader_as_mmengine(loader)
        )
    if evaluator is not None:
        result[f"{mode}_evaluator"] = _plain(evaluator)
    if is_node(loop):
        options = {name: _plain(value) for name, value in arguments.items()}
        if options.get("precision") == "float16":
            options["fp16"] = bool(options.pop("precision"))
        name = _name(target_of(loop))
        result[f"{mode}_cfg"] = {"type": name, **options}
        if mode == "train" and name in ("EpochBasedTrainLoop", "IterBasedTrainLoop"):
            result["train_cfg"]["by_epoch"] = name == "EpochBasedTrainLoop"


def _loader_as_mmengine(loader: Any) -> Any:
    plain = _plain(loader)
    if is_node(loader):
        plain.pop("type", None)
        for key in ("sampler", "batch_sampler"):
            if isinstance(plain.get(key), dict):
                plain[key].pop("dataset", None)
        if "batch_sampler" in plain:
            moved = {key: plain["batch_sampler"].pop(key, None) for key in ("sampler", "batch_size")}
            moved["sampler"].pop("dataset", None)
            plain.update(moved)
        if plain.get("dataset") == "REQUIRED":
            del plain["dataset"]
        collate = plain["collate_fn"]
        plain["collate_fn"] = collate if isinstance(collate, dict) else {"type": collate}
    return plain


def _plain(value: Any) -> Any:
    if is_node(value):
        if (made := _name(target_of(value))).endswith(".from_pretrained"):
            own = {k: _plain(v) for k, v in arguments_of(value).items()}
            given = "from_pretrained" if _module(target_of(value)) == "diffusers" else "name_or_path"
            return {"type": made.partition(".")[0], given: own.pop("pretrained_model_name_or_path", None), **own}
        plain = {"type": made, **{k: _plain(v) for k, v in arguments_of(value).items()}}
        if made.endswith("Init") and isinstance(plain.get("override"), dict):
            entries = [{**(init or {}), "name": name} for name, init in plain["override"].items()]
            plain["override"] = entries if len(entries) > 1 else entries[0]
        return plain
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    return "REQUIRED" if repr(value) == "REQUIRED" else value


def _module(target: Any) -> str:
    return str(getattr(target, "__module__", "")).partition(".")[0]


def _name(target: Any) -> str:
    if isinstance(target, str):
        return target.rpartition(":")[2]
    if isinstance(holder := getattr(target, "__self__", None), type):  # a class method, of the class it was named by
        return f"{holder.__name__}.{target.__name__}"
    return target.__qualname__


# --------------------------------------------------------------------------------------------------- comparing
def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of each leaf; an empty container is a leaf, and so is the kind of a list."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        yield f"{path}.kind", "list" if isinstance(value, list) else "tuple"
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{i}")
    else:
        yield path, value


def compare_configs(old: dict[str, Any], cfg: Any, registered: Any = None) -> tuple[int, list[Difference]]:
    """Return how many leaves of the old config were compared, and those that are not the same.

    Args:
        old: The old config as mmengine resolves it.
        cfg: The ported one, loaded.
        registered: Function from a registered name to the name of its class.
    """
    shown = registered or (lambda name: name)
    new_values = as_mmengine(cfg)
    after = dict(leaves(new_values)) if new_values else {}
    before = {k: v for k, v in leaves(_settled(old)) if k and (k in after or not _OF_NO_EFFECT.match(k))}
    found = []
    for path, value in before.items():
        if path not in after:
            if value is not None and value != {} and not (value is False and path == "resume"):
                found.append(Difference(path, value, "(nothing)"))
        elif not _equal(path, value, after[path], shown):
            found.append(Difference(path, value, after[path]))
    for path, value in after.items():
        if path not in before and not _MADE_EXPLICIT.match(path) and path.rpartition(".")[0] not in before:
            found.append(Difference(path, "(nothing)", value))
    return len(before), found


def _settled(old: dict[str, Any]) -> dict[str, Any]:
    """Return the old values that take part in a run: names that only compute others are left out."""
    known = {"model", "data_preprocessor", "optim_wrapper", "param_scheduler", "default_hooks", "custom_hooks"}
    known |= {"visualizer", "log_processor", "load_from", "resume", "work_dir", "experiment_name", "randomness"}
    known |= {f"{mode}_{part}" for mode in _MODES for part in ("dataloader", "cfg", "evaluator")}
    result = {name: value for name, value in old.items() if name in known}
    schedulers = result.get("param_scheduler")
    if isinstance(schedulers, dict) and "type" in schedulers:
        result["param_scheduler"] = [schedulers]
    result["custom_hooks"] = list(result.get("custom_hooks") or ()) or None
    defaults = result.get("default_hooks") or {}
    result["default_hooks"] = {name: hook for name, hook in defaults.items() if hook is not None}
    wrapper = result.get("optim_wrapper")
    constructor = str(wrapper.get("constructor", "")) if isinstance(wrapper, dict) else ""
    if isinstance(wrapper, dict) and (
        LAYER_DECAY in constructor
        or constructor == GROUP_RULE
        or ("optimizer" not in wrapper and "type" not in wrapper)
    ):
        result["optim_wrapper"] = {k: v for k, v in wrapper.items() if k != "constructor"}
    elif isinstance(wrapper, dict) and isinstance(wrapper.get("paramwise_cfg"), dict) and "constructor" not in wrapper:
        known = {k: v for k, v in wrapper["paramwise_cfg"].items() if k in PARAMWISE}  # the others are never read
        result["optim_wrapper"] = {**wrapper, "paramwise_cfg": known}
    if isinstance(result.get("randomness"), dict):
        kept = {k: v for k, v in result["randomness"].items() if v is not None and v is not False}
        result["randomness"] = kept
    return result


def _equal(path: str, old: Any, new: Any, registered: Any) -> bool:
    if isinstance(old, Symbol):
        old = f"{old.module}.{old.name}"
    if isinstance(old, str) and isinstance(new, str) and old != new:
        last = registered(old)
        names = {last, RENAMED.get(last, last), f"{last}Init", f"{last}.from_pretrained"}
        return new in names or new == old.rpartition(".")[2]
    if isinstance(old, dict) and isinstance(new, dict):  # a leaf is an empty one; of which class is all the same
        return True
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old):
        return math.isnan(new)
    return type(old) is type(new) and old == new

"""Translate a resolved config of mmengine into the names of one of ours; the rules of PORTING.md, in one place each.

The translation is a function of the values alone, also of a base config that holds only a part of an experiment: what
another file will supply is `REQUIRED` there. So a file's statements are the difference between two translations.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

from ..config import LazyCall, UnknownNameError
from .classes import GROUP_RULE, REGISTRY_KEYS, RENAMED, ClassTable
from .expressions import REQUIRED, Call, Code, Joined, Missing, Name, Symbol, bare, same

# Built by code that adds arguments of its own (mmcv's build_norm_layer and the like): these stay dicts.
KEPT_DICTS = re.compile(
    r"(norm|act|conv|dcn|padding|upsample|downsample|dropout|attn|ffn|plugin|nms|pos|drop|order|ema)_(cfgs?|config)|nms|plugins|"
    r"(\w+_)?(norm|act|conv|ffn|attn)_cfgs?|dcn|sac|stage_with_dcn|transformerlayers|roi_layer"
)
_SETTLED = {"default_scope", "custom_imports", "env_cfg", "log_level", "launcher", "vis_backends", "_scope_"}
_MARKS = {"_scope_", "_delete_"}
_INITIALIZERS = "Constant Xavier Normal TruncNormal Uniform Kaiming Caffe2Xavier Pretrained"
_DEFAULT_HOOKS = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
}
_PRIORITIES = {
    "RuntimeInfoHook": "VERY_HIGH",
    "LoggerHook": "BELOW_NORMAL",
    "ParamSchedulerHook": "LOW",
    "CheckpointHook": "VERY_LOW",
    **dict.fromkeys(("IterTimerHook", "DistSamplerSeedHook", "EMAHook", "EmptyCacheHook", "SyncBuffersHook"), "NORMAL"),
}
# Arguments of mmengine's that have no counterpart and no effect on a result.
_DROPPED = {
    "LoggerHook": {"interval_exp_name", "out_dir", "out_suffix", "keep_local", "log_metric_by_epoch"},
    "ProfilerHook": {"activity_with_cpu", "activity_with_cuda", "by_epoch", "profile_times", "json_trace_path"},
    "LocalVisBackend": {"save_dir", "img_save_dir", "config_save_file", "scalar_save_file"},
    "TensorboardVisBackend": {"save_dir"},
    "VisualizationHook": {"draw_gt", "draw_pred"},
    "AmpOptimWrapper": {"use_fsdp"},
    "MMLogger": {"file_handler_cfg"},
}
_CHANGED_DEFAULTS = {
    "EarlyStoppingHook": {"min_delta": 0.1},
    "EMAHook": {"strict_load": False},
    "CheckpointHook": {"interval": -1},
}
_LOADER_ARGUMENTS = {
    *("batch_size", "num_workers", "persistent_workers", "pin_memory", "drop_last", "prefetch_factor", "timeout")
}
_BUILT = {*REGISTRY_KEYS, "optimizer", "optim_wrapper", "param_scheduler", "sampler", "batch_sampler", "collate_fn"}
PARAMWISE = {
    *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult"),
    *("dcn_offset_lr_mult", "bypass_duplicate", "layer_decay"),
}
_DDP = Symbol("lazyengine.model", "DDP")
_PRETRAINED = "pretrained_model_name_or_path"
LAYER_DECAY = "LearningRateDecayOptimWrapperConstructor"  # mmpretrain's; others have rules of their own
OPTIONS = ("load_from", "resume", "work_dir", "experiment_name")
_ORDER = (
    "data_preprocessor model optimizer optim_wrapper param_schedulers train_dataset train_dataloader train_loop "
    "val_dataset val_dataloader val_evaluator val_loop test_dataset test_dataloader test_evaluator test_loop "
    "default_hooks custom_hooks visualizer log_processor model_setup auto_scale_lr seed deterministic dist_timeout_s "
    "load_from resume work_dir experiment_name runner"
)


class Translator:
    """Translates configs.

    Args:
        table: Where registered names are looked up.
        scope: The `default_scope` of configs that name none.
    """

    def __init__(self, table: ClassTable, scope: str = ""):
        self.table = table
        self.scope = scope
        self.dropped: set[str] = set()

    def translate(self, values: dict[str, Any], scope: str = "") -> dict[str, Any]:
        """Return the names that the config has in our form, in the order in which they are written."""
        self._scope = scope or values.get("default_scope") or self.scope
        given = {key: value for key, value in values.items() if value is not None}
        names: dict[str, Any] = {}
        self._model(given, names)
        self._optimizer(given, names)
        for mode in ("train", "val", "test"):
            self._loop(mode, given, names)
        self._hooks(given, names)
        self._options(given, names)
        if "model" in names and any(self._is_complete(names.get(f"{mode}_loop")) for mode in ("train", "val", "test")):
            names["runner"] = self._runner(names)
        self.dropped |= {key for key in given if key not in _SETTLED and key not in _READ}
        return {name: names[name] for name in _ORDER.split() if name in names}

    # ------------------------------------------------------------------------------------------------ values
    def value(self, value: Any, key: str = "") -> Any:
        """Return the expression for a value; a dict with a type becomes a call at any depth.

        Args:
            value: The value.
            key: The key of the config that holds it, or holds the list that it is in.
        """
        if isinstance(value, Symbol):
            return self.table.moved(value)
        if isinstance(value, list | tuple):
            return type(value)(self.value(item, key) for item in value)
        if not isinstance(value, dict):
            return value
        if key == "init_cfg" and "type" in value:  # one without is a part, which a child completes
            return self.initializer(value)
        if KEPT_DICTS.fullmatch(key):
            return self.kept(value)
        if "type" not in value:
            return {k: self.value(v, k if isinstance(k, str) else "") for k, v in value.items() if k not in _MARKS}
        return self.call(value, key)

    def kept(self, value: Any) -> Any:
        """Return a value whose dicts with a type stay dicts, at any depth, since a builder of mmcv's reads them."""
        if isinstance(value, list | tuple):
            return type(value)(map(self.kept, value))
        if not isinstance(value, dict):
            return self.value(value)
        items = ((k, v) for k, v in value.items() if k not in _MARKS)
        return {k: self.value(v, k) if k == "init_cfg" else self.kept(v) for k, v in items}

    def call(self, given: dict[str, Any], key: str = "", **first: Any) -> Any:
        """Return the call for a dict with a type.

        Args:
            given: The dict.
            key: The key that holds it.
            first: Expressions that come before its own arguments.
        """
        outer, self._scope = self._scope, given.get("_scope_") or self._scope  # its children are built within it
        try:
            return self._call(given, key, first)
        finally:
            self._scope = outer

    def _call(self, given: dict[str, Any], key: str, first: dict[str, Any]) -> Any:
        own = {k: v for k, v in given.items() if k != "type" and k not in _MARKS}
        target, reason = self.target(given["type"], key, self._scope)
        if target is None:
            return {k: self.value(v, k) for k, v in given.items() if k not in _MARKS}
        if own.get("from_pretrained") and isinstance(target, Symbol) and target.module == "diffusers":
            target = Symbol("diffusers", f"{target.name}.from_pretrained")
        label = target.rpartition(":")[2] if isinstance(target, str) else target.name
        for name in own.keys() & (_DROPPED.get(label, set()) | {"file_client_args"}) if self._is_own(target) else ():
            del own[name]
        if self._is_own(target):
            own.pop("backend_args", None)
        for name, chosen in self.table.chosen(target).items():
            if isinstance(own.get(name), dict) and "type" not in own[name]:
                own[name] = _completed(own[name], chosen, own)
        if not isinstance(target, str) and target.name.endswith(".from_pretrained"):
            own = {_PRETRAINED if k in ("name_or_path", "from_pretrained") else k: v for k, v in own.items()}
            if not own.pop("load_pretrained", True):
                reason = "load_pretrained=False: call from_config here"
        if refused := [name for name in own if name != "priority" and not _accepts(target, name)]:
            reason = reason or f"{label} has no {', '.join(f'{name}={own.pop(name)!r}' for name in refused)}"
        if not label.startswith("Albu"):  # whose dicts albumentations builds
            own = {k: self.value(v, k) for k, v in own.items()}
        result = Call(target, {**first, **own})
        return Missing(result, reason) if reason else result

    def target(self, name: Any, key: str, scope: str) -> tuple[Symbol | str | None, str]:
        """Return what a `type` names, and what is wrong with it; None for what is no class."""
        if isinstance(name, Symbol):
            return self.table.moved(name), ""
        if not isinstance(name, str):
            return f"unknown:{name!r}", f"type={name!r} is no name of a class"
        found = self.table.find(name, scope, key)
        if found is None and (not name.rpartition(".")[2][:1].isupper() or key.endswith("_cfg")):
            return None, ""  # a setting that happens to be called type
        if found is None and key not in _BUILT and ("kwargs" in key or self.table.defines(name)):
            return None, ""  # no registry knows this class: the code reads the dict by itself
        if found is None:
            reason = f"no class is registered as {name!r} in the source trees; give --classes the one that has it"
            return f"unknown:{name.rpartition('.')[2]}", reason
        if found.by.startswith("register_hf"):
            return Symbol(found.symbol.module, f"{found.symbol.name}.from_pretrained"), ""
        return found.symbol, ""

    @staticmethod
    def _is_own(target: Symbol | str) -> bool:
        return isinstance(target, Symbol) and target.module.startswith("lazyengine")

    def own(self, name: str, arguments: dict[str, Any]) -> Call:
        """Return a call of a class of lazyengine's."""
        return Call(Symbol(self.table.own[name], name), arguments)

    def initializer(self, given: Any) -> Any:
        """Return the initializer for an `init_cfg`, or a list of them for a list."""
        if isinstance(given, list | tuple):
            return [self.initializer(item) for item in given]
        own = {key: self.value(value) for key, value in given.items() if key not in ("type", "override")}
        kind = given.get("type")
        kind = kind.name if isinstance(kind, Symbol) else kind
        name = kind if kind in self.table.own else f"{kind}Init"
        if name.removesuffix("Init") not in _INITIALIZERS.split():  # unknown to all registries, the code reads it
            return self.call(given) if self.table.find(str(kind), self._scope) else self.kept(given)
        override = given.get("override")
        if override:
            entries = override if isinstance(override, list | tuple) else [override]
            own["override"] = {
                e["name"]: self.initializer({k: v for k, v in e.items() if k != "name"}) if "type" in e else None
                for e in entries
            }
        return self.own(name, own)

    # ------------------------------------------------------------------------------------------------- parts
    def _model(self, given: dict[str, Any], names: dict[str, Any]) -> None:
        model, preprocessor = given.get("model"), given.get("data_preprocessor")
        if model is not None:  # one without a type is a part of a model, which a child completes
            names["model"] = self.value(model, "model" if isinstance(model, dict) and "type" in model else "")
        if preprocessor is None:
            return
        node = bare(names.get("model"))
        if isinstance(node, Call) and isinstance(preprocessor, dict) and "type" not in preprocessor:
            chosen = self.table.chosen(node.target).get("data_preprocessor", {})
            preprocessor = _completed(preprocessor, chosen, model or {})
        names["data_preprocessor"] = self.value(preprocessor, "data_preprocessor")
        if isinstance(node, Call) and "data_preprocessor" not in node.arguments:
            node.arguments["data_preprocessor"] = Name("data_preprocessor")
            if isinstance(names["data_preprocessor"], dict):
                reason = "the model's __init__ chose the class of data_preprocessor; write it here"
                names["data_preprocessor"] = Missing(names["data_preprocessor"], reason)

    def _optimizer(self, given: dict[str, Any], names: dict[str, Any]) -> None:
        wrapper = given.get("optim_wrapper")
        if isinstance(wrapper, Code):
            names["optim_wrapper"] = wrapper
        elif wrapper is not None and "type" not in wrapper and "optimizer" not in wrapper and _holds_wrappers(wrapper):
            given_parts = {k: v for k, v in wrapper.items() if isinstance(v, dict) and "optimizer" in v}
            parts = {k: self._wrapper(v, self._groups(v, names, k)) for k, v in given_parts.items()}
            made = self.own("OptimWrapperDict", parts)
            reason = "a constructor shared the model out among several optimizers; give each its part in params="
            is_clear = all(str(part).isidentifier() for part in parts) and wrapper.keys() - parts <= {"constructor"}
            names["optim_wrapper"] = made if is_clear else Missing(made, reason)
        elif wrapper is not None:
            if isinstance(wrapper.get("optimizer"), dict):
                names["optimizer"] = self._groups(wrapper, names)
            made = Name("optimizer") if "optimizer" in names else wrapper.get("optimizer", REQUIRED)
            names["optim_wrapper"] = self._wrapper(wrapper, made)
        self._schedulers(given, names)

    def _groups(self, wrapper: dict[str, Any], names: dict[str, Any], part: str = "") -> Any:
        """Return the optimizer of a wrapper, with its parameter groups, of a part of the model or the whole."""
        if not isinstance(wrapper.get("optimizer"), dict):
            return REQUIRED
        groups = self._chosen_groups(wrapper, _part_of_model(names, part))
        if "type" not in wrapper["optimizer"]:
            return {"params": groups, **wrapper["optimizer"]}
        return self.call(wrapper["optimizer"], "optimizer", params=groups)

    def _chosen_groups(self, wrapper: dict[str, Any], model: Any) -> Any:
        """Return the call that gives the groups: `param_groups`, or the rule that the project wrote for itself."""
        options = {k: v for k, v in (wrapper.get("paramwise_cfg") or {}).items() if k not in _MARKS}
        constructor, reason = wrapper.get("constructor") or GROUP_RULE, ""
        label = constructor.name if isinstance(constructor, Symbol) else constructor
        if label == LAYER_DECAY:
            options["layer_decay"] = options.pop("layer_decay_rate", 1.0)
        elif label != GROUP_RULE:
            found = self.table.find(label, self._scope)
            if found is not None and self.table.is_group_rule(found.symbol):
                rule = Symbol(found.symbol.module, f"{found.symbol.name}.groups")
                return Call(rule, {"model": model, "paramwise_cfg": self.kept(options)})
            reason = f"{label} chose the parameter groups; write a function that returns them and call it here"
        if reason and (unknown := options.keys() - PARAMWISE):  # mmengine's own constructor never reads others
            reason += f"; it may have read {', '.join(sorted(unknown))}"
        kept = {key: self.value(value) for key, value in options.items() if key in PARAMWISE}
        groups = self.own("param_groups", {"model": model, **kept})
        return Missing(groups, reason) if reason else groups

    def _wrapper(self, wrapper: dict[str, Any], optimizer: Any) -> Any:
        given = {k: v for k, v in wrapper.items() if k not in ("optimizer", "paramwise_cfg", "constructor")}
        return self.call({"type": "OptimWrapper", **given}, "optim_wrapper", optimizer=optimizer)

    def _schedulers(self, given: dict[str, Any], names: dict[str, Any]) -> None:
        schedulers = given.get("param_scheduler")
        if schedulers is None:
            return

        def one(scheduler: Any) -> Any:
            if isinstance(scheduler, Code):
                return scheduler
            per_iteration = not scheduler.get("by_epoch", True) or scheduler.get("convert_to_iter_based", False)
            counted = _counted(given) if per_iteration else {}
            optimizer = Name("optimizer") if "optimizer" in names else REQUIRED
            return self.call({**scheduler, **counted}, "param_scheduler", optimizer=optimizer)

        def several(value: Any) -> list[Any]:
            return [one(each) for each in (value if isinstance(value, list | tuple) else [value])]

        if isinstance(schedulers, dict) and "type" not in schedulers:
            names["param_schedulers"] = {key: several(value) for key, value in schedulers.items()}
        else:
            names["param_schedulers"] = several(schedulers)

    def _loop(self, mode: str, given: dict[str, Any], names: dict[str, Any]) -> None:
        loader, options = given.get(f"{mode}_dataloader"), given.get(f"{mode}_cfg")
        evaluator = given.get(f"{mode}_evaluator")
        if loader is not None:
            if mode == "test" and same(loader, given.get("val_dataloader")):
                names["test_dataloader"] = Name("val_dataloader")
            elif isinstance(loader, dict):
                if loader.get("dataset") is not None:
                    names[f"{mode}_dataset"] = self.value(loader["dataset"], "dataset")
                names[f"{mode}_dataloader"] = self._loader(
                    loader, Name(f"{mode}_dataset") if f"{mode}_dataset" in names else REQUIRED
                )
            elif isinstance(loader, Code):
                names[f"{mode}_dataloader"] = loader
            else:
                each = [self._loader(one, self.value(one.get("dataset", REQUIRED), "dataset")) for one in loader]
                is_theirs = isinstance(options, dict) and options.get("type") not in (None, f"{mode.title()}Loop")
                reason = "several loaders: give the loop a dict of them"
                names[f"{mode}_dataloader"] = each if is_theirs or options is None else Missing(each, reason)
        if evaluator is not None:
            is_alias = mode == "test" and same(evaluator, given.get("val_evaluator"))
            names[f"{mode}_evaluator"] = (
                Name("val_evaluator") if is_alias else self.value(evaluator, f"{mode}_evaluator")
            )
        if options is None:
            return
        options = dict(options)
        if mode == "train":
            by_epoch = options.pop("by_epoch", "max_iters" not in options)
            default = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
        else:
            default = f"{mode.title()}Loop"
            fp16 = options.pop("fp16", False)
            options.update({"precision": "float16"} if fp16 else {})
        if options.get("type") is None:
            options = {"type": default, **options}
        parts = ["dataloader"] + (["evaluator"] if mode != "train" else [])
        first = {part: Name(f"{mode}_{part}") if f"{mode}_{part}" in names else REQUIRED for part in parts}
        names[f"{mode}_loop"] = self.call(options, f"{mode}_cfg", **first)

    def _loader(self, given: dict[str, Any], dataset: Any) -> Any:
        arguments: dict[str, Any] = {"dataset": dataset}
        arguments.update({k: v for k, v in given.items() if k in _LOADER_ARGUMENTS})
        sampler = given.get("sampler")
        if sampler is not None:
            typed = isinstance(sampler, dict) and "type" in sampler
            sampler = self.call(sampler, "sampler", dataset=dataset) if typed else self.value(sampler)
            arguments["sampler"] = sampler
        if isinstance(given.get("batch_sampler"), dict) and "type" in given["batch_sampler"]:
            arguments.pop("sampler", None)
            size = arguments.pop("batch_size", 1)
            first = {"sampler": sampler, "batch_size": size}
            arguments["batch_sampler"] = self.call(given["batch_sampler"], "batch_sampler", **first)
        arguments["collate_fn"] = self._function(given.get("collate_fn") or {"type": "pseudo_collate"})
        loader: Any = self.own("DataLoader", arguments)
        known = _LOADER_ARGUMENTS | {"dataset", "sampler", "batch_sampler", "collate_fn"}
        if unknown := given.keys() - known - {"worker_init_fn", "_scope_"}:
            return Missing(loader, f"the loader has no {', '.join(sorted(map(str, unknown)))}")
        return loader

    def _function(self, given: Any) -> Any:
        """Return the function that a dict with a type, a name or a symbol stands for, with its arguments bound."""
        if not isinstance(given, dict):
            given = {"type": given}
        call = self.call(given, "collate_fn")
        node = bare(call)
        if not isinstance(node, Call) or isinstance(node.target, str):
            return call
        if node.arguments:
            node.partial = True
            return call
        return Missing(node.target, call.reason) if isinstance(call, Missing) else node.target

    # ------------------------------------------------------------------------------------- hooks and options
    def _hooks(self, given: dict[str, Any], names: dict[str, Any]) -> None:
        hooks, counted = dict(given.get("default_hooks") or {}), _counted(given)
        is_run = "model" in names and any(self._is_complete(names.get(f"{m}_loop")) for m in ("train", "val", "test"))
        if hooks or is_run:
            hooks = {**_DEFAULT_HOOKS, **hooks}
            typed = {
                k: {"type": _DEFAULT_HOOKS[k]["type"], **v} if k in _DEFAULT_HOOKS and v else v
                for k, v in hooks.items()
            }
            names["default_hooks"] = {
                name: self.hook(hook, counted) for name, hook in typed.items() if hook is not None
            }
        custom = given.get("custom_hooks") or []
        by_name: dict[str, Any] = {}
        for hook in custom if isinstance(custom, list | tuple) else [custom]:
            kind = hook["type"] if isinstance(hook, dict) else hook.text.partition("(")[0]
            name = _snake_case(kind.name if isinstance(kind, Symbol) else str(kind).rpartition(".")[2])
            while name in by_name or name in hooks:
                name = f"{name}_2"
            by_name[name] = self.hook(hook, counted)
        if by_name:
            names["custom_hooks"] = by_name

    def hook(self, given: Any, counted: dict[str, Any] | None = None) -> Any:
        """Return the call for a hook; `counted` is what counts iterations where gradients are accumulated."""
        if not isinstance(given, dict) or "type" not in given:
            return self.value(given)
        call = self.call(given, "default_hooks")
        node = bare(call)
        if not isinstance(node, Call) or not self._is_own(node.target):
            return call
        label, arguments = node.target.name, node.arguments  # type: ignore[union-attr]
        for name, value in _CHANGED_DEFAULTS.get(label, {}).items():
            arguments.setdefault(name, value)
        arguments.update((counted or {}) if label == "EMAHook" else {})
        if arguments.get("priority") in (_PRIORITIES.get(label, "NORMAL"), None):
            arguments.pop("priority", None)
        if isinstance(arguments.get("ema_type"), str):
            arguments["ema_type"] = self._function(arguments["ema_type"])
        reason = ""
        if label == "ProfilerHook":
            schedule = arguments.pop("schedule", None)
            if isinstance(schedule, dict) and schedule.keys() <= {"wait", "warmup", "active", "repeat"}:
                arguments.update(schedule)
            elif schedule is not None or arguments.pop("on_trace_ready", None) is not None:
                reason = "the schedule of the profiler is given as wait, warmup, active, repeat"
        if label == "VisualizationHook" and arguments.keys() - {"interval", "draw", "max_images", "name", "plots"}:
            node.arguments = {k: v for k, v in arguments.items() if k == "interval"}
            reason = "VisualizationHook draws by its function draw=; write it for these samples"
        return Missing(node, reason) if reason else call

    def _options(self, given: dict[str, Any], names: dict[str, Any]) -> None:
        visualizer = given.get("visualizer")
        if visualizer is not None:
            shown = {k: v for k, v in visualizer.items() if k not in ("name", "save_dir")}
            names["visualizer"] = self.value({"type": "Visualizer", **shown}, "visualizer")
        if given.get("log_processor") is not None:
            names["log_processor"] = self.value({"type": "LogProcessor", **given["log_processor"]}, "log_processor")
        randomness = given.get("randomness") or {}
        if randomness.get("seed") is not None:
            names["seed"] = randomness["seed"]
        if randomness.get("deterministic"):
            names["deterministic"] = "warn"
        scale = given.get("auto_scale_lr") or {}
        if scale.get("enable"):
            steps = (given.get("optim_wrapper") or {}).get("accumulative_counts", 1)
            names["auto_scale_lr"] = scale["base_batch_size"] * steps
        timeout = ((given.get("env_cfg") or {}).get("dist_cfg") or {}).get("timeout")
        if isinstance(timeout, int | float):
            names["dist_timeout_s"] = float(timeout)
        names.update({name: given[name] for name in OPTIONS if given.get(name) not in (None, False)})
        self._setup(given, names)

    def _setup(self, given: dict[str, Any], names: dict[str, Any]) -> None:
        wrapper = dict(given.get("model_wrapper_cfg") or {})
        arguments: dict[str, Any] = {}
        if given.get("sync_bn"):
            arguments["sync_bn"] = True
        compiled = given.get("compile")
        if compiled:
            arguments["compile"] = self.value(compiled)
        if wrapper or given.get("find_unused_parameters"):
            kind = wrapper.pop("type", "MMDistributedDataParallel")
            unused = {"find_unused_parameters": True} if given.get("find_unused_parameters") else {}
            wrapped = self.call({"type": kind, **unused, **wrapper}, "model_wrapper_cfg")
            arguments["wrapper"] = wrapped
            if RENAMED.get(kind.name if isinstance(kind, Symbol) else kind) != "DDP" and kind != _DDP:
                reason = "how the model is wrapped: see lazyengine.model.DDP and FSDP2"
                arguments["wrapper"] = Missing(wrapped, reason)
        setup: Any = self.own("ModelSetup", arguments)
        if given.get("strategy") is not None:
            setup = Missing(setup, f"strategy={given['strategy'].get('type')!r}: choose DDP or FSDP2 as wrapper=")
        if arguments or isinstance(setup, Missing):
            names["model_setup"] = setup

    @staticmethod
    def _is_complete(loop: Any) -> bool:
        loop = bare(loop)
        return isinstance(loop, Call) and all(value is not REQUIRED for value in loop.arguments.values())

    def _runner(self, names: dict[str, Any]) -> Call:
        arguments: dict[str, Any] = {"model": Name("model")}
        for mode in ("train", "val", "test"):
            if self._is_complete(names.get(f"{mode}_loop")):
                arguments[f"{mode}_loop"] = Name(f"{mode}_loop")
        plain = ("optim_wrapper", "param_schedulers", "visualizer", "log_processor", "model_setup", "auto_scale_lr")
        plain += ("seed", "deterministic", "dist_timeout_s", *OPTIONS)
        arguments.update({name: Name(name) for name in plain[:2] if name in names})
        arguments["hooks"] = Name("default_hooks")
        if "custom_hooks" in names:
            arguments["hooks"] = Joined(("default_hooks", "custom_hooks"))
        arguments.update({name: Name(name) for name in plain[2:] if name in names})
        return self.own("Runner", arguments)


_READ = {
    *("model", "data_preprocessor", "optim_wrapper", "param_scheduler", "default_hooks", "custom_hooks", "visualizer"),
    *("log_processor", "randomness", "auto_scale_lr", "model_wrapper_cfg", "find_unused_parameters", "sync_bn"),
    *("compile", "strategy", *OPTIONS),
    *(f"{mode}_{part}" for mode in ("train", "val", "test") for part in ("dataloader", "cfg", "evaluator")),
}


@functools.lru_cache(maxsize=4096)
def _accepts(target: Symbol | str, name: str) -> bool:
    """Return whether a class of lazyengine's or torch's has an argument; others are not imported."""
    if isinstance(target, str) or target.module.partition(".")[0] not in ("lazyengine", "torch"):
        return True
    found = functools.reduce(getattr, target.name.split("."), importlib.import_module(target.module))
    if not callable(found):
        return True
    try:
        LazyCall(found)(**{name: None})
    except UnknownNameError:
        return False
    return True


def _completed(given: dict[str, Any], chosen: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """Return a dict argument with what its class puts into it; `beside` are the class's other arguments."""
    values = {k: beside.get(v.path) if isinstance(v, Name) else v for k, v in chosen.items()}
    kind = {"type": values.pop("type")} if "type" in values else {}
    return {**kind, **given, **{k: v for k, v in values.items() if k not in given and v is not None}}


def _counted(given: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a part count iterations, where a config accumulates gradients."""
    wrapper = given.get("optim_wrapper") or {}
    accumulates = isinstance(wrapper, dict) and wrapper.get("accumulative_counts", 1) != 1
    return {"count_iters": True} if accumulates else {}


def _part_of_model(names: dict[str, Any], part: str) -> Any:
    """Return the part of the model that an optimizer of several is for; the model without a part."""
    node = bare(names.get("model"))
    if node is None or not part:
        return REQUIRED if node is None else Name("model")
    if isinstance(node, Call) and isinstance(node.arguments.get(part), Call | Missing):
        return Name(f"model.{part}")
    return Call(Symbol("torch.nn", "Module.get_submodule"), {"self": Name("model"), "target": part})


def _holds_wrappers(wrapper: dict[str, Any]) -> bool:
    return any(isinstance(value, dict) and "optimizer" in value for value in wrapper.values())


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.removesuffix("Hook")).lower()

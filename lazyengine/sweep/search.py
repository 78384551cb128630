"""A search: which config, what is varied, what counts; read from a file or a command line, checked before it runs."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

import torch

from ..config import ConfigWarning, LazyConfig, OverrideError, arguments_of, by_path, instantiate, is_node, target_of
from ..config.grammar import parse_override
from ..config.graph import follow, holds
from ..config.node import Node
from ..config.ref import Ref
from ..config.saving import to_json
from ..errors import UsageFileNotFoundError, UsageTypeError, UsageValueError
from ..evaluator import BaseMetric, rule_of
from ..hooks import Hook
from ..record import collect_code, flat_config
from ..runs import choose_keys
from ..text import did_you_mean, listed
from .spaces import Dimension, Paths, as_overrides, combinations, normal_space, parse_call, parse_dimension

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "asha", "hyperband")
NO_IDENTITY = ("runner.work_dir", "runner.experiment_name", "runner.resume", "runner.launcher")


@dataclass
class Search:
    """What a sweep looks for.

    Attributes:
        config: The config file.
        space: What is varied, by path: `uniform`, `log_uniform`, `choice`, `grid`, `zipped`, a ``range`` or one value.
        objective: The recorded metric that counts, such as ``"val/accuracy/top1"``, in full or its end; of a run, its
            best value.
        direction: ``"maximize"`` or ``"minimize"``; None where its name tells.
        trials: How many runs; None for every combination of the grids, where nothing is drawn.
        conditional: A function of the values chosen so far, by path; returns a further space.
        overrides: Changes that all trials have.
        sampler: ``"tpe"`` or ``"random"``; both draw trial n from (seed, n).
        pruner: None, ``"median"``, ``"asha"`` or ``"hyperband"``, with the arguments of Optuna's class, such as
            ``"asha(reduction_factor=3)"``; its unit is a validation.
        seed: Of what is drawn.
    """

    config: str
    space: dict[Paths, Dimension]
    objective: str = ""
    direction: str | None = None
    trials: int | None = None
    conditional: Callable[[dict[Paths, Any]], Mapping[Paths, Any]] | None = None
    overrides: list[str] = field(default_factory=list)
    sampler: str = "tpe"
    pruner: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.space = normal_space(self.space, "space")
        if not self.objective:
            raise UsageValueError("a search needs an objective: the metric that counts, such as val/accuracy/top1.")
        if self.direction is None:
            self.direction = _direction_of(self.objective)
        _one_of("direction", self.direction, ("maximize", "minimize"))
        _one_of("sampler", self.sampler, SAMPLERS)
        if self.pruner is not None:
            _one_of("pruner", (parse_call(self.pruner) or (self.pruner,))[0], PRUNERS)
        is_drawn = any(each.is_drawn for each in self.space.values())
        if is_drawn and self.trials is None:
            raise UsageValueError("something is drawn at random: say how many trials (--trials 20, or trials = 20).")
        if self.trials is not None and self.trials < 1:
            raise UsageValueError(f"trials={self.trials}: expected at least 1.")
        if self.seed < 0:
            raise UsageValueError(f"seed={self.seed}: expected at least 0.")
        self.grid = combinations(self.space)
        if not is_drawn and self.conditional is not None:
            self.grid = [{**row, **each} for row in self.grid for each in combinations(self.more(row))]
        self.is_drawn = is_drawn or any(each.is_drawn for row in self.grid for each in self.more(row).values())

    @property
    def num_trials(self) -> int:
        """How many runs it has."""
        if self.trials is None:
            return len(self.grid)
        return self.trials if self.is_drawn else min(self.trials, len(self.grid))

    def more(self, values: dict[Paths, Any]) -> dict[Paths, Dimension]:
        """Return the conditional part of the space, given the values so far."""
        return {} if self.conditional is None else normal_space(self.conditional(dict(values)), "conditional()")

    # ------------------------------------------------------------------ checked against the config
    def load(self, overrides: Sequence[str] = ()) -> Any:
        """Return the config of a trial.

        Raises:
            ConfigError: A path or a value is not accepted, or reaches nothing that the runner builds.
        """
        cfg = LazyConfig.load(self.config)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConfigWarning)
            try:
                LazyConfig.apply_overrides(cfg, [*self.overrides, *overrides])
            except ConfigWarning as warning:
                raise UsageValueError(str(warning)) from None
            except OverrideError as error:
                if any("," in word for word in self.overrides):
                    error.add_note(
                        "Several values to try are written as 'optimizer.lr=grid(1e-4,1e-3)', or choice(...)."
                    )
                raise
        return cfg

    def check(self) -> Any:
        """Try every end and every value of the space on the config; return the config as it is without them.

        Raises:
            UsageError: The config has no runner, or no validation; a path or a value is not accepted, also by the
                constructor of an optimizer of torch, or of a hook or metric of the engine; no metric has the
                objective's name, where their names are known beforehand.
        """
        cfg = self.load()
        runner = arguments_of(cfg).get("runner")
        if runner is None:
            raise UsageValueError(f"{self.config} has no `runner`, so there is nothing to train.")
        is_of_validation = not self.objective.startswith("train/")
        if is_of_validation and arguments_of(runner).get("val_loop") is None:
            raise UsageValueError(f"objective {self.objective!r}: {self.config} has no val_loop that could measure it.")
        if self.pruner is not None and not is_of_validation:
            raise UsageValueError(
                f"pruner {self.pruner!r} acts at validations, the objective {self.objective!r} is none."
            )
        for values in self._probes():
            if own := [text for text in as_overrides(values) if text.lstrip("+").startswith(NO_IDENTITY)]:
                raise UsageValueError(f"space: {own[0]}: a sweep sets {listed(NO_IDENTITY)} of each trial itself.")
            probe = self.load(as_overrides(values))
            _try_alone(cfg, probe, as_overrides(values))
            if is_of_validation:
                self._check_objective(names_of_metrics(arguments_of(probe)["runner"]))
        return cfg

    def _check_objective(self, names: Sequence[str] | None) -> None:
        """Refuse the objective where no metric can be meant; one of training alone is known when a run has it."""
        known = [f"val/{name}" for name in (*names, "time", "data_time")] if names else []
        if known and (self.objective.startswith("val/") or did_you_mean(self.objective, names or (), 0.85)):
            self.curve_of(SimpleNamespace(curve_names=known))

    def curve_of(self, run: Any) -> str:
        """Return the name of the curve that is the objective, that of the validation before others.

        Raises:
            UsageValueError: The run has none of that name, or several.
        """
        keys = choose_keys([run], [self.objective])
        keys = [key for key in keys if key.startswith("val/")] or keys
        if len(keys) > 1:
            raise UsageValueError(f"objective {self.objective!r} is one of {listed(keys)}: write the whole name.")
        return keys[0]

    def _probes(self) -> Iterator[dict[Paths, Any]]:
        """Yield sets of values in which every value of every dimension occurs."""
        for number in range(max((len(each.values) for each in self.space.values()), default=1)):
            values = {paths: each.values[number % len(each.values)] for paths, each in self.space.items()}
            more = self.more(values)
            for inner in range(max((len(each.values) for each in more.values()), default=1)):
                yield {**values, **{p: each.values[inner % len(each.values)] for p, each in more.items()}}

    def key_of(self, overrides: Sequence[str]) -> str:
        """Return what is equal for two trials that would be the same run: of the resolved config, seed and code."""
        cfg = self.load(overrides)
        values = {path: v for path, v in flat_config(to_json(cfg)).items() if not path.startswith(NO_IDENTITY)}
        code = collect_code(cfg.__record__.configs).hash
        return hashlib.sha256(json.dumps([code, values], sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Return what must not change while the sweep is in a folder."""
        space = {str(paths): repr(each) for paths, each in self.space.items()}
        own = ("objective", "direction", "sampler", "pruner", "seed", "overrides")
        return {"config": os.path.abspath(self.config), "space": space, **{name: getattr(self, name) for name in own}}


def _try_alone(cfg: Any, probe: Any, overrides: Sequence[str]) -> None:
    """Build the nodes that overrides change, where that needs nothing else; the others refuse values in their trial.

    Raises:
        UsageValueError: One refuses its values, and accepts those that it has in the config.
    """
    for text in overrides:
        was, now = (_node_at(each, text) for each in (cfg, probe))
        error = _error_alone(now)
        if error is not None and _error_alone(was) is None:
            named = ", ".join(overrides_of(probe, now, overrides))
            raise UsageValueError(f"space: {now.__sig__.label} refuses {named}: {error}") from error


def overrides_of(cfg: Any, node: Any, overrides: Sequence[str]) -> list[str]:
    """Return those of the overrides of a config that set something in a node."""
    trails = {text: follow(cfg, parse_override(text)[1]) for text in overrides}
    return [text for text, trail in trails.items() if any(parent is node for parent, _, _ in trail)]


def _node_at(cfg: Any, override: str) -> Any:
    """Return the innermost node that an override changes, or None."""
    trail = follow(cfg, parse_override(override)[1])
    return next((parent for parent, _, _ in reversed(trail) if is_node(parent)), None)


def _error_alone(node: Any) -> Exception | None:
    """Return what the constructor of a node raises about its values; None for nothing, and where it needs more."""
    target = target_of(node) if is_node(node) else None
    values = {name: value for name, value in arguments_of(node).items() if name != "params"} if target else {}
    if not isinstance(target, type) or holds(values, Node, Ref):
        return None
    is_optimizer = issubclass(target, torch.optim.Optimizer) and target.__module__.startswith("torch.optim.")
    if not is_optimizer and not (issubclass(target, BaseMetric | Hook) and _is_of_the_engine(node)):
        return None
    try:
        instantiate(node, **({"params": [torch.nn.Parameter(torch.zeros(1, 1))]} if is_optimizer else {}))
    except (ValueError, TypeError) as error:
        return error
    return None


def names_of_metrics(runner: Any) -> list[str] | None:
    """Return the names that the validation of a runner's node records, as ``accuracy/top1``.

    None where they are not all known before it runs: with a metric that does not say them, or a loop, an evaluator or a
    hook that is not the engine's and might record more.
    """
    if not validates_as_engine(runner):
        return None
    given: Any = arguments_of(arguments_of(runner)["val_loop"]).get("evaluator")
    names: list[str] = []
    for loader, evaluator in given.items() if isinstance(given, Mapping) else [("", given)]:
        if _is_of_the_engine(evaluator) and not _is_metric(evaluator):
            evaluator = arguments_of(evaluator).get("metrics")
        for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
            if not _is_metric(metric) or not (own := instantiate(metric).names):
                return None
            names += [f"{loader}/{name}" if loader else name for name in own]
    return names


def validates_as_engine(runner: Any) -> bool:
    """Return whether loop and hooks of a runner's node are the engine's: each validation records all there is."""
    hooks: Any = arguments_of(runner).get("hooks") or ()
    parts = [arguments_of(runner).get("val_loop"), *(hooks.values() if isinstance(hooks, Mapping) else hooks)]
    return all(map(_is_of_the_engine, parts))


def _is_of_the_engine(node: Any) -> bool:
    module = getattr(target_of(node), "__module__", "") if is_node(node) else ""
    return module.startswith(f"{__name__.partition('.')[0]}.") and not module.startswith(f"{by_path.__name__}.")


def _is_metric(node: Any) -> bool:
    """Whether a node describes a metric that can be built by itself."""
    if not is_node(node) or any(map(is_node, arguments_of(node).values())):
        return False
    target = target_of(node)
    return isinstance(target, type) and issubclass(target, BaseMetric)


def read_search(path: str, words: Sequence[str] = (), **options: Any) -> Search:
    """Return the search of a file and a command line.

    Args:
        path: A config; or a file that defines ``space``, whose other names are those of `Search`. Its ``config`` is
            relative to its folder.
        words: What the command line varies, such as ``optimizer.lr=log_uniform(1e-4,1e-1)``, and overrides.
        **options: Attributes of the search, which win over the file's; None for what was not given.

    Raises:
        UsageError: Something in it is not accepted.
    """
    if not os.path.isfile(path):
        raise UsageFileNotFoundError(f"{path} is no file; name a config, or a file with a search.")
    given: dict[str, Any] = _read_file(path) or {"config": path, "space": {}}
    if not isinstance(given["space"], Mapping):
        raise UsageTypeError(f"{path}: space is a {type(given['space']).__name__}: expected a dict of paths.")
    dimensions = {word: parse_dimension(word) for word in words}
    space = {**dict(given["space"]), **dict(each for each in dimensions.values() if each is not None)}
    overrides = [*given.get("overrides", ()), *(word for word, each in dimensions.items() if each is None)]
    chosen = {name: value for name, value in options.items() if value is not None}
    return Search(**{**given, **chosen, "space": space, "overrides": overrides})


def _read_file(path: str) -> dict[str, Any] | None:
    """Return the names of a file with a search; None for a config.

    Raises:
        UsageValueError: It has names that a search does not know, or no config.
    """
    with open(path, encoding="utf-8") as file:
        if not any(line.startswith(("space ", "space=", "space:")) for line in file):
            return None
    try:
        found = runpy.run_path(path)
    except Exception as error:
        error.config_file = path  # type: ignore[attr-defined] - whose it is, see cli/mistakes.py
        raise
    known = [each.name for each in fields(Search)]
    given = {name: found[name] for name in known if name in found}
    if near := [name for name in found if name not in known and name[:1] != "_" and did_you_mean(name, known, 0.85)]:
        raise UsageValueError(f"{path}: {near[0]} is no part of a search.{did_you_mean(near[0], known)}")
    if not isinstance(given.get("config"), str):
        raise UsageTypeError(f"{path}: it needs config = 'base.py', the file of the experiment, beside it.")
    given["config"] = os.path.relpath(os.path.join(os.path.dirname(os.path.abspath(path)), given["config"]))
    return given


def _direction_of(objective: str) -> str:
    try:
        return "maximize" if rule_of(objective) == "greater" else "minimize"
    except UsageValueError:
        raise UsageValueError(
            f"the objective {objective!r} does not tell by its name whether more of it is better: set direction to "
            "'maximize' or 'minimize' (--direction), or correct the name."
        ) from None


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageValueError(f"{name}={value!r}: expected one of {listed(known)}.{did_you_mean(value, known)}")

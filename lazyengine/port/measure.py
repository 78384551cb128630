"""Measure an experiment without training it, in a process of its own: parameters, rates, indices, first loss.

`python -m lazyengine.port.measure old|new CONFIG ROOT WEIGHTS OUT` writes JSON; `old` is run by mmengine and writes the
weights, `new` by lazyengine and reads them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..analysis import simulate_schedule
from ..config import LazyCall, LazyConfig, arguments_of, instantiate
from ..model import init_weights
from ..optim import SchedulerRecipes, build_param_schedulers

POINTS = 50


def measure_new(path: str, weights: str) -> dict[str, Any]:
    """Return the measures of a config of ours."""
    runner = arguments_of(LazyConfig.load(path).runner)
    names = ("model", "optim_wrapper", "train_loop", "param_schedulers")
    node = LazyCall(_measure_new)(weights=weights, **{name: runner[name] for name in names if name in runner})
    return instantiate(node)


def _measure_new(
    model: Any, weights: str, optim_wrapper: Any, train_loop: Any, param_schedulers: SchedulerRecipes = None
) -> dict[str, Any]:
    length, total = train_loop.epoch_length, train_loop.max_iters
    schedulers = build_param_schedulers(
        param_schedulers,
        optim_wrapper,
        max_epochs=getattr(train_loop, "max_epochs", None),
        max_iters=total,
        epoch_length=length,
    )
    curves = simulate_schedule(
        optim_wrapper, schedulers, max_iters=total, epoch_length=length, max_points=max(total, 1)
    )
    picked = [curves.iters.index(i) for i in _picked(total)]
    rates: dict[str, dict[str, list[float]]] = {}
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    for option, by_group in curves.values.items():
        for group, values in zip(optim_wrapper.param_groups, by_group.values()):
            for parameter in group["params"]:
                rates.setdefault(by_id[id(parameter)], {})[option] = [values[i] for i in picked]
    _add_decay(rates, optim_wrapper, by_id)
    init_weights(model)
    initial = _spread(model)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return {**_common(model, train_loop.dataloader), "rates": rates, "init": initial}


def measure_old(path: str, weights: str) -> dict[str, Any]:
    """Return the measures of a config of mmengine's, by mmengine."""
    cfg = importlib.import_module("mmengine.config").Config.fromfile(path)
    cfg.work_dir = tempfile.mkdtemp()
    runner = importlib.import_module("mmengine.runner").Runner.from_cfg(cfg)
    loop = runner.train_loop
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper = wrapper
    schedulers = runner.build_param_scheduler(runner.param_schedulers) if runner.param_schedulers else []
    total, length = loop.max_iters, len(loop.dataloader)
    picked = set(_picked(total))
    by_id = {id(parameter): name for name, parameter in runner.model.named_parameters()}
    rates: dict[str, dict[str, list[float]]] = {}
    options = list(dict.fromkeys(["lr", *(scheduler.param_name for scheduler in schedulers)]))
    for index in range(total):
        for group in wrapper.param_groups if index in picked else ():
            for parameter in (p for p in group["params"] if id(p) in by_id):  # one group of mmengine's holds a dummy
                for option in options:
                    values = rates.setdefault(by_id[id(parameter)], {}).setdefault(option, [])
                    values.append(float(group[option] if option in group else group["betas"][0]))
        for scheduler in schedulers:
            if not scheduler.by_epoch or (index + 1) % length == 0:
                scheduler.step()
    _add_decay(rates, wrapper, by_id)
    runner.model.init_weights()
    torch.save(runner.model.state_dict(), weights)
    return {**_common(runner.model, loop.dataloader), "rates": rates, "init": _spread(runner.model)}


def _add_decay(rates: dict[str, dict[str, list[float]]], wrapper: Any, by_id: dict[int, str]) -> None:
    for group in wrapper.param_groups:
        for parameter in (p for p in group["params"] if id(p) in by_id):
            rates.setdefault(by_id[id(parameter)], {})["weight_decay"] = [float(group.get("weight_decay", 0.0))]


def _spread(model: torch.nn.Module) -> dict[str, list[float]]:
    """Return mean, standard deviation and number of the initial values of each parameter."""
    values = {name: p.detach().double() for name, p in model.named_parameters()}
    return {name: [float(v.mean()), float(v.std(correction=0)), v.numel()] for name, v in values.items()}


def _picked(total: int) -> list[int]:
    return sorted({*range(0, total, max(1, total // POINTS)), total - 1})


def _common(model: Any, loader: Iterable[Any]) -> dict[str, Any]:
    """Return what is measured alike: parameters with shapes, the indices of the first epoch, the first loss."""
    model.eval()
    sampler = getattr(loader, "sampler", None)
    for part in (loader, sampler):
        if hasattr(part, "set_epoch"):
            part.set_epoch(0)  # type: ignore[union-attr]
    indices = [int(i) for i, _ in zip(sampler, range(10_000))] if sampler is not None else []
    with torch.no_grad():
        data = model.data_preprocessor(next(iter(loader)), True)
        losses = model(**data, mode="loss") if isinstance(data, dict) else model(*data, mode="loss")
    total = sum(float(torch.as_tensor(v).mean()) for k, v in losses.items() if "loss" in k)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return {"parameters": shapes, "indices": indices, "loss": total}


def main(kind: str, path: str, root: str, weights: str, out: str) -> None:
    """Measure and write the result."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, root)
    os.chdir(root)
    measure: Callable[[str, str], dict[str, Any]] = measure_old if kind == "old" else measure_new
    result = measure(path, weights)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Inside the process that makes a part of a run again: what is looked at in the iterations that somebody asks about."""

from __future__ import annotations

import bdb
import contextlib
import os
import pdb
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset

from .. import dist
from ..checkpoint import read_checkpoint
from ..errors import UsageValueError
from ..model import evaluating
from ..model.finite import FiniteWatch, NotFinite, all_finite
from ..nesting import iter_leaves, map_leaves
from ..plain import plain_or_repr
from ..runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, loops
from ..runner.batch import describe_batch
from ..runner.triage import gradients_of
from ..text import did_you_mean, listed
from .steps import sketch
from .verifying import hash_of

NOT_FINITE = "nonfinite"
"""In the place of a module's name: the first one that makes something that is not finite of what is."""
_SHOWN_SAMPLES = 10_000
_MOST_NOISE = 1e-2
"""What is greater comes from a loss that depends on the order of the samples."""


@dataclass
class Probe:
    """Looks at iterations and stops training behind the last one that matters.

    Args:
        iterations: Those that are looked at, counted from 0 as errors and hooks count them.
        until: Leave when so many iterations are done.
        folder: Where the captures are written, a file for each rank.
        trace: Hash everything that happens in an iteration, in order; else only what shows that it is another one.
        keep: Keep the batch, the outputs and the gradients themselves.
        anomaly: Switch torch's anomaly detection on.
        debug: Stop in the debugger before the step.
        sketch: Have sketches of values (see `steps.sketch`) instead of hashes, of each thing with `trace`, else of all
            together; and the gradients that the optimizer gets.
        at: A module, in whose forward the debugger stops instead.
        rank: The rank that the debugger is for; the others wait for it.
    """

    iterations: Sequence[int]
    until: int
    folder: str
    trace: bool = False
    keep: bool = False
    anomaly: bool = False
    debug: bool = False
    sketch: bool = False
    at: str | None = None
    rank: int = 0
    captures: list[dict[str, Any]] = field(default_factory=list)
    _runner: Any = None

    def install(self) -> None:
        """Let the train loops of this process, which does nothing else, be looked at."""
        if self.debug:
            torch.compiler.set_stance("force_eager")
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C belongs to the debugger, not to the run
        for loop in (EpochBasedTrainLoop, IterBasedTrainLoop):
            loop.run_iter = self._looking(loop.run_iter)
        step = loops.train_step
        loops.train_step = lambda *args, **kwargs: self._step(step, *args, **kwargs)

    def _looking(self, run_iter: Any) -> Any:
        def run_and_look(loop: Any, runner: Runner, batch_idx: int, data_batch: Any) -> None:
            if self._runner is None:
                self._check_module(runner.model)  # before the way to the iteration, which may be long
            position, self._runner = loop.position, runner
            number = position.iter
            if number in self.iterations:
                where = {"iter": number, "epoch": position.epoch, "batch": position.batch, "rank": dist.get_rank()}
                self.captures.append(where)
            run_iter(loop, runner, batch_idx, data_batch)
            if position.iter >= self.until:
                raise SystemExit(0)

        return run_and_look

    def _step(self, train_step: Any, model: nn.Module, data: Any, wrapper: Any, **kwargs: Any) -> Any:
        capture = self.captures[-1] if self.captures else {}
        if capture.get("iter") != self._runner.num_iters_completed:
            return train_step(model, data, wrapper, **kwargs)
        capture.update(shapes=describe_batch(data), batch_hash=hash_of(data), lr=_numbers(wrapper.get_lr()))
        entries: list[tuple[str, str, Any]] = []
        if self.sketch:
            capture["order_noise"] = 0.0 if len(self.captures) > 1 else order_noise(self._runner, data)
            entries += self._sketches("parameters", model.named_parameters())
            entries += self._sketches("buffers", model.named_buffers())
        else:
            entries += [("batch", *each) for each in _hashes(dict(iter_leaves(data)), self.trace)]
            entries += self._state(model, wrapper)
        kept: dict[str, Any] = {"batch": map_leaves(_copied, data), "outputs": {}, "gradients": {}} if self.keep else {}
        steps = _steps(wrapper)
        with contextlib.ExitStack() as stack:
            handles = []
            if self.sketch:
                handles = self._sketch_gradients(model, wrapper, entries)
            elif self.trace or self.keep:
                handles = self._watch(model, entries, kept)
            for handle in handles:
                stack.callback(handle.remove)
            if self.anomaly:
                stack.enter_context(torch.autograd.detect_anomaly())
            is_debugged = self.debug and dist.get_rank() == self.rank
            debugged = stack.enter_context(self._debugging(model)) if is_debugged else None
            try:
                if debugged is not None and self.at is None:
                    print(f"before the step of iteration {capture['iter']}: model, data, optim_wrapper are at hand")
                    outputs = debugged.runcall(train_step, model, data, wrapper, **kwargs)
                else:
                    outputs = train_step(model, data, wrapper, **kwargs)
            except bdb.BdbQuit:
                self._quit()
            except Exception as error:
                capture.update(error=f"{type(error).__name__}: {error}", trace=entries, kept=plain_or_repr(kept))
                raise
        values = _numbers(dict(outputs or {}))
        entries += [("loss", name, repr(value)) for name, value in values.items()]
        if self.sketch:
            entries += self._sketches("update", model.named_parameters())
        elif self.trace:
            entries += [("update", name, hash_of(value)) for name, value in model.named_parameters()]
        entries += [("random streams", *each) for each in _hashes(_streams(), True)]
        norms = [key for key in self._runner.message_hub.log_scalars if key.endswith("grad_norm")]
        stepped = _steps(wrapper) != steps
        scalars = {key: float(self._runner.message_hub.get_scalar(key).current()) for key in norms if stepped}
        kept.setdefault("outputs", {})["step"] = values
        capture.update(values=values, norms=scalars, stepped=stepped, trace=entries)
        if self.keep:
            capture["kept"] = plain_or_repr(kept)
        return outputs

    def _quit(self) -> NoReturn:
        """End the process as the user of the debugger asked."""
        self.captures[-1]["quit"] = True
        if dist.is_distributed():  # the others, which wait for this rank, find its connections closed
            self.write()
            os._exit(0)
        raise SystemExit(0)

    def _sketches(self, kind: str, named: Any) -> list[tuple[str, str, Any]]:
        return [(kind, *each) for each in sketch(named, self.trace)]

    def _sketch_gradients(self, model: nn.Module, wrapper: Any, entries: list[Any]) -> list[Any]:
        """Note the gradients that optimizers step with; return the handles of what does."""

        def note(*_: Any) -> None:
            entries.extend(self._sketches("gradient", [(name, each.grad) for name, each in model.named_parameters()]))

        return [each.optimizer.register_step_pre_hook(note) for each in wrapper.named().values()]

    def _state(self, model: nn.Module, wrapper: Any) -> list[tuple[str, str, str]]:
        averages = [
            (f"{name}.{key}", value.state_dict())
            for name, hook in self._runner.hooks.items()
            for key, value in vars(hook).items()
            if isinstance(value, nn.Module)
        ]
        states = {
            "parameters": dict(model.named_parameters()),
            "buffers": dict(model.named_buffers()),
            "state of the optimizer": dict(iter_leaves(wrapper.state_dict())),
            "averaged weights": {f"{name}: {key}": each for name, state in averages for key, each in state.items()},
        }
        return [(kind, *each) for kind, state in states.items() for each in _hashes(state, self.trace)]

    def _watch(self, model: nn.Module, entries: list[Any], kept: dict[str, Any]) -> list[Any]:
        """Note what modules make and what gradients arrive, in their order; return the handles of what does."""
        handles = []

        def made(name: str, output: Any) -> None:
            entries.append(("output", name or "the model", hash_of(output)))
            if kept:
                kept["outputs"][name or "the model"] = map_leaves(_copied, output)
            if not all_finite(output):
                entries.append(("not finite", f"the output of {name or 'the model'}", ""))

        def arrived(name: str, gradient: torch.Tensor | None) -> None:
            if gradient is not None:
                entries.append(("gradient", name, hash_of(gradient)))
                if kept:
                    kept["gradients"][name] = _copied(gradient)
                if not all_finite(gradient):
                    entries.append(("not finite", f"the gradient of {name}", ""))

        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(lambda _m, _i, output, name=name: made(name, output)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook
                handles.append(hook(lambda each, name=name: arrived(name, each.grad)))
        return handles

    @contextlib.contextmanager
    def _debugging(self, model: nn.Module) -> Iterator[pdb.Pdb]:
        """Yield a debugger, which a module enters where one was named."""
        debugger, modules = pdb.Pdb(nosigint=True), dict(model.named_modules())
        if self.at is None:
            yield debugger
        elif self.at == NOT_FINITE:
            with FiniteWatch(model, lambda found: _stop_at(debugger, found)) as watch:
                yield debugger
            if watch.found is None:
                print("nothing that a module makes, and no gradient, is other than finite in this iteration")
        else:
            module, calls = modules[self.at], []
            forward = module.forward
            module.forward = lambda *args, **kwargs: calls.append(1) or debugger.runcall(forward, *args, **kwargs)
            try:
                yield debugger
            finally:
                module.__dict__.pop("forward", None)
            if not calls:
                print(f"the forward of {self.at} is not called in this iteration")

    def _check_module(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_modules() if name]
        if self.at is not None and self.at not in (NOT_FINITE, *names):
            hint = did_you_mean(self.at, names) or f" There are: {listed(names, 30)}."
            raise UsageValueError(f"--at: the model has no module {self.at!r}.{hint}")

    def write(self) -> None:
        """Write what was found, with the samples of the batches."""
        for capture in self.captures:
            samples = samples_of(self._runner.train_loop.dataloader, capture["epoch"], capture["batch"])
            capture["samples"] = samples
        torch.save(self.captures, os.path.join(self.folder, f"probe_{dist.get_rank()}.pt"))


def _stop_at(debugger: pdb.Pdb, found: NotFinite) -> None:
    """Enter the debugger with the module, its inputs and what is not finite."""
    name, module, _, inputs, values = found
    print(f"not finite: {found.as_text()}; name, module, inputs, values are at hand", flush=True)
    del found
    debugger.set_trace(sys._getframe())
    _ = name, module, inputs, values  # the debugger stands here


def order_noise(runner: Runner, batch: Any) -> float:
    """Return the largest relative difference of a parameter's gradient when the samples come in reverse order.

    Dropout is off and BatchNorm uses its statistics meanwhile. It is at least the precision of the parameters, which
    is also returned where the loss depends on the order of the samples.
    """
    epsilon = max(torch.finfo(each.dtype).eps for each in runner.model.parameters() if each.is_floating_point())
    sizes = [len(leaf) for _, leaf in iter_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if len(set(sizes)) != 1:
        return epsilon
    turned = map_leaves(lambda leaf: leaf.flip(0) if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf, batch)
    with evaluating(runner.model):
        one, other = gradients_of(runner, batch), gradients_of(runner, turned)
    found = [
        float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-30)) for name in one if name in other
    ]
    noise = max(found, default=0.0)
    return max(epsilon, noise) if noise < _MOST_NOISE else epsilon


# ------------------------------------------------------------------------------------------------------------- samples
def look_up(runner: Runner, iterations: Sequence[int], checkpoint: str | None, folder: str) -> None:
    """Write which samples iterations have, without a model. Collective: every rank must call.

    Args:
        runner: The runner, of which only the train loop is built.
        iterations: The iterations, counted from 0.
        checkpoint: One at or before them, whose position is counted on from; None counts from the begin.
        folder: Where the file of each rank is written.
    """
    launcher = runner.launcher or dist.infer_launcher()
    if launcher != "none":
        dist.init_dist(launcher)
    loop = runner.train_loop
    options = {"map_location": "meta", "verify": False, "keep_shards": True}  # of which no tensor is read
    saved = {} if checkpoint is None else read_checkpoint(checkpoint, **options)["train_loop"]
    length, found = loop.epoch_length, []
    for iteration in iterations:
        epoch, batch = saved.get("epoch", 0), saved.get("batch", 0) + iteration - saved.get("iter", 0)
        if length:
            epoch, batch = epoch + batch // length, batch % length
        where = {"iter": iteration, "epoch": epoch, "batch": batch, "rank": dist.get_rank()}
        found.append({**where, "samples": samples_of(loop.dataloader, epoch, batch)})
    torch.save(found, os.path.join(folder, f"probe_{dist.get_rank()}.pt"))


def samples_of(loader: Any, epoch: int, batch: int) -> dict[str, Any]:
    """Return the indices of a batch's samples and where they come from, by loader; or why nobody knows them.

    Returns:
        For each loader (a single one is called ``""``) ``{"indices": [...], "from": [...]}`` or ``{"unknown": why}``.
    """
    return {name: _samples_of(each, epoch, batch) for name, each in getattr(loader, "loaders", {"": loader}).items()}


def _samples_of(loader: Any, epoch: int, batch: int) -> dict[str, Any]:
    source = getattr(loader, "_batches", None)
    if source is None or loader._parts is not None:
        kind = "a stream has no indices" if source is not None else f"{type(loader).__name__} does not say"
        return {"unknown": kind}
    if loader._seed_follower is not None:
        loader._seed_follower.seed = loader.seed
    former = source.epoch
    loader._set_epoch_of_order(epoch + loader._epoch_offset)
    key = next(source.keys(loader.seed or 0, batch, None, 0), None)
    loader._set_epoch_of_order(former)
    if key is None:
        return {"unknown": f"epoch {epoch} has no batch {batch}"}
    instead = loader._reader.instead
    indices = [instead.get(i, i) if instead else i for i in (key[-1] if isinstance(key[-1], list) else [key[-1]])]
    shown = indices[:_SHOWN_SAMPLES]
    plain = [index if isinstance(index, int | str) else repr(index) for index in shown]
    return {"indices": plain, "from": [source_of(loader.dataset, index) for index in shown]}


def source_of(dataset: Any, index: Any) -> str:
    """Return where a sample comes from: the dataset inside all wrappers, the index there, and the file it names."""
    while True:
        if hasattr(dataset, "_find"):
            dataset, index = dataset._find(index)
        elif isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        elif isinstance(dataset, ConcatDataset):
            number = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
            before = dataset.cumulative_sizes[number - 1] if number else 0
            dataset, index = dataset.datasets[number], index - before
        else:
            break
    info = dataset.get_data_info(index) if hasattr(dataset, "get_data_info") else {}
    files = [value for key, value in info.items() if isinstance(value, str) and str(key).endswith(("path", "file"))]
    return " ".join([f"{type(dataset).__name__}[{index}]", *files])


# -------------------------------------------------------------------------------------------------------------- values
def _hashes(state: dict[str, Any], each: bool) -> list[tuple[str, str]]:
    return [(name, hash_of(value)) for name, value in state.items()] if each else [("", hash_of(state))]


def _numbers(values: Any) -> dict[str, Any]:
    """Return what of logged values or learning rates is a number."""
    found = {path.replace("['", "").replace("']", ""): leaf for path, leaf in iter_leaves(values)}
    return {
        name: float(v) for name, v in found.items() if isinstance(v, int | float) or getattr(v, "numel", int)() == 1
    }


def _steps(wrapper: Any) -> list[int]:
    return [each.num_optimizer_steps for each in wrapper.named().values()]


def _copied(leaf: Any) -> Any:
    return leaf.detach().cpu().clone() if isinstance(leaf, torch.Tensor) else leaf


def _streams() -> dict[str, Any]:
    states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
    return {**states, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else states

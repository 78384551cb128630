"""What a run would cost as a whole, from the cost of an iteration: `lazyengine plan` and `lazyengine summary`."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import _torch
from ..config.saving import to_json
from ..dataset import settle_generators
from ..errors import UsageValueError
from ..hooks import CheckpointHook
from ..hooks.devices import DEVICES, Device, find_device
from ..model import FSDP2
from ..model.patterns import match_modules
from ..record import changed_values, flat_config
from ..runner.loops import loaders_of, why_not_exact
from ..runner.sharing import global_batch_size
from ..text import did_you_mean, format_bytes, format_count, listed, table
from .cost import Cost, Seconds, cost_of, measure_seconds, quietly
from .metering import KINDS

_FILE_BYTES = 16_000, 280  # a checkpoint has so many beside its tensors, and so many more for each
_MAX_MEASURED_FLOPS = 1e11  # of an iteration, about two seconds of a small CPU
_BUCKET_BYTES = 25 * 2**20  # DDP's default
_SHOWN = 8


class Plan:
    """What a run would cost.

    Args:
        make_runner: Makes the runner of the experiment; nothing of it is written.
        steps: Real steps to take for the speed, at most; 0 for none.

    Attributes:
        cost: What an iteration costs.
        seconds: What the parts of a run take; None where it was not measured.
        unmeasured: Why it was not.
    """

    def __init__(self, make_runner: Callable[[], Any], steps: int = 3) -> None:
        self.cost = cost_of(make_runner)
        self.seconds: Seconds | None = None
        self.unmeasured = "not measured: --steps 0"
        if self.cost.total_flops > _MAX_MEASURED_FLOPS:
            what = f"an iteration has {_flop(self.cost.total_flops)}, too much to try on this CPU"
            self.unmeasured = f"not measured: {what}; --against RUN takes a run's"
        elif steps:
            self.seconds = measure_seconds(make_runner, steps)
        self._runner = self.cost.runner

    # ------------------------------------------------------------------ lengths
    @property
    def samples(self) -> int | None:
        """Samples of an iteration of all ranks."""
        return global_batch_size(self._runner.train_loop.dataloader) or self.cost.samples

    def validations(self) -> tuple[int, int]:
        """Return how often the run validates, and how many batches a validation has."""
        runner, loop = self._runner, self._runner.train_loop
        if runner.val_loop is None or not loop.validates():
            return 0, 0
        last = loop.max_epochs or loop.max_iters
        number = sum(loop.is_val_due(position, last) for position in range(min(loop.val_begin, 1), last + 1))
        batches = 0
        for loader in loaders_of(runner.val_loop.dataloader).values():
            try:
                batches += min(len(loader), runner.val_loop.limit or len(loader))
            except TypeError:  # a stream
                return number, 0
        return number, batches

    def iteration_s(self) -> float:
        """Return the seconds of an iteration.

        Raises:
            UsageValueError: They are not known.
        """
        if self.seconds is None:
            raise UsageValueError(f"the seconds of an iteration are {self.unmeasured}")
        return self.seconds.of_iteration(self.cost.num_workers)

    def checkpoints(self) -> dict[str, Any]:
        """Return the bytes of a checkpoint, how many are saved and kept, and the most bytes that they take.

        Saves by time (``every_s``) are not known beforehand: ``"by_time"`` is whether there are any, and
        ``"is_unlimited"`` whether all of them stay, which no number has.
        """
        saved = kept = best = published = 0
        by_time = is_unlimited = False
        for hook in self._runner.hooks:
            if isinstance(hook, CheckpointHook):
                more, left = hook.count_saves(self._runner)
                bests = len(hook.best.indicators) if hook.best and self.validations()[0] else 0
                saved, kept, best = saved + more, kept + left, best + bests
                published += bool(hook.published_keys) * (bool(more or hook.every_s) + bests)
                by_time |= hook.every_s is not None
                is_unlimited |= by_time and not hook.by_epoch and hook.max_keep_ckpts < 0
        constant, each = _FILE_BYTES
        size = self.cost.checkpoint_bytes + constant + each * len(self.cost.weights) * 3
        is_replaced = saved > kept or by_time  # what a new one replaces goes when that is whole
        number = kept + best + published + is_replaced
        counts = {"saved": saved, "kept": kept, "best": best, "published": published, "by_time": by_time}
        return {"bytes": size, **counts, "disk_bytes": number * size, "is_unlimited": is_unlimited}

    # ------------------------------------------------------------------ as data and text
    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data; bytes, FLOPs of one iteration, seconds."""
        cost, loop = self.cost, self._runner.train_loop
        found: dict[str, Any] = {
            "model": cost.model, "parameters": cost.parameters, "trained": cost.trained, "counted_in": cost.counted_in,
            "batch": cost.batch, "samples": self.samples, "tokens": cost.tokens,
            "flops": {phase: cost.flops_of(phase) for phase in ("forward", "backward", "step")},
            "uncounted": cost.uncounted,
            "memory": {"peak": cost.peak_bytes, "validation": cost.val_peak_bytes}
            | {kind: cost.bytes_of(kind) for kind in KINDS},
            "modules": modules_of(cost),
            "epochs": loop.max_epochs, "epoch_length": loop.epoch_length, "iterations": loop.max_iters,
            "checkpoints": self.checkpoints(),
        }  # fmt: skip
        if self.seconds is not None:
            number, batches = self.validations()
            iteration = self.iteration_s()
            found["seconds"] = {
                "source": self.seconds.source,
                "iteration": iteration,
                "step": self.seconds.step,
                "read": self.seconds.read,
                "training": iteration * loop.max_iters,
                "validation": (self.seconds.val or 0.0) * number * batches,
            }
        return found

    def as_text(self, depth: int | None = None) -> str:
        """Return the plan as lines; with the modules down to a depth."""
        rows = [*cost_rows(self.cost), *self._length_rows()]
        text = as_lines(rows)
        return text if depth is None else f"{text}\n\n{module_table(self.cost, depth)}"

    def _length_rows(self) -> list[tuple[str, str]]:
        loop, cost = self._runner.train_loop, self.cost
        length = f"{loop.max_iters:,} iterations"
        if loop.max_epochs is not None:
            length = f"{loop.max_epochs:,} epochs of {loop.epoch_length:,} batches, {length}"
        if self.samples is not None:
            length += f", {loop.max_iters * self.samples:,} samples in whole batches"
        number, batches = self.validations()
        rows = [("length", length), ("", f"{number:,} validations of {batches or '?'} batches")]
        rows = rows if number else rows[:1]
        if self.seconds is None:
            rows.append(("speed", self.unmeasured))
        else:
            each = self.iteration_s()
            rate = [f"{self.samples / each:,.0f} samples/s"] if self.samples else []
            rate += [f"{cost.tokens / each:,.0f} tokens/s"] if cost.tokens else []
            rows.append(("speed", f"{each:.4g} s an iteration: {', '.join(rate)}"))
            parts = f"step {self.seconds.step:.3g} s, batch {self.seconds.read:.3g} s: " if self.seconds.read else ""
            rows.append(("", f"{parts}{self.seconds.source}"))
            val_s = (self.seconds.val or 0.0) * number * batches
            rows.append(("time", f"{_duration(each * loop.max_iters)} training, {_duration(val_s)} validation"))
        saves = self.checkpoints()
        best = "".join(f" and {saves[what]} {what}" for what in ("best", "published") if saves[what])
        text = f"{format_bytes(saves['bytes'])} each; {saves['saved']:,} saved, {saves['kept']:,} kept{best}"
        disk = f"{format_bytes(saves['disk_bytes'])} at most"
        if saves["by_time"]:
            text += "; every_s saves more, as many as the training is long"
        if saves["is_unlimited"]:
            disk = f"{format_bytes(saves['disk_bytes'])}, and all that every_s saves: set max_keep_ckpts"
        return [*rows, ("checkpoints", text), ("disk", disk)] if saves["saved"] or saves["by_time"] else rows


def as_lines(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and texts as lines of at most 100 columns, the texts one below the other."""
    return table([(f"{name:<12}", text) for name, text in rows], columns=100)


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    """Return what an iteration costs as rows of a table."""
    flops = {phase: cost.flops_of(phase) for phase in ("forward", "backward", "step")}
    counted = ", ".join(f"{_flop(number)} {phase}" for phase, number in flops.items() if number)
    by_kind = ((kind, cost.bytes_of(kind)) for kind in KINDS)
    kinds = [f"{kind} {format_bytes(number)}" for kind, number in by_kind if number]
    val = f"; of a validation batch {format_bytes(cost.val_peak_bytes)}" if cost.val_peak_bytes is not None else ""
    sizes = {"samples": cost.samples, "tokens": cost.tokens}
    rows = [
        ("model", f"{cost.model}: {cost.parameters:,} parameters, {cost.trained:,} trained"),
        ("batch", cost.batch),
        ("", ", ".join(f"{number:,} {what}" for what, number in sizes.items() if number is not None)),
        ("iteration", f"{counted or 'no FLOP'} (a multiply-add is two)"),
        ("", f"not counted: {listed(cost.uncounted)}" if cost.uncounted else ""),
        ("memory", f"{format_bytes(cost.peak_bytes)} at the peak of training{val}"),
        *(("", ", ".join(kinds[i : i + 3])) for i in range(0, len(kinds), 3)),
        ("", f"most in {_greatest(cost)}"),
        ("counted in", cost.counted_in),
        ("", f"counted of {cost.later}" if cost.later else ""),
    ]
    return [row for row in rows if row[1]]


def modules_of(cost: Cost) -> dict[str, dict[str, int]]:
    """Return for each module, those inside it included: parameters, FLOPs forward and backward, bytes at the peak."""
    parts: dict[str, Counter[str]] = {}

    def add(module: str, what: str, number: int) -> None:
        names = [""]
        for part in module.split(".") if module else ():
            names.append(f"{names[-1]}.{part}".lstrip("."))
        for name in names:
            parts.setdefault(name, Counter())[what] += number

    for module, number in cost.parameters_of.items():
        add(module, "parameters", number)
    for (phase, module), number in cost.flops.items():
        add(module, phase, number)
    for (kind, module), number in cost.at_peak.items():
        add(module, "activations" if kind in ("activations", "data") else "state", number)
    columns = ("parameters", "forward", "backward", "state", "activations")
    return {name: {what: counts[what] for what in columns} for name, counts in parts.items()}


def module_table(cost: Cost, depth: int = 2) -> str:
    """Return a table of the modules down to a depth; the bytes are those at the peak of training."""
    names = [name for name, _ in cost.runner.model.named_modules()]
    rows: list[Sequence[object]] = [
        ("module", "parameters", "FLOP forward", "backward", "weights & optimizer", "activations")
    ]
    found = modules_of(cost)
    for name in sorted(found, key=lambda name: (names.index(name) if name in names else len(names), name)):
        counts = found[name]
        level = name.count(".") + 1 if name else 0
        if level <= depth:
            numbers = [f"{counts['parameters']:,}", *(format_count(counts[p]) for p in ("forward", "backward"))]
            label = "  " * level + (name.rpartition(".")[2] or cost.model)
            rows.append((label, *numbers, *(format_bytes(counts[k]) for k in ("state", "activations"))))
    return table(rows)


def _greatest(cost: Cost) -> str:
    """Return which modules themselves hold the most at the peak."""
    by_module: Counter[str] = Counter()
    for (_, module), number in cost.at_peak.items():
        by_module[module] += number
    top = [(name, number) for name, number in by_module.most_common(4) if number]
    return ", ".join(f"{name or 'the model itself'} {format_bytes(number)}" for name, number in top[:3]) or "nothing"


def _flop(number: float) -> str:
    text = format_count(number)
    return f"{text[:-1]} {text[-1]}FLOP" if text[-1:].isalpha() else f"{text} FLOP"


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else str(datetime.timedelta(seconds=round(seconds)))


# ---------------------------------------------------------------------------------------------------- against another
def compare(plan: Plan, base: Cost, name: str) -> dict[str, Any]:
    """Return what a plan changes against the experiment of another one, and whether that could go on as this one.

    The engine itself is asked, by objects that have no values: which weights fit, whether optimizer and loop take the
    other's state, and what becomes of each value of the config.

    Args:
        plan: The plan.
        base: The cost of the other one.
        name: What it is called.
    """
    cost, runner, former = plan.cost, plan.cost.runner, base.runner
    fitting = [key for key, shape in base.weights.items() if cost.weights.get(key) == shape]
    shapes = [
        f"{key} {base.weights[key]} -> {shape}"
        for key, shape in cost.weights.items()
        if key in base.weights and base.weights[key] != shape
    ]
    why = [
        *(f"{len(shapes)} weights have another shape" for _ in shapes[:1]),
        *(f"{len(missing)} weights are only {where}" for where, missing in _only_in(base, cost) if missing),
        *_refusals(runner, former),
    ]
    was, now = (flat_config(to_json(each.cfg)) for each in (former, runner))
    changes = changed_values(was, now, runner.optim_wrapper.named())
    loader = runner.train_loop.dataloader
    settle_generators(loader, {"model": runner.model, "hooks": list(runner.hooks)})
    reason = why_not_exact(loader)
    return {
        "against": name,
        "changes": [_as_text(change, bool(why)) for change in changes],
        "parameters": base.parameters,
        "flops": base.total_flops,
        "peak": base.peak_bytes,
        "checkpoint_bytes": base.checkpoint_bytes,
        "weights": {"fit": len(fitting), "of": len(cost.weights), "other_shape": shapes, **dict(_only_in(base, cost))},
        "resume": "refused" if why else "goes on, as another run from there on" if changes else "exact",
        "why": [*why, *([f"in the middle of an epoch it is not exact: {reason}"] if reason else [])],
    }


def _as_text(change: Mapping[str, Any], is_refused: bool) -> str:
    effect = "" if is_refused else f" ({change['effect']} on a resume)"
    return f"{change['path']}: {change['was']} -> {change['is']}{effect}"


def _only_in(base: Cost, cost: Cost) -> list[tuple[str, list[str]]]:
    return [
        ("here", [key for key in cost.weights if key not in base.weights]),
        ("there", [key for key in base.weights if key not in cost.weights]),
    ]


def _refusals(runner: Any, former: Any) -> list[str]:
    """Let loop and optimizer take the state of another run's; return why they do not."""
    found = []
    for part in ("train_loop", "optim_wrapper"):
        try:
            with quietly(logging.WARNING), _torch.fake_tensors() or contextlib.nullcontext():
                getattr(runner, part).load_state_dict(getattr(former, part).state_dict())
        except Exception as error:  # the reason is what is asked for
            found.append(f"{part}: {error}")
    return found


def comparison_text(plan: Plan, found: Mapping[str, Any]) -> str:
    """Return what `compare` found as lines."""
    cost = plan.cost
    pairs = (
        ("parameters", found["parameters"], cost.parameters, lambda n: f"{n:,}"),
        ("FLOP", found["flops"], cost.total_flops, format_count),
        ("peak memory", found["peak"], cost.peak_bytes, format_bytes),
        ("checkpoint", found["checkpoint_bytes"], cost.checkpoint_bytes, format_bytes),
    )
    weights = found["weights"]
    rows = [("  changed", line) for line in found["changes"][:20] or ["nothing"]]
    rows += [(f"  {n}", f"{text(was)} -> {text(now)}{_ratio(was, now)}") for n, was, now, text in pairs if was != now]
    rows.append(("  weights", f"{weights['fit']} of {weights['of']} would load"))
    for what, names in (("other shape", "other_shape"), ("only here", "here"), ("only there", "there")):
        if weights[names]:
            rows.append(("", f"{what}: {listed(weights[names], 3)}"))
    rows.append(("  resume", found["resume"]))
    rows += [("", line) for line in found["why"]]
    return f"against {found['against']}\n{as_lines(rows)}"


def _ratio(was: float, now: float) -> str:
    return f" (x {now / was:.3g})" if was else ""


# ---------------------------------------------------------------------------------------------------- several ranks
def on_ranks(plan: Plan, number: int, gpu: str | None = None) -> list[tuple[str, str]]:
    """Return what each of several ranks holds and sends, and what a kind of accelerator says to that, as rows.

    Args:
        plan: The plan, of one rank.
        number: Ranks.
        gpu: A kind of accelerator such as ``"H100"``.

    Raises:
        UsageValueError: The kind is not known.
    """
    cost, wrapper = plan.cost, plan.cost.runner.model_setup.wrapper
    rows, memory = [], cost.peak_bytes
    val_memory = cost.val_peak_bytes or 0  # with the same weights and optimizer, and often with larger batches
    if number > 1 and isinstance(wrapper, FSDP2):
        more, memory = _sharded(cost, wrapper, number)
        rows += more
        val_memory += memory - cost.peak_bytes
    elif number > 1:
        sent = 2 * (number - 1) * cost.gradient_bytes // number
        buckets = max(math.ceil(cost.gradient_bytes / _BUCKET_BYTES), 1)
        memory, val_memory = memory + cost.gradient_bytes, val_memory + cost.gradient_bytes
        rows = [
            (f"{number:,} ranks", f"DDP: each holds all, and {format_bytes(cost.gradient_bytes)} of buckets"),
            ("", f"a step: {buckets} all-reduce{'s' * (buckets > 1)}, {format_bytes(sent)} sent by each (a ring)"),
        ]
        if cost.num_buffers:
            rows.append(("", f"a forward: buffers of rank 0 to all, {format_bytes(cost.num_buffers)}"))
    loop = cost.runner.train_loop
    iters = loop.max_iters
    if loop.max_epochs is not None:  # which the ranks share
        iters = math.ceil(loop.epoch_length / number) * loop.max_epochs
    if number > 1 and cost.samples:
        rows.append(("", f"{cost.samples * number:,} samples an iteration of all ranks, {iters:,} iterations"))
    return rows + ([] if gpu is None else _on_device(plan, gpu, memory, val_memory, iters))


def _sharded(cost: Cost, wrapper: FSDP2, number: int) -> tuple[list[tuple[str, str]], int]:
    model = cost.runner.model
    found = match_modules(model, wrapper.modules, "FSDP2 modules", open_containers=True)
    taken: set[int] = set()
    units: list[int] = []
    for module in [*reversed(found.values()), model]:
        own = [each for each in module.parameters() if id(each) not in taken]
        taken |= {id(each) for each in own}
        units.append(sum(each.numel() for each in own))
    units = [unit for unit in units if unit]
    width = max(each.element_size() for each in model.parameters())
    if wrapper.param_dtype is not None:
        width = 2 if "16" in str(wrapper.param_dtype) else 4
    state = cost.bytes_of("weights") + cost.bytes_of("optimizer") + cost.gradient_bytes
    rest = cost.peak_bytes - sum(cost.bytes_of(kind) for kind in ("weights", "optimizer", "gradients"))
    gathered = sum(units) * width * (number - 1) // number
    passes = 2 if wrapper.reshard_after_forward else 1
    memory = state // number + rest + 2 * max(units) * width
    return [
        (f"{number:,} ranks", f"FSDP2: a shard of weights, gradients, optimizer is {format_bytes(state / number)}"),
        ("", f"{len(units)} units, the largest {format_bytes(max(units) * width)} when gathered"),
        ("", f"an iteration: {passes * len(units)} all-gathers, {format_bytes(passes * gathered)} received by each;"),
        ("", f"{len(units)} reduce-scatters, {format_bytes(gathered)} sent by each"),
        ("", f"about {format_bytes(memory)} at the peak of a rank (two units gathered)"),
    ], memory  # fmt: skip


def named_device(gpu: str) -> Device:
    """Return the kind of accelerator of a name.

    Raises:
        UsageValueError: The kind is not known.
    """
    device = find_device(gpu)
    if device is None:
        names = [each.name for each in DEVICES]
        raise UsageValueError(f"--gpu {gpu}: not known.{did_you_mean(gpu, names)} There are {listed(names, 30)}.")
    return device


def _on_device(plan: Plan, gpu: str, memory: int, val_memory: int, iters: int) -> list[tuple[str, str]]:
    device = named_device(gpu)
    cost = plan.cost
    wrappers = cost.runner.optim_wrapper.named().values()
    given = next((w.precision["dtype"] for w in wrappers if w.precision), "float32")
    dtype = str(getattr(cost.runner.model_setup.wrapper, "param_dtype", None) or given).rpartition(".")[2]
    least = cost.total_flops / device.peak(dtype)
    in_validation = " in validation" if val_memory > memory else ""
    memory = max(memory, val_memory)
    fits = "fits into" if memory < 0.9 * device.memory_gib * 2**30 else "does NOT fit into"
    total = least * iters
    return [
        (device.name, f"{format_bytes(memory)}{in_validation} {fits} {device.memory_gib} GiB (kernels need some more)"),
        ("", f"{least:.3g} s an iteration at its peak in {dtype}, {least / 0.4:.3g} s at an MFU of 40 %"),
        ("", f"{_duration(total / 0.4)} for all {iters:,} iterations at 40 %"),
    ]

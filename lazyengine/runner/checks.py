"""Whether the parts of a training go together: asked once, before anything is trained."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from torch import nn

from ..checkpoint import is_sharded_tensor
from ..dataset import settle_generators
from ..errors import UsageRuntimeError, UsageTypeError, UsageValueError
from ..hooks import CheckpointHook, EMAHook, Hook, ParamSchedulerHook
from ..model import unwrap
from ..nesting import iter_leaves
from ..text import listed
from .loops import BaseTrainLoop, why_not_exact

if TYPE_CHECKING:
    from .runner import Runner


def check_training(runner: Runner) -> None:
    """Refuse parts whose absence would decide the result in silence; warn of what may be meant.

    Raises:
        ValueError: When schedulers are there and no hook that steps them, or something follows a metric and nothing
            ever validates.
        RuntimeError: When the precision of the validation is not known.
    """
    hooks = list(runner.hooks)
    schedulers = [leaf for _, leaf in iter_leaves(runner.param_schedulers or [])]
    if schedulers and not any(hook.steps_schedulers for hook in hooks):
        names = ", ".join(sorted({type(scheduler).__name__ for scheduler in schedulers}))
        raise UsageValueError(
            f"param_schedulers: nothing steps {names}: no hook among {', '.join(runner.hooks.keys()) or 'none'} does. "
            "Add ParamSchedulerHook(), or set steps_schedulers = True on the class of the hook that does it."
        )
    stepping = [name for name, hook in runner.hooks.items() if isinstance(hook, ParamSchedulerHook)]
    if schedulers and len(stepping) > 1:
        raise UsageValueError(f"hooks: {listed(stepping)} each step all schedulers, {len(stepping)} times: keep one.")
    averaging = [name for name, hook in runner.hooks.items() if isinstance(hook, EMAHook)]
    if len(averaging) > 1:
        raise UsageValueError(
            f"hooks: {listed(averaging)} each exchange their average into the model, and in a checkpoint the last one "
            "takes the place of the weights that training goes on with: keep one."
        )
    if (accumulation := runner._state.accumulation()) > runner.train_loop.max_iters:
        runner.logger.warning(
            "accumulative_counts=%d, and training has %d iterations: the optimizer steps once, at the end",
            *(accumulation, runner.train_loop.max_iters),
        )
    validates = runner.has("val_loop") and runner.train_loop.validates()
    if not validates and not any(hook.evaluates for hook in hooks):
        followers = [f"{type(hook).__name__} ({hook.describe_interval()})" for hook in hooks if hook.needs_validation]
        for what in followers + [type(s).__name__ for s in schedulers if getattr(s, "need_val_args", False)]:
            has = "a val_loop that is never due (val_interval, val_begin)" if runner.has("val_loop") else "no val_loop"
            raise UsageValueError(
                f"{what} follows a metric, and nothing ever validates: the runner has {has}. Give it one, or set "
                "evaluates = True on the class of the hook that validates."
            )
        for hook in hooks:
            if isinstance(hook, CheckpointHook) and hook.best is not None:
                runner.logger.warning("save_best='auto' of CheckpointHook: nothing validates, so no best file is kept")
    if validates:
        runner.precision_of(runner.val_loop)
    check_train_data(runner)
    check_names(runner)
    if not any(isinstance(hook, CheckpointHook) and hook.saves for hook in hooks):
        runner.logger.warning("no hook saves a checkpoint: what is trained here is lost, unless a hook of yours does")


def claim_parts(runner: Runner, is_new: bool) -> None:
    """Note whose the train loop is, and each hook that keeps what it has found, and refuse those of another runner.

    Args:
        runner: The runner that trains with them from here on.
        is_new: Whether its training begins anew; a resume has just loaded their states.

    Raises:
        ValueError: When another runner has made iterations with one: a new training would go on from where that ended.
    """
    parts: dict[str, Any] = {"train_loop": runner.train_loop}
    for name, hook in runner.hooks.items():
        if type(hook).state_dict is not Hook.state_dict or isinstance(hook, EMAHook):
            parts[f"hooks[{name!r}]"] = hook
    for name, part in parts.items():
        if is_new and (position := getattr(part, "_trained_at", None)) is not None and position.iter:
            raise UsageValueError(
                f"{name}: this {type(part).__name__} has trained in another runner, and would go on from where that "
                "one ended: make a new one for each runner."
            )
        with contextlib.suppress(AttributeError):  # a hook with slots
            part._trained_at = runner.train_loop.position


def check_shapes(model: nn.Module) -> None:
    """Refuse a model whose layers have no shapes yet.

    Raises:
        TypeError: When there are such.
    """
    if lazy := [name for name, parameter in model.named_parameters() if nn.parameter.is_lazy(parameter)]:
        raise UsageTypeError(
            f"{type(model).__name__}: the shapes of {listed(lazy)} are known after the first batch alone, "
            "which is too late for the optimizer. Name the sizes, or call the layers once in the constructor, such "
            "as self.net(torch.zeros(1, 4))."
        )


def check_names(runner: Runner) -> None:
    """Refuse two hooks that save under the same names, and so delete what the other keeps.

    Raises:
        ValueError: When there are such.
    """
    names: dict[tuple[str, str | None], str] = {}
    for key, hook in runner.hooks.items():
        if isinstance(hook, CheckpointHook) and (hook.interval != -1 or hook.save_last):
            hook.settle(runner)
            first = names.setdefault((hook.folder(runner), hook.filename_tmpl), key)
            if first != key:
                raise UsageValueError(
                    f"hooks: {first} and {key} both save {hook.filename_tmpl} in {hook.folder(runner)}, and each "
                    "deletes what the other keeps: give one of them a filename_tmpl or an out_dir of its own, or "
                    "interval=-1 and save_last=False where it only keeps the best."
                )


def check_loop(loop: Any) -> None:
    """Refuse a train loop of one's own that lacks what the runner, hooks and checkpoints ask of it.

    Raises:
        TypeError: When it does; names all of it.
    """
    lacks: list[str] = []
    if not isinstance(loop, BaseTrainLoop):
        lacks.append("the base class BaseTrainLoop")
    else:
        if not hasattr(loop, "position"):
            lacks.append("position (call super().__init__() first)")
        if type(loop).run is BaseTrainLoop.run:
            lacks.append("run(runner), which trains")
        lacks += [
            f"{name} ({what})"
            for name, what in (
                ("max_iters", "iterations to train"),
                ("max_epochs", "None without epochs"),
                ("epoch_length", "batches of a pass over the loader, None where it does not end"),
            )
            if not hasattr(loop, name)
        ]
    if lacks:
        raise UsageTypeError(f"train_loop: {type(loop).__name__} lacks {listed(lacks)}. See LOOPS.md of the runner.")


def check_train_data(runner: Runner) -> None:
    """Log what becomes of random generators inside the train loader, and what keeps a resume from being exact."""
    loader, loop = runner.train_dataloader, runner.train_loop
    if loader is None:  # the loop makes its batches
        return
    shared_with = {"model": runner.model, "hooks": list(runner.hooks)}
    for line in settle_generators(loader, shared_with, runner._state.generators.values()):
        runner.logger.info("data of training: %s", line)
    if reason := why_not_exact(loader):
        becomes = "begins the epoch's data anew" if loop.allow_inexact_resume else "is refused"
        runner.logger.warning("a resume in the middle of an epoch is not exact, and %s: %s", becomes, reason)


def check_parameters(runner: Runner) -> None:
    """Refuse an optimizer that was built over another model than the runner's.

    Raises:
        RuntimeError: When there are such parameters.
    """
    own = {id(p) for p in runner.model.parameters()} | {id(p) for p in unwrap(runner.forward).parameters()}
    groups = [group for wrapper in runner.optim_wrapper.named().values() for group in wrapper.param_groups]
    foreign = sum(id(p) not in own for group in groups for p in group["params"])
    if foreign:
        split = any(map(is_sharded_tensor, runner.model.parameters()))  # into others, which it knows from then on
        raise UsageRuntimeError(
            f"{foreign} of the optimizer's parameters are not the model's: it was built over a second model. In a "
            "config, let the optimizer refer to the very node that the runner has (params=L(param_groups)(model="
            "model)); by hand, build the optimizer over the model object that you pass"
            + ("; over one that FSDP2 splits, only nodes can: instantiate(L(Runner)(...))." if split else ".")
        )


def warn_of_untrained(runner: Runner) -> None:
    """Log which parameters should train and are in no optimizer since the model was changed, each once."""
    if new := sorted(untrained(runner) - runner.untrained):
        runner.untrained.update(new)
        runner.logger.warning(
            "%s should train, but came into the model, or were unfrozen, after the optimizer was built, which does not "
            "hold them: they stay as they are. Add them by optim_wrapper.add_param_group, change the model before "
            "train(), or use UnfreezeHook",
            listed(new, 6),
        )


def untrained(runner: Runner) -> set[str]:
    """Return the names of parameters that require gradients and are in no optimizer."""
    groups = [group for wrapper in runner.optim_wrapper.named().values() for group in wrapper.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    return {name for name, p in runner.model.named_parameters() if p.requires_grad and id(p) not in held}

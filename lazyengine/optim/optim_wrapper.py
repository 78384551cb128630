"""One interface over every optimizer: accumulation, clipping, the check for non-finite numbers, and the step."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch
from ..checkpoint import shard_optimizer_state
from ..dist import get_world_size
from ..errors import UsageRuntimeError, UsageTypeError
from ..logging import print_log
from ..model import Weighted
from ..text import listed
from ._checks import require, require_int
from ._counts import LossCount, over_all_ranks
from ._resuming import apply_changes, check_same_groups, flaw_of, is_overruled, option_changes, options_as_built
from ._undo import KeptBuffers, OptimizerSnapshot, TwoModes
from .gradients import (
    FiniteScan,
    GradientClipping,
    NonFiniteGuard,
    average_over_ranks,
    name_nonfinite,
    total_norm,
)
from .param_groups import check_groups

_NO_CONTEXT = nullcontext()
Loss = Tensor | Weighted | list[Weighted]
Kwargs = dict[str, Any] | None
# The key of the wrapper's own counters in its state; torch's optimizers ignore keys that they do not know.
STATE_KEY = "optim_wrapper"


class OptimWrapper:
    """Updates parameters from losses.

    ``update_params(loss)`` is all that a training step calls: it scales the loss for accumulation, runs the backward
    pass, and on every ``accumulative_counts``-th call checks, clips, steps and clears the gradients.

    Args:
        optimizer: A torch optimizer, already holding the model's parameters.
        accumulative_counts: Number of calls of `update_params` whose gradients are averaged into one step.
        clip_grad: ``dict(max_norm=1.0, norm_type=2)`` clips the total norm, ``dict(type="value", clip_value=0.5)``
            each element; None clips nothing. The norm before clipping is recorded as ``train/grad_norm``.
        nonfinite: What to do about an update with a loss or gradient norm that is inf or NaN. ``"raise"`` a
            `NonFiniteError`; ``"skip"`` the update (with accumulation: all of its micro-batches) and log a warning;
            ``"ignore"`` looks at nothing. All ranks decide together and before a weight changes. A step by a closure
            is undone where one of its evaluations was not finite; for this a copy of weights and state is made.

    On an accelerator the result of the check stays on the device and is read one update later, so that the host never
    waits, where a device flag can stop the optimizer's step (``fused=True``). Other optimizers make the host wait once
    an update, unless ``nonfinite="ignore"``.

    Attributes:
        optimizer: The wrapped optimizer.
        accumulative_counts: Number of `update_params` calls whose gradients make one step.
        inner_count: Number of backward passes counted so far.
        num_optimizer_steps: Number of optimizer steps that were taken. A step that a deferred check finds, one update
            later, to have changed nothing is taken off again.
        as_built: The options of each parameter group as they were built, also after `scale_lr`: without what
            schedulers and hooks have made of them.
        changes: What differs from how the loaded state's optimizer was built, and is in force (see `option_changes`).
        lr_factor: What `scale_lr` has multiplied the learning rates by.

    Raises:
        UsageTypeError: If ``optimizer`` is no torch optimizer, or another argument has the wrong type.
        UsageValueError: If an argument is out of range, or a group has an option that the optimizer lacks.
    """

    loss_scaler: torch.amp.GradScaler | None = None
    _is_as_on_accelerator = False  # a test sets it to have the check read late where there is only a host

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
        nonfinite: str = "raise",
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageTypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}")
        require_int("accumulative_counts", accumulative_counts, 1)
        check_groups(optimizer)
        self.accumulative_counts = accumulative_counts
        self._clipping = None if clip_grad is None else GradientClipping(clip_grad)
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty
        what = f"clip_grad has no effect with {type(optimizer).__name__}, whose closure computes the gradients anew"
        require(self._clipping is None or not self._needs_closure, f"{what}: clip inside the closure")
        self.lr_factor = 1.0
        self._model: nn.Module | None = None
        self._has_shared_gradients = False
        self._is_driven = False
        self._shares_with = ""  # its name, in an `OptimWrapperDict`, until it has been warned of
        self._kept: KeptBuffers | None = None
        self._begin(optimizer, NonFiniteGuard(nonfinite))
        self.changes: list[dict[str, Any]] = []
        self.set_as_built()

    def set_as_built(self) -> None:
        """Set `as_built` from the present groups, before a schedule or hook has changed them."""
        self._built = self.as_built = options_as_built(self.optimizer.param_groups)

    def _begin(self, optimizer: Optimizer, guard: NonFiniteGuard) -> None:
        """Set what belongs to one run of updates: an optimizer, its check and its counts."""
        self.optimizer = optimizer
        self.num_optimizer_steps = 0
        self._counted: tuple[OptimWrapper, ...] = (self,)  # those whose steps a step of this one counts as
        self._guard = guard
        self._modes = TwoModes(optimizer)
        self._scan = FiniteScan()
        self._count = LossCount()
        self._clears_plainly = type(optimizer).zero_grad is Optimizer.zero_grad
        self._max_gradients = 0  # with which a step was taken
        self._num_seen = 0  # the greatest number of steps before this iteration
        self._unsure: KeptBuffers | None = None  # the buffers before an update whose check is not read yet
        self._loaded_buffers: list[Tensor] | None = None
        self.inner_count = self._first_count = self._num_accumulated = 0
        self._has_loaded_count = self._is_cleared = False
        self._at_begin: tuple[int, bool] | None = None  # the counts before the backward passes of this iteration
        self._is_cut = False  # a backward pass did not end, or FSDP2 holds gradients of an accumulation that did not
        self._divisor = 1
        self._max_counts = self._remainder_counts = -1

    # ------------------------------------------------------------------ one update
    def update_params(self, loss: Loss, step_kwargs: Kwargs = None, zero_kwargs: Kwargs = None) -> None:
        """Run the backward pass of ``loss`` and, when an accumulation is complete, update the parameters.

        On update steps of a run with several ranks this is collective: every rank must call.

        Args:
            loss: The loss of this (micro-)batch, shape `()`, not yet divided for accumulation: a mean; or a `Weighted`
                sum, whose gradients are added up over micro-batches and ranks and divided once, at the step, by the
                count of all. Several sums with counts of their own need ``accumulative_counts=1``. Where nothing is
                counted there is no step.
            step_kwargs: Arguments of ``optimizer.step``, for example ``dict(closure=...)`` for LBFGS.
            zero_kwargs: Arguments of ``optimizer.zero_grad``.

        Raises:
            NonFiniteError: If the loss or the gradient norm is not finite and the policy says so.
        """
        if not self._is_driven:
            self._mark()
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def scale_loss(self, loss: Loss) -> Tensor:
        """Return ``loss`` divided by the number of micro-batches of its accumulation; the last may have fewer.

        A `Weighted` sum is counted, and divided by a number that `step` makes good for.

        Raises:
            ValueError: If more losses come than `initialize_count_status` announced.
            RuntimeError: If sums and means, or sums with several counts, come in one accumulation.
        """
        if isinstance(loss, list):
            loss = self._one_loss(loss)
        if self._num_accumulated and isinstance(loss, Weighted) is (self._count.own is None):
            raise RuntimeError("one accumulation has losses by sum and count and plain ones; return the same from each")
        if self.accumulative_counts > 1:
            self._set_divisor()
        if isinstance(loss, Weighted):
            self._count.add(loss.count, self.accumulative_counts, loss.sum.device)
            if self.should_sync():
                self._count.start()
            return loss.sum.sum() / self._count.reference
        return loss if self.accumulative_counts == 1 else loss / self._divisor

    def _one_loss(self, losses: list[Weighted]) -> Tensor | Weighted:
        """Return sums with several counts as one loss. Collective without accumulation: every rank must call."""
        counts = [loss.count for loss in losses]
        if self.accumulative_counts > 1:
            if len({float(count) for count in counts}) > 1:
                raise RuntimeError(
                    f"the losses are sums over {[float(count) for count in counts]}, but one accumulation has one "
                    "denominator: give all the same count (the very tensor), or use accumulative_counts=1"
                )
            return Weighted(sum((loss.sum.sum() for loss in losses[1:]), losses[0].sum.sum()), counts[0])
        sums = over_all_ranks(counts, losses[0].sum.device)
        if sums.is_cuda:  # not read, for which the host would wait: their number says whether there is a step
            factors = torch.where(sums == 0, 0.0, get_world_size() / sums)
            parts = [loss.sum.sum() * factor for loss, factor in zip(losses, factors.unbind())]
            return Weighted(sum(parts[1:], parts[0]), (sums != 0).any())
        totals = sums.tolist()
        if not any(totals):
            return Weighted(losses[0].sum, 0)
        parts = [loss.sum.sum() * (get_world_size() / total if total else 0.0) for loss, total in zip(losses, totals)]
        return sum(parts[1:], parts[0])

    def _set_divisor(self) -> None:
        self._divisor = self.accumulative_counts
        if self._max_counts >= 0 and self.inner_count >= self._max_counts - self._remainder_counts:
            self._divisor = self._remainder_counts
            if self.inner_count >= self._max_counts:
                what = f"update_params was called {self.inner_count + 1} times, but initialize_count_status announced"
                raise ValueError(f"{what} max_counts={self._max_counts}; give it the number of calls of the run")

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradients of ``loss``, shape `()`, to the parameters' and count one micro-batch."""
        guard = self._guard
        if guard.is_active:
            if guard.pending is not None:
                self._resolve()
            error = guard.observe(loss, is_late=self._is_as_on_accelerator or not loss.is_cpu)
            if error is not None:
                self._discard()
                guard.reject(error)
            if guard.has_found and self._has_shared_gradients:
                loss = loss * math.nan  # DDP hands the NaN to all ranks, so that no other message is needed
        if not loss.requires_grad:
            trained = sum(parameter.requires_grad for parameter in self._parameters())
            raise RuntimeError(
                f"the loss has no gradient ({trained} of the optimizer's {len(self._parameters())} parameters require "
                "one): it does not depend on a trained parameter · look for detach(), item(), torch.tensor(...) or "
                "torch.no_grad() on the way from the model to the loss, and for a model that is frozen as a whole"
            )
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        self._note_begin()
        loss.backward(**kwargs)
        self._is_cut = False
        self.inner_count += 1
        self._num_accumulated += 1

    def step(self, **kwargs: Any) -> None:
        """Check and clip the gradients and step the optimizer. With several ranks collective: every rank must call.

        Args:
            **kwargs: Arguments of ``optimizer.step``.

        Raises:
            NonFiniteError: If a noted loss or the gradient norm is not finite and the policy says so.
            TypeError: If the optimizer needs a closure and none is given.
        """
        if self._needs_closure or "closure" in kwargs:
            self._step_by_closure(**kwargs)
            return
        gradients = self._gradients()
        if self._count.own is not None and not self._divide_by_count(gradients):
            return
        clipping, guard = self._clipping, self._guard
        on_host = not gradients or (gradients[0].is_cpu and not self._is_as_on_accelerator)
        defers = guard.is_active and not on_host and self._can_defer(len(gradients))
        norm = known_norm = found = None
        if clipping is not None or defers or (guard.is_active and not on_host):
            norm = total_norm(gradients, 2.0 if clipping is None else clipping.norm_type)
        if guard.is_active:
            if norm is not None and defers:
                found = guard.defer(norm)
                self._unsure = self._kept
            else:
                if norm is None:
                    known_norm = self._scan.value(gradients)
                else:
                    known_norm = guard.read(norm) if guard.are_late else norm.item()
                if self._rejects(known_norm, on_host and self._has_shared_gradients):
                    return
        if clipping is not None and norm is not None:
            clipping.apply(self.optimizer, norm, known_norm)
        if found is None:
            _torch.take_step(self.optimizer, **kwargs)
        else:
            _torch.take_stoppable_step(self.optimizer, found, **kwargs)
        self._max_gradients = max(self._max_gradients, len(gradients))
        self._count_step()

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients, by default by setting them to None; arguments as ``optimizer.zero_grad``."""
        self._num_accumulated = 0
        self._is_cleared = True
        if self._guard.has_noted:
            self._guard.forget()
        if self._count.own is not None:
            self._count.forget()
        if kwargs or not self._clears_plainly:
            self.optimizer.zero_grad(**kwargs)
            return
        # The same as Optimizer.zero_grad(), without its profiler range, which costs more than a small model's clearing.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # ------------------------------------------------------------------ iterations
    def begin_iteration(self) -> None:
        """Mark the begin of a training iteration, to which `stepped` refers. The loop calls it before each train step.

        With ``nonfinite="skip"`` it also keeps the model's floating buffers (BatchNorm's statistics) at the begin of
        each accumulation, which are restored where the update is rejected.
        """
        self._is_driven = True
        self._mark()
        self._at_begin = None
        if self._guard.policy == "skip":
            self._keep_buffers(self._model)

    def abandon_iteration(self) -> bool:
        """Take back the backward passes of an iteration that an exception has ended, which may be run once more.

        Else what they have left would be added to the gradients of the next call. Those of an accumulation that had
        begun before are lost with them.

        Returns:
            Whether the model's floating buffers are those of before, too, as ``nonfinite="skip"`` keeps them.
        """
        if self._at_begin is None:  # the forward pass has failed
            kept = self._kept if self.at_step_boundary else None
            if kept is not None:
                kept.restore()
            return kept is not None
        (count, is_within), self._at_begin = self._at_begin, None
        self._is_cut |= self._num_accumulated > 0 and hasattr(self._model, "set_requires_gradient_sync")
        self._discard()
        self.inner_count = count
        if is_within:
            _warn("An exception ended an accumulation: its gradients so far are lost and the update is smaller")
        return self._kept is not None

    @property
    def stepped(self) -> bool:
        """Whether an optimizer step was taken in the current iteration; by hand, since `update_params` began.

        A step that turned out late to have changed nothing is made good for by the next one,
        which is then not reported: what counts by `stepped` agrees with `num_optimizer_steps` one update later.
        """
        return self.num_optimizer_steps > self._num_seen

    def named(self) -> dict[str, OptimWrapper]:
        """Return ``{"": self}``; an `OptimWrapperDict` returns its wrappers by their names."""
        return {"": self}

    def flush(self) -> None:
        """Step what an incomplete accumulation has gathered, weighed as if it were complete, and read a deferred check.

        The loop calls it at the end of training. Collective in a run of several ranks: every rank must call.

        Raises:
            NonFiniteError: As `step`, also for the update before.
        """
        self._is_driven = False
        self._resolve()
        if self.accumulative_counts == 1 or self._num_accumulated == 0:
            return
        if get_world_size() > 1 and isinstance(self._model, nn.parallel.DistributedDataParallel):
            average_over_ranks(self._parameters())
        gradients = self._gradients()
        for gradient in gradients if self._count.own is None else ():
            gradient.mul_(self._divisor / self._num_accumulated)
        if gradients:
            self.step()
        else:
            self._is_cut = True
            _warn("The last accumulation is incomplete and left out: FSDP2 has not reduced its gradients yet")
        self.zero_grad()
        self._first_count = self.inner_count

    # ------------------------------------------------------------------ contexts of the forward pass
    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for the forward pass of a training step.

        While accumulating, it keeps DDP from synchronizing gradients before the last micro-batch (FSDP2 the same, by
        its own switch). Mixed precision adds autocast.

        Args:
            model: What is called in the forward pass: the model, or DDP around it.

        Raises:
            UsageRuntimeError: With several ranks, behind a backward pass that an exception has ended.
        """
        if self._is_cut and get_world_size() > 1:
            raise UsageRuntimeError(
                "gradients of an iteration before this one, which an exception or an early stop has ended, are still "
                f"within {type(model).__name__} and would be added to the next: start the ranks again, and resume"
            )
        if self._guard.policy == "skip" and (self._model is None or not self._is_driven):
            self._keep_buffers(model)
        if self.accumulative_counts == 1:
            return _NO_CONTEXT
        if hasattr(model, "set_requires_gradient_sync"):  # FSDP2 looks at it in the backward pass, so it has to stay
            model.set_requires_gradient_sync(self.should_sync())  # type: ignore[operator]
            return _NO_CONTEXT
        if not self.should_sync() and hasattr(model, "no_sync"):
            return model.no_sync()  # type: ignore[operator]
        return _NO_CONTEXT

    def evaluation_weights(self) -> AbstractContextManager[bool]:
        """Return the context in which the parameters are those to evaluate and publish.

        They are others than in training for optimizers with ``train()`` and ``eval()`` (schedule-free ones); the
        context says whether. Afterwards training goes on, to the bit, as if nothing had been evaluated.

        A check of the last update that is not read yet is, so that no buffers of a skipped batch are evaluated.

        Raises:
            NonFiniteError: As `step`, for the update before.
        """
        self._resolve()
        return self._modes.evaluating()

    @property
    def precision(self) -> dict[str, Any] | None:
        """The arguments of `autocast_for` with which training computes; None is float32."""
        return None

    # ------------------------------------------------------------------ counting
    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set where the run stands, so that the last accumulation is completed with what is left, and for which model.

        Args:
            model: What is called in training: the model, or DDP around it. Under DDP on the host the ranks need no
                message to agree on an update that is not finite. Its buffers are restored where an update is skipped.
            init_counts: Number of `update_params` calls before this one (the iteration that a resumed run begins with);
                a count that `load_state_dict` or an earlier part of the same run has left is the right one and stays.
            max_counts: Number of `update_params` calls of the whole run; -1 when there is no end.
        """
        self.set_model(model)
        self._has_shared_gradients = isinstance(model, nn.parallel.DistributedDataParallel)
        if self._has_loaded_count or (init_counts and self.inner_count):
            self._first_count = self.inner_count - self._num_accumulated
        else:
            self.inner_count, self._first_count = init_counts, 0
        self._has_loaded_count = False
        self._max_counts = max_counts
        self._remainder_counts = (max_counts - self._first_count) % self.accumulative_counts
        if self.accumulative_counts == 1:
            return
        if (self.inner_count - self._first_count) % self.accumulative_counts != 0 and self._num_accumulated == 0:
            where = f"at iteration {init_counts}, inside an accumulation of {self.accumulative_counts}"
            _warn(f"The run begins {where}: the gradients before it are lost and the first update is smaller")
        if any(isinstance(module, _torch.batch_norms()) for module in model.modules()):
            what = "Gradients are accumulated, but BatchNorm layers see each micro-batch alone"
            _warn(f"{what}, so that the result is not that of the large batch")

    def set_model(self, model: nn.Module) -> None:
        """Set the model whose floating buffers are restored where an update is skipped; DDP around it or not."""
        self._model = model
        if self._loaded_buffers is not None:
            self._kept = KeptBuffers(model)
            self._kept.replace(self._loaded_buffers)
            self._loaded_buffers = None

    def should_update(self, ahead: int = 0) -> bool:
        """Return whether, after the backward pass, an accumulation is complete; or ``ahead`` backward passes later."""
        count = self.inner_count + ahead
        return (count - self._first_count) % self.accumulative_counts == 0 or count == self._max_counts

    def should_sync(self) -> bool:
        """Return whether, before the backward pass, it is the one that completes an accumulation."""
        return self.should_update(ahead=1)

    @property
    def at_step_boundary(self) -> bool:
        """Whether no gradients are waiting for the rest of their accumulation."""
        return self._num_accumulated == 0

    can_be_saved = at_step_boundary
    """Whether now is the time for a checkpoint: at a step boundary, which is never far."""

    # ------------------------------------------------------------------ the optimizer's own
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups (no copy)."""
        return self.optimizer.param_groups

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add a group before schedules are built and a state is loaded.

        Raises:
            UsageValueError: If it has an option that the optimizer does not know.
        """
        self.optimizer.add_param_group(group)
        check_groups(self.optimizer)
        self.set_as_built()

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizer's default options (no copy)."""
        return self.optimizer.defaults

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``{"lr": [...]}``, the learning rate of every group (a tensor where the optimizer holds one)."""
        return {"lr": [group["lr"] for group in self.optimizer.param_groups]}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return ``{"momentum": [...]}``: of every group ``momentum`` or the first of ``betas``, 0 without either."""
        return {"momentum": [g.get("momentum", g.get("betas", (0,))[0]) for g in self.optimizer.param_groups]}

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's own state dict with the wrapper's counters under one more key.

        A plain optimizer, and mmengine, load it. Plain types and tensors only. Inside an accumulation of a single
        process the gradients so far are part of it, as are those that another loss has left here since they were
        cleared; those of several ranks differ and are left out.

        Raises:
            NonFiniteError: If a deferred check of the last update finds that it was not finite.
        """
        counters = {**self._counters(), "optimizer_class": type(self.optimizer).__name__, "as_built": self.as_built}
        with self._modes.training():
            if self._modes.are_two:
                counters["training_weights"] = self._modes.weights()
            return {**self.optimizer.state_dict(), STATE_KEY: counters}

    def _counters(self) -> dict[str, Any]:
        self._resolve()
        counters: dict[str, Any] = {
            "num_optimizer_steps": self.num_optimizer_steps,
            "num_steps_owed": max(self._num_seen - self.num_optimizer_steps, 0),
            "inner_count": self.inner_count,
            "num_consecutive_skips": self._guard.num_consecutive_skips,
            "loss_reference": self._count.reference,
        }
        if get_world_size() == 1 and (not self.at_step_boundary or (self._is_cleared and self._gradients())):
            counters["gradients"] = [parameter.grad for parameter in self._parameters()]
        if get_world_size() == 1 and not self.at_step_boundary:
            counters["num_accumulated"] = self._num_accumulated
            counters["divisor"] = self._divisor
            counters["losses"] = self._guard.observed()
            counters["loss_count"] = None if self._count.own is None else float(self._count.own)
            if self._kept is not None:
                counters["buffers"] = self._kept.values()
        return counters

    def set_saved_as_built(self, state_dict: dict[str, Any], changed: Collection[str]) -> None:
        """Add to a state that does not say it (of version 0.1) how its optimizer was built: as this, but for options.

        Args:
            state_dict: The state, before it is loaded.
            changed: The options that its config had otherwise.
        """
        counters = state_dict.setdefault(STATE_KEY, {})
        if "as_built" not in counters:
            pairs = zip(options_as_built(state_dict["param_groups"]), self.as_built)
            others = [(new, {option: old[option] for option in changed if option in old}) for old, new in pairs]
            counters["as_built"] = [{**new, **old} for new, old in others]

    def flaw_of(self, state_dict: dict[str, Any]) -> str | None:
        """Return what this optimizer cannot have saved of a state, whose tensors may be stand-ins, or None."""
        return flaw_of(self.optimizer, state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of a plain optimizer or of mmengine's wrappers.

        For parameters that FSDP2 shards, the state holds whole tensors; then every rank must call.

        Raises:
            UsageValueError: If the state is not that of this optimizer, or its class is another one.
        """
        state_dict = dict(state_dict)
        counters = state_dict.pop(STATE_KEY, {})
        saved_class, own_class = counters.get("optimizer_class"), type(self.optimizer).__name__
        what = f"the saved state is that of {saved_class}, and this optimizer is {own_class}: resume with"
        require(saved_class in (None, own_class), f"{what} {saved_class}, or begin from the weights (load_from)")
        state_dict.pop("base_param_settings", None)  # of mmengine
        check_same_groups(self.optimizer, state_dict)
        if self.as_built is self._built:  # nothing was loaded yet: what was set by hand since counts as built
            now = zip(self._built, options_as_built(self.param_groups), self.param_groups)
            self._built = [{**new, **{k: v for k, v in old.items() if f"initial_{k}" in g}} for old, new, g in now]
        saved_as_built = counters.get("as_built")  # not by version 0.1, nor by plain optimizers
        changes = option_changes(saved_as_built or options_as_built(state_dict["param_groups"]), self._built)
        options = list(self.optimizer.defaults)  # loading adds some
        why_not = "a schedule has its own" if saved_as_built else "the saved value stays"
        in_force = [bool(saved_as_built) and not is_overruled(self.param_groups, self._built, c) for c in changes]
        present = [dict(group) for group in self.param_groups]
        self.optimizer.load_state_dict(shard_optimizer_state(state_dict, self.param_groups))
        for group, own in zip(self.param_groups, present):  # a schedule that is new may have options of its own
            new = [key for key in own if key not in group and (key[:8] == "initial_" or f"initial_{key}" in own)]
            group.update({key: own[key] for key in new})
        lacking = {option for group in self.param_groups for option in options if option not in group}
        require(not lacking, f"the saved {own_class} has no {listed(sorted(lacking))} in its parameter groups")
        if "training_weights" in counters:  # the model's own in the file are those to evaluate
            self._modes.set_weights(counters["training_weights"])
        self.changes = [change for change, holds in zip(changes, in_force) if holds]
        apply_changes(self.optimizer, changes, in_force, why_not)
        self.as_built = self._built if saved_as_built else options_as_built(state_dict["param_groups"])
        self._load_counters(counters)

    def _load_counters(self, counters: dict[str, Any]) -> None:
        self.num_optimizer_steps = counters.get("num_optimizer_steps", 0)
        self._num_seen = self.num_optimizer_steps + counters.get("num_steps_owed", 0)
        self._has_loaded_count = "inner_count" in counters
        self.inner_count = counters.get("inner_count", self.inner_count)
        self._guard.num_consecutive_skips = counters.get("num_consecutive_skips", 0)
        self._count.reference = counters.get("loss_reference", 0.0)
        self._num_accumulated = counters.get("num_accumulated", 0)
        self._first_count = self.inner_count - self._num_accumulated
        if self._num_accumulated:
            self._divisor = counters.get("divisor", self.accumulative_counts)
            self._count.own = counters.get("loss_count")
            self._loaded_buffers = counters.get("buffers")
            if "losses" in counters:
                self._guard.restore(counters["losses"])
        for parameter, gradient in zip(self._parameters(), counters.get("gradients", ())):
            parameter.grad = None if gradient is None else gradient.to(parameter.device).clone()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(accumulative_counts={self.accumulative_counts}, optimizer={self.optimizer!r})"

    # ------------------------------------------------------------------ pieces of a step
    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _gradients(self) -> list[Tensor]:
        return [g for group in self.optimizer.param_groups for p in group["params"] if (g := p.grad) is not None]

    def _divide_by_count(self, gradients: list[Tensor]) -> bool:
        """Divide by the count of all micro-batches and ranks; return False where it is 0, so that there is no step."""
        factor = self._count.factor()
        if not factor:
            self.zero_grad()
        elif factor != 1.0:
            _torch.change_all("mul_", gradients, factor)
        return bool(factor)

    def _note_begin(self) -> None:
        """Note, before the first backward pass of an iteration, what `abandon_iteration` goes back to."""
        self._is_cut = True
        if self._at_begin is None:
            self._at_begin = self.inner_count, self._num_accumulated > 0
        if self._shares_with and self._is_cleared and not self._num_accumulated and (others := self._gradients()):
            name, self._shares_with = self._shares_with, ""
            _warn(
                f"optim_wrapper[{name!r}]: {len(others)} of its parameters have gradients of another loss already, to "
                "which this update adds its own. Call requires_grad_(False) on its part of the model before the other "
                "loss is computed and requires_grad_(True) behind it, or detach what the other loss takes from it"
            )

    def _mark(self) -> None:
        for wrapper in self._counted:
            wrapper._num_seen = max(wrapper._num_seen, wrapper.num_optimizer_steps)

    def _count_step(self) -> None:
        self._num_accumulated = 0
        self._is_cleared = False
        for wrapper in self._counted:
            wrapper.num_optimizer_steps += 1

    def _keep_buffers(self, model: nn.Module | None) -> None:
        if model is not None and self._num_accumulated == 0:
            self._kept = KeptBuffers(model)

    def _resolve(self) -> None:
        """Read the check of the update before, where it was deferred, and apply the policy."""
        error = self._guard.resolve()
        if error is None:
            return
        self._mark()
        for wrapper in self._counted:
            wrapper.num_optimizer_steps -= 1
        if self._unsure is not None:
            self._unsure.restore()
            self._kept = self._unsure
        self._guard.reject(error)

    def _rejects(self, norm: float = 0.0, is_agreed: bool = False, undo: Callable[[], None] | None = None) -> bool:
        """Return whether the update must not be applied, and discard it then. Collective: every rank must call."""
        error = self._guard.judge(self.optimizer, norm, is_agreed)
        if error is not None:
            if undo is not None:
                undo()
            self._discard()
            self._guard.reject(error)
        return error is not None

    def _discard(self) -> None:
        self.zero_grad()
        if self._kept is not None:
            self._kept.restore()

    def _can_defer(self, num_gradients: int) -> bool:
        # Fused SGD leaves the momentum buffers of parameters uninitialized when their first step is stopped.
        is_first = num_gradients > self._max_gradients
        return not is_first and self.loss_scaler is None and _torch.can_be_stopped_by_a_flag(self.optimizer)

    def _step_by_closure(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> None:
        """Step by a closure whose every evaluation is checked and clipped; undo the step where one was not finite."""
        name = type(self.optimizer).__name__
        if closure is None:
            what = f"{name}.step needs a closure that clears the gradients, computes the loss anew, calls backward"
            raise TypeError(f"{what} and returns the loss: update_params(loss, step_kwargs=dict(closure=closure))")
        guard, num_evaluations = self._guard, 0

        def checked() -> Any:
            nonlocal num_evaluations
            loss = closure()
            num_evaluations += 1
            norm = total_norm(self._gradients(), 2.0 if self._clipping is None else self._clipping.norm_type)
            if guard.is_active and not guard.has_found:
                value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss or 0.0)
                place = f"in evaluation {num_evaluations} of the closure of {name}"
                if not math.isfinite(value):
                    guard.note(f"the loss is {value} {place}")
                elif not math.isfinite(norm):
                    guard.note(f"the gradient norm is {norm.item()}{name_nonfinite(self.optimizer)} {place}")
            if self._clipping is not None:
                self._clipping.apply(self.optimizer, norm)
            return loss

        before = OptimizerSnapshot(self.optimizer) if guard.is_active else None
        self.optimizer.step(closure=checked, **kwargs)
        if before is None or not self._rejects(undo=before.restore):
            self._count_step()


def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)

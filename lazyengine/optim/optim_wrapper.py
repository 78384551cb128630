"""One interface over every optimizer: accumulation, clipping, the check for non-finite numbers, and the step."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lazyengine.checkpoint import shard_optimizer_state
from lazyengine.dist import get_world_size
from lazyengine.logging import MessageHub, print_log

from ._gradients import FiniteScan, GradientClipping, total_norm
from .nonfinite import NonFiniteGuard, name_nonfinite
from .param_groups import check_groups

_NO_CONTEXT = nullcontext()
_TORCH_WRAPPER = Optimizer.profile_hook_step(lambda: None).__code__  # around the step of every optimizer class
# The key of the wrapper's own counters in its state; torch's optimizers ignore keys that they do not know.
_STATE_KEY = "optim_wrapper"


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
            ``"ignore"`` looks at nothing. All ranks decide together and before a weight changes.
        max_consecutive_skips: With ``"skip"``, one more skipped update in a row than this is an error.
        deferred_check: Whether the result of the check stays on the device and is read one update later, so that the
            host never waits; needs an optimizer whose step a device flag can stop (``fused=True``). None: where
            possible on accelerators, never on CPU. Other optimizers on accelerators make the host wait once an
            update, unless ``nonfinite="ignore"``.

    Attributes:
        optimizer: The wrapped optimizer.
        num_optimizer_steps: Number of completed calls of ``optimizer.step``. Skipped updates do not count (with a
            deferred check they do: the step ran and changed nothing).

    Raises:
        TypeError: If ``optimizer`` is no torch optimizer, or another argument has the wrong type.
        ValueError: If an argument is out of range, or a parameter group has an option that the optimizer lacks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
        nonfinite: str = "raise",
        max_consecutive_skips: int = 10,
        deferred_check: bool | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}")
        if isinstance(accumulative_counts, bool) or not isinstance(accumulative_counts, int):
            raise TypeError(f"accumulative_counts must be an int; got {accumulative_counts!r}")
        if accumulative_counts < 1:
            raise ValueError(f"accumulative_counts must be at least 1; got {accumulative_counts}")
        if deferred_check and not getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"deferred_check=True needs an optimizer with fused=True; {type(optimizer).__name__} here has none. "
                "Build it with fused=True or leave deferred_check out"
            )
        check_groups(optimizer)
        self.optimizer = optimizer
        self.num_optimizer_steps = 0
        self._accumulative_counts = accumulative_counts
        self._clipping = None if clip_grad is None else GradientClipping(clip_grad)
        self._guard = NonFiniteGuard(nonfinite, max_consecutive_skips, keeps_losses=bool(deferred_check))
        self._deferred_check = deferred_check
        self._scan = FiniteScan()
        self._needs_closure = _needs_closure(optimizer)
        if self._needs_closure and self._clipping is not None:
            raise ValueError(
                f"clip_grad has no effect with {type(optimizer).__name__}: its step calls a closure that computes the "
                "gradients anew. Clip inside the closure"
            )
        self._clears_plainly = type(optimizer).zero_grad is Optimizer.zero_grad
        self._has_shared_gradients = False
        self._inner_count = 0
        self._loaded_count: int | None = None
        self._max_counts = -1
        self._remainder_counts = -1
        self._num_accumulated = 0

    # ------------------------------------------------------------------ one update
    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Run the backward pass of ``loss`` and, when an accumulation is complete, update the parameters.

        On update steps of a run with several ranks this is collective: every rank must call.

        Args:
            loss: The loss of this (micro-)batch, shape `()`, not yet divided for accumulation.
            step_kwargs: Arguments of ``optimizer.step``, for example ``dict(closure=...)`` for LBFGS.
            zero_kwargs: Arguments of ``optimizer.zero_grad``.

        Raises:
            NonFiniteError: If the loss or the gradient norm is not finite and the policy says so.
        """
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return ``loss`` divided by the number of micro-batches of its accumulation; the last may have fewer.

        Raises:
            ValueError: If more losses come than `initialize_count_status` announced.
        """
        if self._accumulative_counts == 1:
            return loss
        factor = self._accumulative_counts
        if self._max_counts >= 0 and self._inner_count >= self._max_counts - self._remainder_counts:
            factor = self._remainder_counts
            if self._inner_count >= self._max_counts:
                raise ValueError(
                    f"update_params was called {self._inner_count + 1} times, but initialize_count_status announced "
                    f"max_counts={self._max_counts}; give it the total number of calls of the run"
                )
        return loss / factor

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradients of ``loss``, shape `()`, to the parameters' and count one micro-batch."""
        if self._guard.is_active:
            self._guard.resolve()
            error = self._guard.observe(loss)
            if error is not None:
                self._discard()
                self._guard.reject(error)
            if self._has_shared_gradients and self._guard.has_nonfinite_loss:
                loss = loss * math.nan  # DDP hands the NaN to all ranks, so that no other message is needed
        self._run_backward(loss, **kwargs)
        self._inner_count += 1
        self._num_accumulated += 1

    def step(self, **kwargs: Any) -> None:
        """Check and clip the gradients and step the optimizer. With several ranks collective: every rank must call.

        Args:
            **kwargs: Arguments of ``optimizer.step``.

        Raises:
            NonFiniteError: If a noted loss or the gradient norm is not finite and the policy says so.
            TypeError: If the optimizer needs a closure and none is given.
        """
        if self._needs_closure and "closure" not in kwargs:
            name = type(self.optimizer).__name__
            raise TypeError(
                f"{name}.step needs a closure that clears the gradients, computes the loss anew, calls backward and "
                "returns the loss: update_params(loss, step_kwargs=dict(closure=closure)), or another optimizer"
            )
        groups = self.optimizer.param_groups
        gradients = [g for group in groups for p in group["params"] if (g := p.grad) is not None]
        clipping, guard = self._clipping, self._guard
        on_host = not gradients or gradients[0].is_cpu
        defers = guard.is_active and self._defers(on_host)
        norm = known_norm = found = None
        if clipping is not None or defers or (guard.is_active and not on_host):
            norm = total_norm(gradients, 2.0 if clipping is None else clipping.norm_type)
        if guard.is_active:
            if norm is not None and defers:
                found = guard.defer(norm)
            else:
                known_norm = norm.item() if norm is not None else self._scan.value(gradients)
                is_agreed = on_host and self._has_shared_gradients
                if not guard.passes(known_norm, is_agreed) and not self._accept(known_norm):
                    return
        if clipping is not None and norm is not None:
            self._clip(clipping, norm, known_norm)
        self._step_optimizer(found, kwargs)

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients, by default by setting them to None; arguments as ``optimizer.zero_grad``."""
        self._num_accumulated = 0
        self._guard.forget()
        if kwargs or not self._clears_plainly:
            self.optimizer.zero_grad(**kwargs)
            return
        # The same as Optimizer.zero_grad(), without its profiler range, which costs more than a small model's clearing.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # ------------------------------------------------------------------ contexts of the forward pass
    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for the forward pass of a training step.

        While accumulating, it keeps DDP from synchronizing gradients before the last micro-batch (FSDP2 the same, by
        its own switch). Mixed precision adds autocast.

        Args:
            model: What is called in the forward pass: the model, or DDP around it.
        """
        if self._accumulative_counts == 1:
            return _NO_CONTEXT
        if hasattr(model, "set_requires_gradient_sync"):  # FSDP2 looks at it in the backward pass, so it has to stay
            model.set_requires_gradient_sync(self.should_sync())  # type: ignore[operator]
            return _NO_CONTEXT
        if not self.should_sync() and hasattr(model, "no_sync"):
            return model.no_sync()  # type: ignore[operator]
        return _NO_CONTEXT

    def autocast_context(self, model: nn.Module | None = None) -> AbstractContextManager[Any]:
        """Return the context in which validation computes as training does; here one that does nothing."""
        return _NO_CONTEXT

    # ------------------------------------------------------------------ counting
    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Tell the wrapper where the run stands, so that the last accumulation is completed with what is left.

        Args:
            model: What is called in training: the model, or DDP around it. Under DDP on the host the ranks need no
                message to agree on an update that is not finite.
            init_counts: Number of `update_params` calls before this one (the iteration that a resumed run begins with);
                a count that `load_state_dict` brought back is the right one and stays.
            max_counts: Number of `update_params` calls of the whole run; -1 when there is no end.
        """
        self._has_shared_gradients = isinstance(model, nn.parallel.DistributedDataParallel)
        if self._loaded_count is not None:
            init_counts = self._loaded_count
        self._inner_count = init_counts
        self._max_counts = max_counts
        self._remainder_counts = max_counts % self._accumulative_counts
        if self._accumulative_counts == 1:
            return
        if init_counts % self._accumulative_counts != 0 and self._num_accumulated == 0:
            print_log(
                f"The run begins at iteration {init_counts}, inside an accumulation of {self._accumulative_counts}: "
                "the gradients before it are lost and the first update is smaller",
                "current",
                logging.WARNING,
            )
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            print_log(
                "Gradients are accumulated, but BatchNorm layers see each micro-batch alone, so that the result is not "
                "that of the large batch",
                "current",
                logging.WARNING,
            )

    def should_update(self) -> bool:
        """Return whether, after the backward pass, an accumulation is complete."""
        return self._inner_count % self._accumulative_counts == 0 or self._inner_count == self._max_counts

    def should_sync(self) -> bool:
        """Return whether, before the backward pass, it is the one that completes an accumulation."""
        count = self._inner_count + 1
        return count % self._accumulative_counts == 0 or count == self._max_counts

    @property
    def accumulative_counts(self) -> int:
        """Number of `update_params` calls whose gradients make one step."""
        return self._accumulative_counts

    @property
    def inner_count(self) -> int:
        """Number of backward passes counted so far."""
        return self._inner_count

    @property
    def at_step_boundary(self) -> bool:
        """Whether no gradients are waiting for the rest of their accumulation."""
        return self._num_accumulated == 0

    @property
    def can_be_saved(self) -> bool:
        """Whether now is the time for a checkpoint: at a step boundary, which is never far."""
        return self.at_step_boundary

    # ------------------------------------------------------------------ the optimizer's own
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups (no copy)."""
        return self.optimizer.param_groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizer's default options (no copy)."""
        return self.optimizer.defaults

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``{"lr": [...]}``, the learning rate of every group (a tensor where the optimizer holds one)."""
        return {"lr": [group["lr"] for group in self.optimizer.param_groups]}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return ``{"momentum": [...]}``: of every group ``momentum`` or the first of ``betas``, 0 without either."""
        return {"momentum": [_momentum(group) for group in self.optimizer.param_groups]}

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's own state dict with the wrapper's counters under one more key.

        A plain optimizer, and mmengine, load it. Plain types and tensors only. Inside an accumulation of a single
        process the gradients so far are part of it; those of several ranks differ and are left out.

        Raises:
            NonFiniteError: If a deferred check of the last update finds that it was not finite.
        """
        self._guard.resolve()
        counters: dict[str, Any] = {
            "num_optimizer_steps": self.num_optimizer_steps,
            "inner_count": self._inner_count,
            "num_consecutive_skips": self._guard.num_consecutive_skips,
            "optimizer_class": type(self.optimizer).__name__,
        }
        if not self.at_step_boundary and get_world_size() == 1:
            counters["num_accumulated"] = self._num_accumulated
            counters["losses"] = self._guard.observed()
            counters["gradients"] = [p.grad for group in self.param_groups for p in group["params"]]
        return {**self.optimizer.state_dict(), _STATE_KEY: counters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of a plain optimizer or of mmengine's wrappers.

        For parameters that FSDP2 shards, the state holds whole tensors; then every rank must call.

        Raises:
            ValueError: If the parameter groups are not those of the saved optimizer, or its class is another one.
        """
        state_dict = dict(state_dict)
        counters = state_dict.pop(_STATE_KEY, {})
        saved_class, own_class = counters.get("optimizer_class"), type(self.optimizer).__name__
        if saved_class not in (None, own_class):
            raise ValueError(
                f"the saved state is that of {saved_class}, and this optimizer is {own_class}: resume with "
                f"{saved_class}, or begin anew from the weights (load_from)"
            )
        state_dict.pop("base_param_settings", None)  # of mmengine
        _check_same_groups(self.optimizer, state_dict)
        _tell_what_stays(self.optimizer, state_dict)
        self.optimizer.load_state_dict(shard_optimizer_state(state_dict, self.param_groups))
        self.num_optimizer_steps = counters.get("num_optimizer_steps", 0)
        self._loaded_count = counters.get("inner_count")
        if self._loaded_count is not None:
            self._inner_count = self._loaded_count
        self._guard.num_consecutive_skips = counters.get("num_consecutive_skips", 0)
        self._num_accumulated = counters.get("num_accumulated", 0)
        if self._num_accumulated:
            if "losses" in counters:
                self._guard.restore(counters["losses"])
            parameters = [p for group in self.param_groups for p in group["params"]]
            for parameter, gradient in zip(parameters, counters["gradients"]):
                parameter.grad = None if gradient is None else gradient.to(parameter.device).clone()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(accumulative_counts={self._accumulative_counts}, optimizer={self.optimizer!r})"

    # ------------------------------------------------------------------ pieces of a step
    def _run_backward(self, loss: Tensor, **kwargs: Any) -> None:
        loss.backward(**kwargs)

    def _accept(self, gradient_norm: float | None) -> bool:
        """Return whether the update may be applied; discard it otherwise. Collective: every rank must call."""
        names = ""
        if gradient_norm is not None and not math.isfinite(gradient_norm):
            names = name_nonfinite(self.optimizer)
        error = self._guard.judge(gradient_norm, names)
        if error is None:
            return True
        self._discard()
        self._guard.reject(error)
        return False

    def _discard(self) -> None:
        self.zero_grad()

    def _defers(self, on_host: bool) -> bool:
        if self.num_optimizer_steps == 0 or self._deferred_check is False:
            return False  # fused SGD leaves its momentum buffer uninitialized when its first step is stopped
        if self._deferred_check:
            return True
        return not on_host and getattr(self.optimizer, "_step_supports_amp_scaling", False)

    def _clip(self, clipping: GradientClipping, norm: Tensor, known_norm: float | None) -> None:
        if clipping.error_if_nonfinite and not torch.isfinite(norm):
            raise RuntimeError(f"clip_grad error_if_nonfinite=True: the gradient norm is {norm.item()}")
        clipping.apply([p for group in self.optimizer.param_groups for p in group["params"]], norm, known_norm)
        MessageHub.get_current_instance().update_scalar("train/grad_norm", norm)

    def _step_optimizer(self, found: Tensor | None, kwargs: dict[str, Any]) -> None:
        if found is None:
            _step_of(self.optimizer)(**kwargs)
        else:
            optimizer: Any = self.optimizer
            optimizer.grad_scale, optimizer.found_inf = None, found  # how torch's GradScaler stops a fused step
            try:
                optimizer.step(**kwargs)
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        self.num_optimizer_steps += 1


def _step_of(optimizer: Optimizer) -> Callable[..., Any]:
    """Return ``optimizer.step``; while no profiler runs and it has no hooks, without torch's wrapper for these.

    The wrapper's range costs more than the step of a small model.
    """
    step: Any = type(optimizer).step
    if (
        getattr(step, "__code__", None) is not _TORCH_WRAPPER
        or "step" in optimizer.__dict__
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
    ):
        return optimizer.step
    return step.__wrapped__.__get__(optimizer)


def _momentum(group: dict[str, Any]) -> float:
    if "momentum" in group:
        return group["momentum"]
    return group["betas"][0] if "betas" in group else 0


def _needs_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _check_same_groups(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f"not an optimizer's state: no key {key!r}; it has {sorted(map(str, state_dict))[:10]}")
    saved, present = state_dict["param_groups"], optimizer.param_groups
    saved_sizes, sizes = [len(g["params"]) for g in saved], [len(g["params"]) for g in present]
    if saved_sizes != sizes:
        raise ValueError(
            f"the saved optimizer has {len(saved_sizes)} parameter groups of sizes {_short(saved_sizes)}, this one "
            f"{len(sizes)} of sizes {_short(sizes)}. Build it with the same model, freezing and param_groups options; "
            'mmengine with paramwise_cfg saves one group a parameter: param_groups(..., group_by="param") does too'
        )
    for index, (old, new) in enumerate(zip(saved, present)):
        old_names, new_names = old.get("param_names"), new.get("param_names")
        if old_names and new_names and list(old_names) != list(new_names):
            a, b = next((a, b) for a, b in zip(old_names, new_names) if a != b)
            raise ValueError(
                f"parameter group {index}: the saved optimizer has {a!r} where this one has {b!r}; its state would go "
                "to the wrong parameter. Build it with the same model and param_groups options"
            )


def _tell_what_stays(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Warn of options that were given another value than the saved ones, which are the ones in force."""
    others = {"params", "param_names", "initial_lr", "initial_momentum"}
    changed: dict[str, str] = {}
    for index, (old, new) in enumerate(zip(state_dict["param_groups"], optimizer.param_groups)):
        scheduled = {"momentum", "betas"} if "initial_momentum" in old else set()
        for option in [key for key in new if key in old and key not in others | scheduled]:
            was, now = (group.get(f"initial_{option}", group[option]) for group in (old, new))
            if type(was) is type(now) and not isinstance(was, Tensor) and was != now:
                changed.setdefault(option, f"{option}={was!r} rather than {now!r} (group {index})")
    if changed:
        print_log(
            f"The saved state of {type(optimizer).__name__} stays in force: {', '.join(changed.values())}. To train on "
            "with other values, begin anew from the weights (load_from)",
            "current",
            logging.WARNING,
        )


def _short(sizes: list[int]) -> str:
    return str(sizes) if len(sizes) <= 8 else f"[{', '.join(map(str, sizes[:8]))}, ...]"

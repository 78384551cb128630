"""Several optimizers under their names: for one loss together, or each for its own, as a GAN has them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch
from ..dist import get_world_size
from ..errors import UsageRuntimeError, UsageTypeError
from ..text import did_you_mean
from ._checks import require
from .gradients import NonFiniteGuard
from .optim_wrapper import STATE_KEY, Kwargs, Loss, OptimWrapper


class OptimWrapperDict(Mapping[str, OptimWrapper]):
    """A mapping from names to optimizer wrappers, saved and resumed together.

    **One loss:** ``optim_wrapper.update_params(loss)``, as the default training step calls it, runs one backward pass,
    one clipping over the norm of all parameters and one check for finite numbers; then every optimizer steps. So Muon
    for matrices and AdamW for the rest is two nodes and nothing else. ``accumulative_counts``, ``nonfinite`` and the
    precision must be the same for all; ``clip_grad`` too, or given to one of them alone.

    **A loss for each:** the model's ``train_step`` picks each by its name:
    ``optim_wrapper["generator"].update_params(loss)``.

    Args:
        **optim_wrappers: The wrappers by name.

    Raises:
        UsageTypeError: If a value is no `OptimWrapper`.
        UsageValueError: If there is none, or two wrappers share a parameter.
    """

    def __init__(self, **optim_wrappers: OptimWrapper) -> None:
        require(bool(optim_wrappers), "OptimWrapperDict needs at least one OptimWrapper, such as generator=...")
        owner: dict[int, str] = {}
        for name, wrapper in optim_wrappers.items():
            if not isinstance(wrapper, OptimWrapper):
                raise UsageTypeError(f"OptimWrapperDict takes OptimWrappers; {name} is a {type(wrapper).__name__}")
            for parameter in wrapper._parameters():
                other = owner.setdefault(id(parameter), name)
                where = f"is in both {other!r} and {name!r}: it would be updated twice"
                require(other == name, f"a parameter of shape {tuple(parameter.shape)} {where}")
            wrapper._shares_with = name if len(optim_wrappers) > 1 else ""
        self.optim_wrappers = dict(optim_wrappers)
        self._joint: OptimWrapper | None = None
        self._count_status: tuple[nn.Module, int, int] | None = None

    def __getitem__(self, name: str) -> OptimWrapper:
        try:
            return self.optim_wrappers[name]
        except KeyError:
            hint = did_you_mean(name, self.optim_wrappers)
            raise KeyError(f"no optimizer {name!r}; there are {list(self.optim_wrappers)}.{hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.optim_wrappers)

    def __len__(self) -> int:
        return len(self.optim_wrappers)

    # ------------------------------------------------------------------ one loss for all
    def update_params(self, loss: Loss, step_kwargs: Kwargs = None, zero_kwargs: Kwargs = None) -> None:
        """Update the parameters of all optimizers from one loss; arguments as `OptimWrapper.update_params`.

        Raises:
            UsageRuntimeError: If the wrappers' options cannot serve one loss.
            NonFiniteError: If the loss or the norm of all gradients is not finite and the policy says so.
            TypeError: If ``step_kwargs`` has a closure.
        """
        if "closure" in (step_kwargs or {}):
            raise TypeError("a closure can step one optimizer only: optim_wrapper[name].update_params(loss, ...)")
        self._together().update_params(loss, step_kwargs, zero_kwargs)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for the forward pass of one loss for all, as `OptimWrapper.optim_context`."""
        return self._together().optim_context(model)

    def _together(self) -> OptimWrapper:
        if self._joint is None:
            self._joint = join(self.optim_wrappers)
            if self._count_status is not None:
                self._joint.initialize_count_status(*self._count_status)
        return self._joint

    # ------------------------------------------------------------------ all of them
    def _all(self) -> list[OptimWrapper]:
        return [*self.optim_wrappers.values(), *([] if self._joint is None else [self._joint])]

    def named(self) -> dict[str, OptimWrapper]:
        """Return the wrappers by their names."""
        return dict(self.optim_wrappers)

    def begin_iteration(self) -> None:
        """Mark the begin of a training iteration for each, as `OptimWrapper.begin_iteration`."""
        for wrapper in self._all():
            wrapper.begin_iteration()

    def abandon_iteration(self) -> bool:
        """Take back the backward passes of an iteration for each, as `OptimWrapper.abandon_iteration`."""
        are_kept = [wrapper.abandon_iteration() for wrapper in self._all()]
        return any(are_kept)

    @property
    def stepped(self) -> bool:
        """Whether any of the optimizers has stepped in the current iteration."""
        return any(wrapper.stepped for wrapper in self.optim_wrappers.values())

    def flush(self) -> None:
        """Step incomplete accumulations, of the joint loss and of each by itself, as `OptimWrapper.flush`."""
        for wrapper in reversed(self._all()):
            wrapper.flush()

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of all optimizers."""
        for wrapper in self._all():
            wrapper.zero_grad(**kwargs)

    @contextmanager
    def evaluation_weights(self) -> Iterator[bool]:
        """Put the weights to evaluate of each into the parameters inside, as `OptimWrapper.evaluation_weights`."""
        if self._joint is not None:
            self._joint._resolve()
        with ExitStack() as stack:
            others = [stack.enter_context(wrapper.evaluation_weights()) for wrapper in self.optim_wrappers.values()]
            yield any(others)

    @property
    def precision(self) -> dict[str, Any] | None:
        """The arguments of `autocast_for` with which training computes; None is float32.

        Raises:
            UsageRuntimeError: If the wrappers differ.
        """
        advice = "use the same for all; for an evaluation give the loop its precision"
        check_alike(self.optim_wrappers, "precision", lambda wrapper: wrapper.precision, advice)
        return next(iter(self.values())).precision

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set where the run stands, for `update_params` of all together, and for which model.

        How often each wrapper is called by its name is up to the model's ``train_step``: each counts for itself, and
        its count is saved. What an accumulation lacks at the end of the run, `flush` weighs.
        """
        self._count_status = (model, init_counts, max_counts)
        for wrapper in self.optim_wrappers.values():
            wrapper.set_model(model)
        if self._joint is not None:
            self._joint.initialize_count_status(model, init_counts, max_counts)

    @property
    def num_optimizer_steps(self) -> int:
        """Number of completed optimizer steps of all wrappers together; each also has its own."""
        return sum(wrapper.num_optimizer_steps for wrapper in self.optim_wrappers.values())

    @property
    def at_step_boundary(self) -> bool:
        """Whether no wrapper holds gradients that wait for the rest of their accumulation."""
        return all(wrapper.at_step_boundary for wrapper in self._all())

    @property
    def can_be_saved(self) -> bool:
        """Whether a checkpoint made now loses no gradients.

        In a single process always, since its state holds those that wait: the wrappers need never stand at a step
        together. The gradients of several ranks differ and are in none; there all have to stand at one.
        """
        return self.at_step_boundary or get_world_size() == 1

    @property
    def param_groups(self) -> dict[str, list[dict[str, Any]]]:
        """The parameter groups by the name of the wrapper (no copies)."""
        return {name: wrapper.param_groups for name, wrapper in self.optim_wrappers.items()}

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``{"<name>.lr": [...]}`` of every wrapper."""
        return {f"{name}.lr": wrapper.get_lr()["lr"] for name, wrapper in self.optim_wrappers.items()}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return ``{"<name>.momentum": [...]}`` of every wrapper."""
        return {f"{name}.momentum": wrapper.get_momentum()["momentum"] for name, wrapper in self.optim_wrappers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every wrapper by its name; with the counters of the joint loss, where there is one."""
        joint = {} if self._joint is None else {STATE_KEY: self._joint._counters()}
        return {**{name: wrapper.state_dict() for name, wrapper in self.optim_wrappers.items()}, **joint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            UsageValueError: If the names are not the same.
        """
        state_dict = dict(state_dict)
        joint = state_dict.pop(STATE_KEY, None)
        saved, own = sorted(map(str, state_dict)), sorted(self.optim_wrappers)
        require(saved == own, f"the saved optimizers are {saved}, these are {own}")
        for name, wrapper in self.optim_wrappers.items():
            try:
                wrapper.load_state_dict(state_dict[name])
            except Exception as error:
                error.add_note(f"while loading the optimizer {name!r}")
                raise
        if joint is not None:
            self._together()._load_counters(joint)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={wrapper!r}" for name, wrapper in self.optim_wrappers.items())
        return f"OptimWrapperDict({inside})"


class JointOptimizer(Optimizer):
    """The optimizers of several wrappers, stepped together; holds nothing of its own.

    Args:
        wrappers: The wrappers.
    """

    found_inf: Tensor | None = None

    def __init__(self, wrappers: tuple[OptimWrapper, ...]) -> None:
        self._wrappers = wrappers
        _torch.let_a_flag_stop(self, all(_torch.can_be_stopped_by_a_flag(w.optimizer) for w in wrappers))

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all, in order (a new list of the groups themselves)."""
        return [group for wrapper in self._wrappers for group in wrapper.param_groups]

    def step(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Step each optimizer with the same arguments."""
        for wrapper in self._wrappers:
            _torch.take_stoppable_step(wrapper.optimizer, self.found_inf, **kwargs)

    def zero_grad(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Clear the gradients of each wrapper."""
        for wrapper in self._wrappers:
            wrapper.zero_grad(**kwargs)


def join(wrappers: Mapping[str, OptimWrapper]) -> OptimWrapper:
    """Return one wrapper over the optimizers of several: a copy of the first one, whose options are theirs.

    Raises:
        UsageRuntimeError: If options differ that have to be the same for one loss.
    """
    lead = next(iter(wrappers.values()))
    for name, wrapper in wrappers.items():
        if wrapper._needs_closure:
            what = f"{type(wrapper.optimizer).__name__} needs a closure, so it cannot step with others for one loss"
            raise UsageRuntimeError(f"{what}: optim_wrapper[{name!r}].update_params(..., dict(closure=...))")
    for option, value_of in _ALIKE.items():
        check_alike(wrappers, option, value_of, f"use the same {option} for all")
    given = {name: w for name, w in wrappers.items() if w._clipping is not None}
    advice = "the norm is that of all gradients together: write clip_grad by one of them alone, or the same by all"
    check_alike(given, "clip_grad", lambda w: w._clipping.options, advice)
    joint = copy.copy(lead)
    members = tuple(wrappers.values())
    joint._clipping = next((w._clipping for w in given.values()), None)
    joint._begin(JointOptimizer(members), NonFiniteGuard(lead._guard.policy))
    joint._counted = (joint, *members)
    return joint


def check_alike(wrappers: Mapping[str, OptimWrapper], what: str, value_of: Callable[[Any], Any], advice: str) -> None:
    """Refuse wrappers between which a value differs.

    Raises:
        UsageRuntimeError: With each wrapper's value by its name.
    """
    values = {name: value_of(wrapper) for name, wrapper in wrappers.items()}
    distinct = [value for index, value in enumerate(values.values()) if value not in list(values.values())[:index]]
    if len(distinct) > 1:
        shown = ", ".join(f"{name} {value!r}" for name, value in values.items())
        differ = f"one {what} has to serve all optimizers, but they differ: {shown}. For one loss {advice}"
        raise UsageRuntimeError(f"{differ}; or drive each by its name: optim_wrapper[name].update_params(loss)")


_ALIKE: dict[str, Callable[[OptimWrapper], Any]] = {
    "precision": lambda w: w.precision,
    "class of the wrapper": lambda w: type(w).__name__,
    "accumulative_counts": lambda w: w.accumulative_counts,
    "nonfinite": lambda w: w._guard.policy,
    "loss_scale": lambda w: getattr(w, "loss_scale", None),
}

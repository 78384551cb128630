"""The base of all schedulers: where in the run one is, and how it writes values into the optimizer's groups."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from lazyengine.logging import print_log

INF = int(1e9)
"""The ``end`` of a schedule that was given none."""

OptimizerLike: TypeAlias = Any
"""A `torch.optim.Optimizer` or an `OptimWrapper`: anything with ``param_groups`` (a list of dicts)."""


class _ParamScheduler:
    r"""Write one option of every parameter group (``lr``, ``momentum``, …) as training advances.

    The semantics are mmengine's. A scheduler counts its ``step()`` calls; the first happens at construction. While
    the count (starting from 0) is in ``[begin, end)`` it advances ``last_step`` and asks `_get_value` for new values;
    outside it leaves the groups alone. `_get_value` is *recursive*: it derives the new value from the group's current
    one, so schedulers given one after another (warm-up, then cosine) need not know of each other, and overlapping ones
    multiply. Gaps and overlaps are legal.

    A subclass implements ``_get_value() -> list[float] | None``, sets its own attributes before
    ``super().__init__``, and may derive more in `_prepare`, which runs when ``begin`` and ``end`` are known.

    Args:
        optimizer: An `OptimWrapper` or a `torch.optim.Optimizer`.
        param_name: The group option to write. ``"momentum"`` means ``betas[0]`` for optimizers with betas (the group
            then also shows it as ``momentum``).
        begin: First step, counted from 0, at which the schedule acts.
        end: First step at which it acts no longer; must be larger than ``begin``.
        last_step: Index of the last step done, -1 for none. Other values resume without a state dict and need
            ``initial_<param_name>`` in every group.
        by_epoch: Count epochs; otherwise optimizer steps (see ``count_iters``).
        verbose: Log every value that is set.
        convert_to_iter_based: The numbers given are epochs; convert them to steps and count steps.
        epoch_length: Steps in one epoch, needed for ``convert_to_iter_based`` (`build_param_schedulers` fills it).
        count_iters: With ``by_epoch=False``, count training iterations instead of optimizer steps. They differ under
            gradient accumulation, where mmengine's schedule runs ahead of the updates.

    Raises:
        TypeError: ``optimizer`` has no list of parameter groups.
        ValueError: ``begin``/``end``/``last_step`` out of range, or the conversion lacks ``epoch_length``.
        KeyError: A group lacks ``param_name``, or ``last_step`` is given and a group lacks the initial value.
    """

    param_name: str
    need_val_args: ClassVar[bool] = False
    """Whether `step` also wants the validation metrics (only the plateau schedulers do)."""
    _epoch_arguments: ClassVar[tuple[str, ...]] = ()
    """Attributes counted in epochs that ``convert_to_iter_based`` multiplies, besides begin and end."""
    _position_names: ClassVar[tuple[str, ...]] = ("last_step", "_global_step", "_last_value")
    """Attributes that say where the scheduler is; all other public ones say what its curve looks like."""

    def __init__(
        self,
        optimizer: OptimizerLike,
        param_name: str,
        begin: float = 0,
        end: float = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        *,
        convert_to_iter_based: bool = False,
        epoch_length: float | None = None,
        count_iters: bool = False,
    ) -> None:
        self.optimizer = _check_optimizer(optimizer, type(self).__name__)
        self.param_name = param_name
        self.begin, self.end = begin, end
        self.by_epoch, self.count_iters, self.verbose = by_epoch, count_iters, verbose
        if convert_to_iter_based:
            self._convert_to_iters(epoch_length)
        elif by_epoch and count_iters:
            raise ValueError(f"{type(self).__name__}: count_iters=True needs by_epoch=False, got by_epoch=True")
        _check_range(type(self).__name__, self.begin, self.end, last_step)
        self._use_betas = param_name == "momentum" and all("betas" in group for group in optimizer.param_groups)
        self._prepare()
        self.base_values = self._record_initial_values(resumed=last_step != -1)
        self._start_values = self._snapshot()
        self._first_step = last_step
        self._num_steps_at_start, self._idle_watch = _watch_steps(optimizer)
        self._start()

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: float | None = None, **kwargs: Any) -> Any:
        """Build the scheduler from arguments counted in epochs, stepping every optimizer step.

        Args:
            *args: Passed to the class.
            epoch_length: Steps in one epoch.
            **kwargs: Passed to the class.

        Raises:
            ValueError: ``epoch_length`` is missing or not positive, or ``by_epoch=False`` was given.
        """
        return cls(*args, convert_to_iter_based=True, epoch_length=epoch_length, **kwargs)

    def step(self) -> None:
        """Advance by one epoch, optimizer step or iteration, and set the groups' values."""
        if self._global_step == 0 and not self.count_iters:
            self._warn_if_optimizer_idle()
        self._advance()

    def get_last_value(self) -> list[float]:
        """Return every group's value as it was after this scheduler's last step."""
        return self._last_value

    def state_dict(self) -> dict[str, Any]:
        """Return position and shape in plain types, without the optimizer."""
        state: dict[str, Any] = {"class_name": type(self).__name__, **self._shape()}
        for name in self._position_names:
            state[name] = _plain(getattr(self, name))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> list[str]:
        """Take the position from a saved state and keep the own shape.

        The values in the optimizer's groups are left as they are: they belong to the optimizer's state. After a changed
        schedule use `resume_param_schedulers`, which moves a whole chain onto its new curve.

        Args:
            state_dict: What `state_dict` returned, also mmengine's.

        Returns:
            What differs between the saved shape and this one, as ``"LinearLR.end: 5 -> 10"``; empty when nothing does.
        """
        for name in self._position_names:
            if name in state_dict:
                value = state_dict[name]
                setattr(self, name, list(value) if isinstance(value, list | tuple) else value)
        changes = self.changes_from(state_dict)
        moved = any(change.partition(".")[2].startswith(("begin:", "end:")) for change in changes)
        if moved and not self.need_val_args:
            done = min(self._global_step, self.end - 1) - self.begin
            self.last_step = self._first_step + max(done + 1, 0)
        return changes

    def changes_from(self, state_dict: dict[str, Any]) -> list[str]:
        """List the differences between a saved state's shape and this scheduler's, without loading anything."""
        name = type(self).__name__
        saved_class = state_dict.get("class_name", name)
        if saved_class != name:
            return [f"{saved_class} -> {name}"]
        shape = self._shape()
        return [
            f"{name}.{key}: {_plain(state_dict[key])} -> {value}"
            for key, value in shape.items()
            if key in state_dict and _plain(state_dict[key]) != value
        ]

    def print_value(self, is_verbose: bool, group: int, value: float) -> None:
        """Log the value that a group gets, when asked to.

        Args:
            is_verbose: Whether to log.
            group: Index of the parameter group.
            value: The new value.
        """
        if is_verbose:
            print_log(f"{type(self).__name__}: group {group} gets {self.param_name}={value:.4e}", logger="current")

    # -- for subclasses

    def _prepare(self) -> None:
        """Derive what depends on ``begin`` and ``end``; called once, before the first step."""

    def _get_value(self) -> list[float] | None:
        """Return the new value of every group for ``self.last_step`` from the groups' current values.

        None leaves the groups as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement _get_value")

    def _current(self) -> list[Any]:
        name = self.param_name
        return [group[name] for group in self.optimizer.param_groups]

    def _require_end(self, given: str = "end") -> None:
        if self.end >= INF:
            raise ValueError(
                f"{type(self).__name__}: no {given} given, so the curve has no length · give it, or build the "
                "schedulers with build_param_schedulers, which fills in the length of the run"
            )

    def _warn_if_one_step(self) -> None:
        if self.end - self.begin == 1:
            warnings.warn(
                f"{type(self).__name__} acts for one step only (begin={self.begin}, end={self.end}), so the value "
                "stays at the first factor; give it at least two steps, or convert_to_iter_based=True",
                UserWarning,
                stacklevel=5,
            )

    # -- inside

    def _reset_groups(self) -> None:
        """Give the groups the values that they had before this scheduler's first step; for a replay."""
        for group, base in zip(self.optimizer.param_groups, self.base_values):
            group[f"initial_{self.param_name}"] = base
        self._write(self._start_values)

    def _start(self) -> None:
        self.last_step = self._first_step
        self._global_step = -1
        self._advance()

    def _advance(self) -> None:
        """Do one step without asking whether the optimizer has stepped."""
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._set_values(self._get_value())
        self._last_value = self._snapshot()

    def _set_values(self, values: Iterable[float] | None) -> None:
        if values is None:
            return
        self._write(values)
        if self.verbose:
            for index, value in enumerate(self._current()):
                self.print_value(True, index, float(value))

    def _write(self, values: Iterable[float]) -> None:
        name = self.param_name
        for group, value in zip(self.optimizer.param_groups, values):
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
            if self._use_betas:
                group["betas"] = (value, *group["betas"][1:])

    def _snapshot(self) -> list[Any]:
        return [value.clone() if isinstance(value, Tensor) else value for value in self._current()]

    def _record_initial_values(self, resumed: bool) -> list[float]:
        """Return the groups' initial values, recording the current ones where none are recorded yet."""
        name, initial = self.param_name, f"initial_{self.param_name}"
        for index, group in enumerate(self.optimizer.param_groups):
            if self._use_betas:
                group[name] = group["betas"][0]
            if name not in group:
                options = sorted(key for key, value in group.items() if isinstance(value, int | float | Tensor))
                raise KeyError(
                    f"{type(self).__name__}: param_groups[{index}] of {type(_inner(self.optimizer)).__name__} has no "
                    f"{name!r} to schedule · it has {options}"
                )
            if resumed and initial not in group:
                raise KeyError(
                    f"{type(self).__name__}: a last_step other than -1 resumes a schedule, but param_groups[{index}] "
                    f"has no {initial!r} · use last_step=-1, or load the optimizer's state first"
                )
            group.setdefault(initial, _as_float(group[name]))
        return [group[initial] for group in self.optimizer.param_groups]

    def _convert_to_iters(self, epoch_length: float | None) -> None:
        name = type(self).__name__
        if not self.by_epoch:
            raise ValueError(f"{name}: convert_to_iter_based=True converts epochs, but by_epoch=False was given")
        if epoch_length is None or epoch_length <= 0:
            raise ValueError(f"{name}: convert_to_iter_based=True needs a positive epoch_length, got {epoch_length}")
        self.by_epoch = False
        self.begin = round(self.begin * epoch_length)
        if self.end < INF:
            self.end = round(self.end * epoch_length)
        for argument in self._epoch_arguments:
            value = getattr(self, argument)
            if isinstance(value, list | tuple):
                setattr(self, argument, [round(item * epoch_length) for item in value])
            elif value is not None:
                setattr(self, argument, round(value * epoch_length))

    def _shape(self) -> dict[str, Any]:
        hidden = {"optimizer", "verbose", *self._position_names}
        return {k: _plain(v) for k, v in vars(self).items() if not k.startswith("_") and k not in hidden}

    def _warn_if_optimizer_idle(self) -> None:
        watch, self._idle_watch = self._idle_watch, None
        if watch is not None:
            watch.handle.remove()
            has_stepped = watch.has_stepped
        else:
            has_stepped = self.optimizer.num_optimizer_steps != self._num_steps_at_start
        if not has_stepped:
            warnings.warn(
                f"{type(self).__name__}.step() was called before the optimizer's first step, so the first value of the "
                "schedule is skipped; call it after optimizer.step()",
                UserWarning,
                stacklevel=3,
            )


class GeneralForm(_ParamScheduler):
    """Put ``param_name`` after ``optimizer`` in the signature, so that any option of the groups can be scheduled.

    It stands before the schedule among the bases: ``class LinearParamScheduler(GeneralForm, _Linear)``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parameters = list(inspect.signature(cls.__mro__[2]).parameters.values())
        name = inspect.Parameter("param_name", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)
        cls.__signature__ = inspect.Signature([parameters[0], name, *parameters[1:]])

    def __init__(self, optimizer: OptimizerLike, param_name: str, *args: Any, **kwargs: Any) -> None:
        self.param_name = param_name
        super().__init__(optimizer, *args, **kwargs)


class _StepWatch:
    """Notices the first step of a bare torch optimizer through its official post-step hook."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.has_stepped = False
        self.handle = optimizer.register_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.has_stepped = True


def _watch_steps(optimizer: OptimizerLike) -> tuple[int, _StepWatch | None]:
    count = getattr(optimizer, "num_optimizer_steps", None)
    if count is not None:
        return count, None
    return 0, _StepWatch(_inner(optimizer))


def _inner(optimizer: OptimizerLike) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


def _check_optimizer(optimizer: OptimizerLike, name: str) -> OptimizerLike:
    if isinstance(getattr(optimizer, "param_groups", None), list):
        return optimizer
    hint = " · give a dict of lists, one list for each optimizer" if hasattr(optimizer, "items") else ""
    raise TypeError(
        f"{name}: optimizer must be an OptimWrapper or a torch.optim.Optimizer, got {type(optimizer).__name__}{hint}"
    )


def _check_range(name: str, begin: float, end: float, last_step: int) -> None:
    if begin < 0 or end <= begin:
        raise ValueError(f"{name}: needs 0 <= begin < end, got begin={begin}, end={end}")
    if not isinstance(last_step, int) or last_step < -1:
        raise ValueError(f"{name}: last_step must be an int of at least -1, got {last_step!r}")


def _as_float(value: Any) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _plain(value: Any) -> Any:
    """Return a value in built-in types, so that states compare equal across saving and loading."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _as_float(value)

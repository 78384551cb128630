"""The base of all schedulers: where in the run one is, and how it writes values into the optimizer's groups."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias, TypedDict, Unpack

from torch import Tensor

from ...errors import UsageKeyError, UsageTypeError
from ...logging import print_log
from ...nesting import map_leaves
from ...text import did_you_mean, listed
from .._checks import require

INF = int(1e9)
"""The ``end`` of a schedule that was given none."""

OptimizerLike: TypeAlias = Any
"""A `torch.optim.Optimizer` or an `OptimWrapper`: anything with ``param_groups`` (a list of dicts)."""


class SchedulerOptions(TypedDict, total=False):
    """What every scheduler takes by name; the meaning of each is that of the argument of `_ParamScheduler`."""

    begin: float
    end: float
    last_step: int
    by_epoch: bool
    verbose: bool
    convert_to_iter_based: bool
    epoch_length: float | None
    count_iters: bool


class _ParamScheduler:
    """Write one option of every parameter group (``lr``, ``momentum``, …) as training advances.

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
        UsageTypeError: ``optimizer`` has no list of parameter groups.
        UsageValueError: ``begin``/``end``/``last_step`` out of range, or the conversion lacks ``epoch_length``.
        UsageKeyError: A group lacks ``param_name``, or ``last_step`` is given and a group lacks the initial value.
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
        if not isinstance(getattr(optimizer, "param_groups", None), list):
            got = type(optimizer).__name__ + (" · give a dict of lists" if hasattr(optimizer, "items") else "")
            raise UsageTypeError(f"{type(self).__name__} takes an OptimWrapper or a torch.optim.Optimizer, got {got}")
        self.optimizer, self.param_name = optimizer, param_name
        self.begin, self.end = begin, end
        self.by_epoch, self.count_iters, self.verbose = by_epoch, count_iters, verbose
        if convert_to_iter_based:
            self._convert_to_iters(epoch_length)
        else:
            self._require(not (by_epoch and count_iters), "count_iters=True needs by_epoch=False, got by_epoch=True")
        self._require(0 <= self.begin < self.end, f"needs 0 <= begin < end, got begin={self.begin}, end={self.end}")
        is_step = isinstance(last_step, int) and last_step >= -1
        self._require(is_step, f"last_step must be an int of at least -1, got {last_step!r}")
        self._use_betas = param_name == "momentum" and all("betas" in group for group in optimizer.param_groups)
        self._prepare()
        self.base_values = self._record_initial_values(resumed=last_step != -1)
        self._start_values = self._current()
        self.last_step = self._first_step = last_step
        self._start()

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: float | None = None, **kwargs: Any) -> Any:
        """Build the scheduler from arguments counted in epochs, stepping every optimizer step.

        Args:
            *args: Passed to the class.
            epoch_length: Steps in one epoch.
            **kwargs: Passed to the class.

        Raises:
            UsageValueError: ``epoch_length`` is missing or not positive, or ``by_epoch=False`` was given.
        """
        return cls(*args, convert_to_iter_based=True, epoch_length=epoch_length, **kwargs)

    def step(self) -> None:
        """Advance by one epoch, optimizer step or iteration, and set the groups' values."""
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._act()
        self._last_value = self._current()

    def get_last_value(self) -> list[float]:
        """Return every group's value as it was after this scheduler's last step."""
        return self._last_value

    def state_dict(self) -> dict[str, Any]:
        """Return position and shape in plain types, without the optimizer."""
        state: dict[str, Any] = {"class_name": type(self).__name__, **self._shape()}
        return {**state, **{name: _plain(getattr(self, name)) for name in self._position_names}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore position and shape from a saved state, as torch and mmengine do.

        The values in the optimizer's groups are left as they are: they belong to the optimizer's state. To resume with
        a schedule that may have been changed use `resume_param_schedulers`.

        Args:
            state_dict: What `state_dict` returned, also mmengine's.

        Raises:
            UsageValueError: The state is that of another class.
        """
        saved_class = state_dict.get("class_name", type(self).__name__)
        self._require(saved_class == type(self).__name__, f"the state is that of a {saved_class}")
        for key in [*self._shape(), *self._position_names]:
            if key in state_dict:
                setattr(self, key, _plain(state_dict[key]))
        self._prepare()

    def load_position(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Load the position from a saved state and keep the own shape.

        Like `load_state_dict` it leaves the groups' values. `resume_param_schedulers` calls it, and moves a whole chain
        onto its new curve where the schedule was changed.

        Args:
            state_dict: What `state_dict` returned, also mmengine's.

        Returns:
            What differs between the saved shape and this one, as ``"LinearLR.end: 5 -> 10"``; empty when nothing does.
        """
        for name in self._position_names:
            if name in state_dict:
                setattr(self, name, _plain(state_dict[name]))
        changes = self.changes_from(state_dict)
        moved = any(change.partition(".")[2].startswith(("begin:", "end:")) for change in changes)
        if moved and not self.need_val_args:
            done = min(self._global_step, self.end - 1) - self.begin
            self.last_step = self._first_step + max(done + 1, 0)
        return changes

    def changes_from(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Return the differences between a saved state's shape and this scheduler's, without loading anything."""
        name = type(self).__name__
        saved_class = state_dict.get("class_name", name)
        if saved_class != name:
            return [f"{saved_class} -> {name}"]
        shape = {key: value for key, value in self._shape().items() if key in state_dict}
        saved = {key: _plain(state_dict[key]) for key in shape}
        return [f"{name}.{key}: {saved[key]} -> {value}" for key, value in shape.items() if saved[key] != value]

    # -- for subclasses

    def _prepare(self) -> None:
        """Derive what depends on the other attributes; called before the first step and when a state was loaded."""

    def _get_value(self) -> list[float] | None:
        """Return the new value of every group for ``self.last_step`` from the groups' current values.

        None leaves the groups as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement _get_value")

    def _current(self) -> list[Any]:
        """Return the value of every group; what changes a group in place does not change it."""
        name, optimizer = self.param_name, self.optimizer
        groups = getattr(optimizer, "optimizer", optimizer).param_groups
        return [value.clone() if isinstance(value := group[name], Tensor) else value for group in groups]

    def _scaled(self, factor: float) -> list[Any]:
        """Return the value of every group times a factor."""
        return [value * factor for value in self._current()]

    def _require(self, holds: bool, refusal: str) -> None:
        require(holds, f"{type(self).__name__}: {refusal}")

    def _require_fraction(self, name: str) -> None:
        value = getattr(self, name)
        self._require(0 <= value <= 1, f"{name} must lie in [0, 1], got {value}")

    def _for_each_group(self, name: str) -> list[float]:
        """Return an argument that is one value, or one for each group, as a list."""
        value, count = getattr(self, name), len(self.optimizer.param_groups)
        values = value if isinstance(value, list) else [value] * count
        self._require(len(values) == count, f"{name} needs one value for each of the {count} groups, got {len(values)}")
        return values

    def _require_end(self, given: str = "end") -> None:
        self._require(self.end < INF, f"no {given} given · give it, or let build_param_schedulers fill it in")

    def _warn_if_one_step(self) -> None:
        if self.end - self.begin == 1:
            what = f"{type(self).__name__} acts for one step only (begin={self.begin}, end={self.end})"
            warnings.warn(f"{what}: its first factor stays; give it at least two steps", UserWarning, stacklevel=4)

    # -- inside

    def _reset_groups(self) -> None:
        """Give the groups the values that they had before this scheduler's first step; for a replay."""
        for group, base in zip(self.optimizer.param_groups, self.base_values):
            group[f"initial_{self.param_name}"] = base
        self._write(self._start_values)

    def _start(self) -> None:
        self.last_step = self._first_step
        self._global_step = -1
        self.step()

    def _act(self) -> None:
        values = self._get_value()
        if values is not None:
            self._write(values)
            if self.verbose:
                shown = ", ".join(f"{float(value):.4e}" for value in self._current())
                print_log(f"{type(self).__name__}: the groups get {self.param_name}={shown}", logger="current")

    def _write(self, values: Iterable[float]) -> None:
        name, optimizer = self.param_name, self.optimizer
        for group, value in zip(getattr(optimizer, "optimizer", optimizer).param_groups, values):
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
            if self._use_betas:
                group["betas"] = (value, *group["betas"][1:])

    def _record_initial_values(self, resumed: bool) -> list[float]:
        """Return the groups' initial values, recording the current ones where none are recorded yet."""
        name, initial = self.param_name, f"initial_{self.param_name}"
        for index, group in enumerate(self.optimizer.param_groups):
            where = f"{type(self).__name__}: param_groups[{index}] has no"
            if self._use_betas:
                group[name] = group["betas"][0]
            if name not in group:
                options = sorted(key for key, value in group.items() if isinstance(value, int | float | Tensor))
                raise UsageKeyError(f"{where} {name!r} to schedule · it has {options}")
            self._require(group[name] is not None, f"the optimizer sets {name} itself ({name}=None in group {index})")
            if resumed and initial not in group:
                raise UsageKeyError(f"{where} {initial!r} to resume from · last_step=-1 begins anew")
            group.setdefault(initial, _plain(group[name]))
        return [group[initial] for group in self.optimizer.param_groups]

    def _convert_to_iters(self, epoch_length: float | None) -> None:
        given = "convert_to_iter_based=True"
        self._require(self.by_epoch, f"{given} converts epochs, but by_epoch=False was given")
        length = epoch_length or 0.0
        self._require(length > 0, f"{given} needs a positive epoch_length, got {epoch_length}")
        self.by_epoch = False
        for argument in ("begin", "end", *self._epoch_arguments):
            value = getattr(self, argument)
            if value not in (None, INF):
                setattr(self, argument, map_leaves(lambda epochs: round(epochs * length), value))

    def _shape(self) -> dict[str, Any]:
        hidden = {"optimizer", "verbose", *self._position_names}
        return {k: _plain(v) for k, v in vars(self).items() if not k.startswith("_") and k not in hidden}


class Schedule(_ParamScheduler):
    """A scheduler with a curve of its own: its class has its own arguments, then those of `SchedulerOptions` by name.

    The class of a schedule writes the curve; for the options that it is used for it has subclasses,
    ``class LinearLR(_Linear, param_name="lr")``, and one for any option, with `GeneralForm` before it among the bases.

    Raises:
        TypeError: A name is not known.
    """

    def __init_subclass__(cls, param_name: str | None = None) -> None:
        super().__init_subclass__()
        if param_name is not None:
            cls.param_name = param_name
            _add_doc(cls)

    def __init__(self, optimizer: OptimizerLike, **options: Unpack[SchedulerOptions]) -> None:
        unknown = sorted(options.keys() - SchedulerOptions.__annotations__.keys())
        if unknown:
            names = [name for name in inspect.signature(type(self)).parameters if name != "options"]
            names += SchedulerOptions.__annotations__
            hint = did_you_mean(unknown[0], names)
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r}; it has {listed(names, 20)}.{hint}")
        super().__init__(optimizer, self.param_name, **options)


class GeneralForm(Schedule):
    """Put ``param_name`` after ``optimizer`` in the signature, so that any option of the groups can be scheduled.

    It stands before the schedule among the bases: ``class LinearParamScheduler(GeneralForm, _Linear)``.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _add_doc(cls)
        optimizer, *own = inspect.signature(cls.__bases__[-1], eval_str=True).parameters.values()
        name = inspect.Parameter("param_name", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)
        cls.__signature__ = inspect.Signature([optimizer, name, *own])

    def __init__(self, optimizer: OptimizerLike, param_name: str, *args: Any, **kwargs: Any) -> None:
        self.param_name = param_name
        super().__init__(optimizer, *args, **kwargs)


def _add_doc(cls: type) -> None:
    """Let `help` of a form of a schedule show what the schedule's own class says."""
    cls.__doc__ = "\n\n    ".join(filter(None, (cls.__doc__, cls.__bases__[-1].__doc__)))


def _plain(value: Any) -> Any:
    """Return a value in built-in types, so that states compare equal across saving and loading."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) else value

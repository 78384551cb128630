"""One place for the scalars and the runtime information of a run, and the history that each scalar has there."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch

from .. import dist
from .._torch import keep_value
from ..errors import UsageKeyError, UsageTypeError, UsageValueError
from ..plain import on_host, to_plain
from ..text import did_you_mean, listed, short
from .logger import print_log
from .manager import ManagerMixin

_Numbers = Sequence[float] | np.ndarray
_F = TypeVar("_F", bound=Callable[..., Any])

SAVED_ENTRIES = 10_000  # a state holds at least so many of the latest entries one by one
MAX_PENDING = 1_000  # tensors waiting for their copy to the host, per buffer


class HistoryBuffer:
    """Values of one scalar, with mmengine's statistics.

    ``update`` appends to a compact array of float64, so it costs the same whatever the length. Tensors of a device are
    kept as they are and moved to the host together, when something is read. Each value may stand for a sum over
    ``count`` things; ``mean`` divides the sum of the values by the sum of the counts.

    Args:
        log_history: Values to start with.
        count_history: Their counts, of the same length.
        max_length: How many of the latest entries are kept.

    Raises:
        ValueError: When the lengths differ or ``max_length`` is less than 1.
    """

    _statistics_methods: ClassVar[dict[str, Callable[..., Any]]] = {}
    _flush_hub: Callable[[], None] | None = None  # moves the pending tensors of a hub's buffers in the same copy
    _is_held = False  # what comes waits until the means over the ranks are there, for which the latest ones are sent

    def __init__(self, log_history: _Numbers = (), count_history: _Numbers = (), max_length: int = 1_000_000) -> None:
        if len(log_history) != len(count_history):
            lengths = f"log_history has {len(log_history)} entries and count_history {len(count_history)}"
            raise UsageValueError(f"HistoryBuffer: {lengths}; give one count for each value")
        if not is_window(max_length):
            raise UsageValueError(f"HistoryBuffer: max_length must be an int of at least 1, got {max_length!r}")
        self.max_length = max_length
        self._capacity = max_length + max(max_length // 4, 64)  # trimmed when full: rare, so cheap on average
        self._values = array("d")
        self._counts: array[float] | None = None  # made when the first count other than 1 arrives
        self._pending: list[tuple[Any, Any]] = []
        self._only_ints = True
        self._older: Sequence[float] | None = None  # of entries before a resume: number, sum, count, lowest, highest
        self._num_dropped = self._num_taken = self._longest_window = 0
        self._noted = -1, 0, 0  # the step of the latest line, and how many values there were before it and at it
        for value, count in zip(log_history, count_history):
            self.update(value, count)

    # ---------------------------------------------------------------- writing
    def update(self, log_val: float | torch.Tensor, count: float = 1) -> None:
        """Append a value.

        Args:
            log_val: A Python or numpy number, or an array or a tensor with one element. A tensor on another device is
                not read now (no wait); it is detached, and copied only if it has been changed in place before, as
                buffers are.
            count: How many things ``log_val`` is the sum of.

        Raises:
            TypeError: When ``log_val`` or ``count`` is no such number.
        """
        value: Any = log_val
        is_waiting = False
        if type(value) is not float or count != 1:
            if isinstance(value, torch.Tensor) and value.is_cpu and not value.dim():
                value = value.item()  # which needs no wait
            if type(value) is not float or count != 1:
                is_waiting = isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_cpu
                if not is_waiting or not isinstance(count, torch.Tensor):
                    count = require_number(count, "HistoryBuffer.update: count")
                given: Any = value
                value = keep_value(given) if is_waiting else require_number(given, "HistoryBuffer.update: log_val")
        if is_waiting or self._pending or self._is_held:  # what comes while others are pending waits too, for the order
            self._pending.append((value, count))
            if len(self._pending) >= MAX_PENDING:
                self._ready()
            return
        if count != 1 and self._counts is None:
            self._counts = array("d", [1.0]) * len(self._values)
        if self._only_ints and not isinstance(value, int):
            self._only_ints = False
        self._values.append(value)
        if self._counts is not None:
            self._counts.append(count)
        if len(self._values) > self._capacity:
            self._trim()

    def is_new_at(self, step: int) -> bool:
        """Return whether something was recorded since the line before that of `step`, which this notes."""
        num_updates = self._num_dropped + len(self._values) + len(self._pending)
        last, before, then = self._noted
        self._noted = step, before if step == last else then, num_updates
        return num_updates > self._noted[1]

    def _trim(self) -> None:
        """Drop what is older than ``max_length``."""
        num_dropped = len(self._values) - self.max_length
        self._num_dropped += num_dropped
        del self._values[:num_dropped]
        if self._counts is not None:
            del self._counts[:num_dropped]

    def __len__(self) -> int:
        """Number of entries kept, pending ones included."""
        return min(len(self._values) + len(self._pending), self.max_length)

    # ---------------------------------------------------------------- reading
    def _ready(self) -> None:
        """Move pending tensors to the host; drop what a resume knows in sum only once it lies beyond ``max_length``."""
        if self._pending or self._is_held:
            if self._flush_hub is not None:
                self._flush_hub()
            else:
                resolve_pending([self])
        if self._older and len(self._values) >= self.max_length:
            self._older = None

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the values and of their counts, oldest first: two arrays of shape ``(len(self),)``.

        Both are int64 where only ints were given, else float64. After a resume the entries before the saved tail are
        known only in sum and not listed here.
        """
        self._ready()
        held = slice(-self.max_length, None)
        values = np.array(self._values[held])
        counts = np.ones(len(values)) if self._counts is None else np.array(self._counts[held])
        if self._only_ints and len(values):
            values = values.astype(np.int64)
        return values, counts.astype(np.int64) if np.all(counts == np.floor(counts)) else counts

    # The names that statistics written for mmengine read.
    _log_history = property(lambda self: self.data[0])
    _count_history = property(lambda self: self.data[1])

    def _window(self, window_size: int | None, what: str) -> tuple[int, Sequence[float] | None]:
        """Return how many held values a window has, and the sums of older ones where it reaches back to them."""
        self._ready()
        num_held = min(len(self._values), self.max_length)
        if not num_held:
            raise ValueError(f"HistoryBuffer.{what}: nothing was recorded yet; call update first")
        if window_size is not None and not is_window(window_size):
            raise ValueError(f"HistoryBuffer.{what}: window_size must be an int of at least 1, got {window_size!r}")
        if window_size is None or window_size >= num_held + (self._older[0] if self._older else 0):
            return num_held, self._older
        self._longest_window = max(self._longest_window, window_size)
        return min(window_size, num_held), None

    def mean(self, window_size: int | None = None) -> float:
        """Return the sum of the latest ``window_size`` values (of all when None) over the sum of their counts."""
        size, older = self._window(window_size, "mean")
        total, count = _sum(self._values, size), size if self._counts is None else _sum(self._counts, size)
        if older:
            total, count = total + older[1], count + older[2]
        return total / count if count else float("nan")

    def max(self, window_size: int | None = None) -> float:
        """Return the largest of the latest ``window_size`` values (of all when None); NaN when one of them is."""
        return self._extreme(window_size, "max", np.max, 4)

    def min(self, window_size: int | None = None) -> float:
        """Return the smallest of the latest ``window_size`` values (of all when None); NaN when one of them is."""
        return self._extreme(window_size, "min", np.min, 3)

    def _extreme(self, window_size: int | None, what: str, reduce: Callable[..., Any], index: int) -> float:
        size, older = self._window(window_size, what)
        value = reduce(np.frombuffer(self._values)[-size:])
        return self._as_given(reduce([value, older[index]]) if older else value)

    def current(self) -> float:
        """Return the value that was recorded last."""
        self._window(1, "current")
        return self._as_given(self._values[-1])

    def _as_given(self, value: Any) -> float:
        return int(value) if self._only_ints else float(value)

    @classmethod
    def register_statistics(cls, method: _F) -> _F:
        """Make ``method(buffer, ...)`` callable as ``statistics(method.__name__, ...)``; usable as a decorator.

        Raises:
            ValueError: When the name is taken by another function.
        """
        name = method.__name__
        if cls._statistics_methods.setdefault(name, method) is not method:
            raise UsageValueError(f"HistoryBuffer: a statistic {name!r} is registered already; choose another name")
        return method

    @classmethod
    def get_statistic(cls, name: str) -> Callable[..., Any]:
        """Return the function of a statistic.

        Raises:
            KeyError: When there is none of that name.
        """
        if name not in cls._statistics_methods:
            names = sorted(cls._statistics_methods)
            known = f"{listed(names)}, and what you register by HistoryBuffer.register_statistics"
            raise UsageKeyError(f"HistoryBuffer: no statistic {name!r}; there are {known}.{did_you_mean(name, names)}")
        return cls._statistics_methods[name]

    def statistics(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a statistic by name: ``min``, ``max``, ``current``, ``mean`` or a registered one."""
        window = kwargs.get("window_size")
        if isinstance(window, int) and self._longest_window < window < len(self):
            self._longest_window = window
        return self.get_statistic(method_name)(self, *args, **kwargs)

    # ---------------------------------------------------------------- what several processes share
    def take_new(self) -> tuple[list[float], list[float]]:
        """Return the values that were recorded since the last call or load, oldest first, and their counts.

        What is recorded from here on waits for `set_aside`: it comes after those that replace these.
        """
        self._ready()
        num_updates = self._num_dropped + len(self._values)
        num_new, self._num_taken = min(num_updates - self._num_taken, len(self._values)), num_updates
        self._is_held = True
        begin = len(self._values) - num_new
        counts = [1.0] * num_new if self._counts is None else self._counts[begin:].tolist()
        return self._values[begin:].tolist(), counts

    def replace_latest(self, values: Sequence[float], counts: Sequence[float]) -> None:
        """Put other values, at least one, and their counts in place of the last ones."""
        self._values[-len(values) :] = array("d", values)
        if self._counts is None and any(count != 1 for count in counts):
            self._counts = array("d", [1.0]) * len(self._values)
        if self._counts is not None:
            self._counts[-len(values) :] = array("d", counts)
        self._only_ints = False

    def set_aside(self) -> list[tuple[Any, Any]]:
        """Return what waits since `take_new`, for `put_back`: until then the history is as it was there."""
        waiting, self._pending, self._is_held = self._pending, [], False
        return waiting

    def put_back(self, waiting: list[tuple[Any, Any]]) -> None:
        """Append what `set_aside` returned."""
        self._pending += waiting

    # ---------------------------------------------------------------- saving
    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to log the same values, in plain types.

        The latest entries are saved one by one: `SAVED_ENTRIES`, or twice the longest window that was ever read if
        that is more. What came before is saved as number, sum, sum of counts, smallest and largest, so that global
        statistics stay the same too. A longer window that is first asked for after the resume reaches back to the
        saved entries only.
        """
        self._ready()
        start = max(0, len(self._values) - self.max_length)
        split = max(start, len(self._values) - max(SAVED_ENTRIES, 2 * self._longest_window))
        older = self._older
        if split > start:
            part = np.array(self._values[start:split])
            count = float(split - start) if self._counts is None else float(sum(self._counts[start:split]))
            before = older or (0, 0.0, 0.0, part[0], part[0])
            low, high = np.min([before[3], part.min()]), np.max([before[4], part.max()])
            older = (int(before[0]) + len(part), before[1] + part.sum(), before[2] + count, low, high)
        return {
            "max_length": self.max_length,
            "values": torch.from_numpy(np.array(self._values[split:])),
            "counts": None if self._counts is None else torch.from_numpy(np.array(self._counts[split:])),
            "older": None if older is None else [older[0], *map(float, older[1:])],
            "num_updates": self._num_dropped + len(self._values),
            "num_ints": self._num_dropped + len(self._values) if self._only_ints else 0,
            "longest_window": self._longest_window,
            "noted": list(self._noted),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the contents by a saved state; references to this buffer and its ``update`` stay valid."""
        values, counts = state_dict["values"], state_dict["counts"]
        HistoryBuffer.__init__(self, max_length=int(state_dict["max_length"]))
        self._values = array("d", values.numpy().tobytes())
        self._counts = None if counts is None else array("d", counts.numpy().tobytes())
        self._older = state_dict["older"]
        self._num_taken = int(state_dict["num_updates"])
        self._num_dropped = self._num_taken - len(self._values)
        self._only_ints = state_dict["num_ints"] == state_dict["num_updates"]
        self._longest_window = int(state_dict["longest_window"])
        self._noted = tuple(state_dict.get("noted", (-1, self._num_taken, self._num_taken)))

    def __getstate__(self) -> dict[str, Any]:
        """Return everything, for copies and pickles; pending tensors are read, the hub is not included."""
        self._ready()
        return {name: value for name, value in vars(self).items() if name != "_flush_hub"}


for _method in (HistoryBuffer.min, HistoryBuffer.max, HistoryBuffer.current, HistoryBuffer.mean):
    HistoryBuffer.register_statistics(_method)


def is_window(size: Any) -> bool:
    """Return whether a value is a number of entries: an int of at least 1, no bool."""
    return isinstance(size, int) and not isinstance(size, bool) and size >= 1


def _sum(values: array[float], size: int) -> float:
    """Return the sum of the last entries: NumPy's way alone costs 5 us, Python's 10 ms for a million of them."""
    return float(sum(values[-size:]) if size <= 256 else np.frombuffer(values)[-size:].sum())


def resolve_pending(buffers: Iterable[HistoryBuffer]) -> None:
    """Move the pending tensors of all ``buffers`` to the host together."""
    waiting = [(buffer, pending) for buffer in buffers if (pending := buffer._pending)]
    entries = [entry for _, pending in waiting for pair in pending for entry in pair]
    tensors = [entry for entry in entries if isinstance(entry, torch.Tensor)]
    numbers = iter(to_host(tensors))
    for buffer, pending in waiting:
        buffer._pending = []
        for pair in pending:
            buffer.update(*(next(numbers) if isinstance(entry, torch.Tensor) else entry for entry in pair))


def as_number(value: Any) -> float | int | None:
    """Return a number, or the only element of an array or a tensor (read now), as a Python number.

    None for everything else: text, complex numbers, several elements, other objects.
    """
    if type(value) is float or type(value) is int:
        return value
    if hasattr(value, "full_tensor"):  # a DTensor, as FSDP2 makes them
        value = value.full_tensor()
    if hasattr(value, "item"):
        size = value.numel() if isinstance(value, torch.Tensor) else getattr(value, "size", 0)
        value = value.item() if size == 1 else None
    if isinstance(value, float):
        return float(value)
    return int(value) if isinstance(value, int) else None


def require_number(value: Any, what: str) -> float | int:
    """Return what `as_number` does.

    Raises:
        TypeError: When ``value`` is no number and does not hold exactly one.
    """
    number = as_number(value)
    if number is None:
        raise TypeError(f"{what} must be a number or have one element, got {short(value)} ({type(value).__name__})")
    return number


def to_host(tensors: list[torch.Tensor]) -> list[float]:
    """Return the values of tensors of shape ``()``: one copy, and so one wait, for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(i)
    result = [0.0] * len(tensors)
    for indices in groups.values():
        values = torch.stack([tensors[i] for i in indices]).cpu().tolist()
        for i, value in zip(indices, values):
            result[i] = value
    return result


class _Average(NamedTuple):
    """Means over the ranks that were asked for, and are not there yet."""

    prefix: str
    buffers: dict[str, HistoryBuffer]
    finish: Callable[..., dict[str, list[float]] | None]
    then: Callable[[], None]


class MessageHub(ManagerMixin):
    """Scalars with their history, and runtime information, reached by name from everywhere.

    The text log, ``metrics.jsonl`` and the visualizer all read from here. Tensors are stored as they are; what is
    pending crosses from each device in one copy when any scalar is read (or `flush` is called).

    Args:
        name: Name of the instance.
    """

    _default_name = "lazyengine"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._scalars: dict[str, HistoryBuffer] = {}
        self._info: dict[str, Any] = {}
        self._resumed: dict[str, bool] = {}
        self._reported: set[str] = set()
        self._under_way: _Average | None = None

    # ---------------------------------------------------------------- scalars
    def update_scalar(self, key: str, value: float | torch.Tensor, count: float = 1, resumed: bool = True) -> None:
        """Append ``value`` to the history of ``key``.

        Args:
            key: Name of the scalar, by convention ``<mode>/<name>``.
            value: A Python or numpy number or a one-element tensor, which is not read now.
            count: How many things ``value`` is the sum of.
            resumed: Whether the history is saved with checkpoints; the same for a key at every call.

        Raises:
            TypeError: When ``value`` is no scalar.
            ValueError: When ``resumed`` differs from earlier calls.
        """
        if key not in self._scalars or self._resumed.get(key) is not resumed:
            self.scalar_updater(key, resumed)
        try:
            self._scalars[key].update(value, count)
        except TypeError as error:
            error.add_note(f"scalar {key!r} of the message hub {self.instance_name!r}")
            raise

    def update_scalars(self, log_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Append several scalars: each a value, or ``dict(value=..., count=...)`` with ``count`` optional."""
        for key, value in log_dict.items():
            if isinstance(value, Mapping):
                if "value" not in value:
                    raise UsageValueError(f"MessageHub: {key!r} needs `value`, got the keys {list(value)}")
                self.update_scalar(key, value["value"], value.get("count", 1), resumed)
            else:
                self.update_scalar(key, value, 1, resumed)

    def scalar_updater(self, key: str, resumed: bool = True) -> Callable[..., None]:
        """Return the quick way for a hook that updates ``key`` in every iteration.

        The result takes ``(value, count=1)``, does what ``update_scalar(key, value, count)`` does without looking the
        key up, and stays valid when a state is loaded.
        """
        self._set_resumed(key, resumed)
        return self._buffer(key).update

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Return the history of ``key`` (the buffer itself, no copy).

        Raises:
            KeyError: When nothing was recorded under ``key``.
        """
        if key not in self._scalars:
            recorded = f"{listed(sorted(self._scalars))}.{did_you_mean(key, self._scalars)}"
            raise UsageKeyError(f"no scalar {key!r} in the hub {self.instance_name!r}; recorded are: {recorded}")
        return self._scalars[key]

    @property
    def log_scalars(self) -> dict[str, HistoryBuffer]:
        """All histories by key (no copy)."""
        return self._scalars

    def flush(self) -> None:
        """Read all pending tensors: one copy, one wait, per device."""
        self.settle()
        resolve_pending(self._scalars.values())

    def average_over_ranks(self, prefix: str = "train/") -> None:
        """Put means over all ranks in place of what each recorded since the last call; every rank must call.

        Does nothing in a single process. Ranks that did not record the same keys equally often keep their own values,
        and say so once.

        Args:
            prefix: What the keys begin with.
        """
        self.start_average_over_ranks(prefix=prefix)
        self.settle()

    def start_average_over_ranks(self, then: Callable[[], None] = lambda: None, prefix: str = "train/") -> None:
        """Begin what `average_over_ranks` does, and wait when somebody needs it; every rank must call.

        That is at `settle`, or when any scalar is read, which is not collective.

        Args:
            then: Called when the means are there, before what was recorded since is appended to the histories; at once
                in a single process.
            prefix: What the keys begin with.
        """
        self.settle()
        if dist.get_world_size() == 1:
            return then()
        buffers = {key: self._scalars[key] for key in sorted(self._scalars) if key.startswith(prefix)}
        new = {key: buffer.take_new() for key, buffer in buffers.items()}
        lists = {key: [*values, *counts] for key, (values, counts) in new.items() if values}
        self._under_way = _Average(prefix, buffers, dist.start_average(lists), then)

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait for the means over the ranks that were asked for, if any.

        Args:
            timeout_s: Seconds to wait at most; None for as long as ranks wait for each other.

        Raises:
            TimeoutError: They are not there by then; every rank keeps its own values.
        """
        average, self._under_way = self._under_way, None
        if average is None:
            return
        waiting = {key: buffer.set_aside() for key, buffer in average.buffers.items()}
        try:
            means = average.finish(timeout_s)
            for key, numbers in (means or {}).items():
                self._scalars[key].replace_latest(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :])
            if means is None and average.prefix not in self._reported:
                self._reported.add(average.prefix)
                _warn(
                    f"the ranks did not record the same scalars {average.prefix}* (here {', '.join(average.buffers)}), "
                    "so that what is logged of them is that of rank 0 alone; let the model return the same keys on "
                    "every rank"
                )
            average.then()
        finally:
            for key, buffer in average.buffers.items():
                buffer.put_back(waiting[key])

    def _buffer(self, key: str) -> HistoryBuffer:
        buffer = self._scalars.get(key)
        if buffer is None:
            buffer = self._scalars[key] = HistoryBuffer()
            buffer._flush_hub = self.flush
            if self._under_way is not None and key.startswith(self._under_way.prefix):
                buffer.take_new()
                self._under_way.buffers[key] = buffer
        return buffer

    # ---------------------------------------------------------------- runtime information
    def update_info(self, key: str, value: Any, resumed: bool = True) -> None:
        """Set the runtime information ``key``; ``resumed`` as in `update_scalar`."""
        if self._resumed.get(key) is not resumed:
            self._set_resumed(key, resumed)
        self._info[key] = value

    def update_info_dict(self, info_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Set several entries of the runtime information."""
        for key, value in info_dict.items():
            self.update_info(key, value, resumed)

    def get_info(self, key: str, default: Any = None) -> Any:
        """Return the runtime information ``key``, or ``default`` where there is none."""
        return self._info.get(key, default)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Remove the runtime information ``key`` and return it, or ``default`` where there is none."""
        return self._info.pop(key, default)

    @property
    def runtime_info(self) -> dict[str, Any]:
        """All runtime information by key (no copy)."""
        return self._info

    def _set_resumed(self, key: str, resumed: bool) -> None:
        if not isinstance(key, str):
            raise UsageTypeError(f"MessageHub: keys are str, got {key!r} ({type(key).__name__})")
        known = self._resumed.setdefault(key, bool(resumed))
        if known != resumed:
            raise UsageValueError(
                f"MessageHub: {key!r} was recorded with resumed={known} and now with resumed={resumed}; "
                "pass the same at every call, or use another key"
            )

    # ---------------------------------------------------------------- saving
    def state_dict(self) -> dict[str, Any]:
        """Return what is to be resumed, in plain types that ``torch.load(weights_only=True)`` accepts.

        Runtime information that has no plain form is left out; this is said once per key.
        """
        info = {}
        for key, value in self._info.items():
            if not self._resumed.get(key, False):
                continue
            try:
                info[key] = _copied(value, key)
            except TypeError as error:
                if key not in self._reported:
                    self._reported.add(key)
                    _warn(f"{error} Or pass resumed=False, with which it is never saved.")
        scalars = {key: buffer.state_dict() for key, buffer in self._scalars.items() if self._resumed[key]}
        resumed = {key: value for key, value in self._resumed.items() if key in scalars or key in info}
        return {"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned. Keys that it does not have keep their present values."""
        for key, value in state_dict["log_scalars"].items():
            self._buffer(key).load_state_dict(value)
            self._resumed[key] = True
        for key, value in state_dict["runtime_info"].items():
            self._info[key] = _copied(value, key)
            self._resumed[key] = True


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)


def _copied(value: Any, key: str) -> Any:
    """Return runtime information as plain data that nobody else holds; a TypeError where it has no such form."""
    return on_host(to_plain(value, f"runtime information {key!r}"), [])

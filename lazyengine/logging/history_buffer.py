"""The history of one scalar: constant time per update, bounded memory, statistics over windows."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from . import _tensors
from ._tensors import keep_value, to_host

_F = TypeVar("_F", bound=Callable[..., Any])

SAVED_ENTRIES = 10_000  # a state holds at least so many of the latest entries one by one
MAX_PENDING = 1_000  # tensors waiting for their copy to the host, per buffer
_SMALL_WINDOW = 256  # up to here Python's own sum, min and max beat the detour through numpy


class HistoryBuffer:
    """Values of one scalar, with mmengine's statistics.

    ``update`` appends to a compact array of float64, so it costs the same whatever the length. Tensors are kept as they
    are and moved to the host together, when something is read. Each value may stand for a sum over ``count`` things;
    ``mean`` divides the sum of the values by the sum of the counts.

    Args:
        log_history: Values to start with.
        count_history: Their counts, of the same length.
        max_length: How many of the latest entries are kept.

    Raises:
        ValueError: When the lengths differ or ``max_length`` is less than 1.
    """

    __slots__ = (
        "_capacity",
        "_counts",
        "_head",
        "_is_plain",
        "_longest_window",
        "_num_dropped",
        "_num_ints",
        "_owner",
        "_pending",
        "_values",
        "max_length",
    )  # fmt: skip
    _statistics_methods: dict[str, Callable[..., Any]] = {}  # noqa: RUF012  (shared on purpose)

    def __init__(
        self,
        log_history: Sequence[float] | np.ndarray = (),
        count_history: Sequence[float] | np.ndarray = (),
        max_length: int = 1_000_000,
    ) -> None:
        if len(log_history) != len(count_history):
            raise ValueError(
                f"HistoryBuffer: log_history has {len(log_history)} entries and count_history {len(count_history)}; "
                "give one count for each value"
            )
        if not isinstance(max_length, int) or max_length < 1:
            raise ValueError(f"HistoryBuffer: max_length must be an int of at least 1, got {max_length!r}")
        if len(log_history) > max_length:
            warnings.warn(
                f"HistoryBuffer: of {len(log_history)} entries only the last {max_length} (max_length) are kept",
                stacklevel=2,
            )
        self.max_length = max_length
        self._capacity = max_length + max(max_length // 4, 64)  # trimmed when full: rare, so cheap on average
        self._owner: Callable[[], None] | None = None
        self._pending: list[tuple[Any, float]] = []
        self._fill(log_history, count_history)

    def _fill(self, values: Iterable[float], counts: Iterable[float]) -> None:
        """Replace the contents."""
        self._values = array("d")
        self._counts: array[float] | None = None  # made when the first count other than 1 arrives
        self._is_plain = True  # no counts, nothing pending: `update` may take its short way
        self._head: tuple[int, float, float, float, float] | None = None
        self._num_ints = self._num_dropped = self._longest_window = 0
        self._pending.clear()
        for value, count in zip(values, counts):
            self.update(value, count)

    # ---------------------------------------------------------------- writing
    def update(self, log_val: float | torch.Tensor, count: float = 1) -> None:
        """Append a value.

        Args:
            log_val: A Python or numpy number, or a tensor with one element. A tensor on another device is not read now
                (no wait); it is detached, and copied only if it has been changed in place before, as buffers are.
            count: How many things ``log_val`` is the sum of.

        Raises:
            TypeError: When ``log_val`` or ``count`` is no such number.
        """
        if type(log_val) is torch.Tensor and _tensors.is_on_host(log_val) and not log_val.dim():
            log_val = log_val.item()
        if type(log_val) is float and count == 1 and self._is_plain:
            values = self._values
            values.append(log_val)
            if len(values) > self._capacity:
                self._trim()
        else:
            self._update_general(log_val, count)

    def _update_general(self, value: Any, count: Any) -> None:
        """Handle what is no float with count 1, and whatever comes while tensors are pending: order is kept."""
        if isinstance(count, np.generic):
            count = count.item()
        if not isinstance(count, int | float):
            raise TypeError(f"HistoryBuffer.update: count must be an int or a float, got {_describe(count)}")
        value = keep_value(value) if isinstance(value, torch.Tensor) else _as_number(value)
        if not self._pending and not isinstance(value, torch.Tensor):
            self._append(value, count)
            return
        self._pending.append((value, count))
        self._is_plain = False
        if len(self._pending) >= MAX_PENDING:
            self._resolve()

    def _append(self, value: float, count: float) -> None:
        if count != 1 and self._counts is None:
            self._counts = array("d", [1.0]) * len(self._values)
            self._is_plain = False
        if value.__class__ is not float:
            self._num_ints += 1
        self._values.append(value)
        if self._counts is not None:
            self._counts.append(count)
        if len(self._values) > self._capacity:
            self._trim()

    def _trim(self) -> None:
        """Drop what is older than ``max_length``."""
        num_dropped = len(self._values) - self.max_length
        self._num_dropped += num_dropped
        del self._values[:num_dropped]
        if self._counts is not None:
            del self._counts[:num_dropped]

    def _resolve(self) -> None:
        """Move pending tensors to the host; with an owner (the hub), those of all its buffers in the same copy."""
        if self._owner is not None:
            self._owner()
        else:
            resolve_pending([self])

    def __len__(self) -> int:
        """Number of entries kept, pending ones included."""
        return min(len(self._values) + len(self._pending), self.max_length)

    # ---------------------------------------------------------------- reading
    def _ready(self) -> None:
        if self._pending:
            self._resolve()
        if self._head and len(self._values) >= self.max_length:
            self._head = None

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
        if self._holds_ints():
            values = values.astype(np.int64)
        return values, counts.astype(np.int64) if np.all(counts == np.floor(counts)) else counts

    @property
    def _log_history(self) -> np.ndarray:
        """The values, under the name that statistics written for mmengine read."""
        return self.data[0]

    @property
    def _count_history(self) -> np.ndarray:
        """The counts, under the name that statistics written for mmengine read."""
        return self.data[1]

    def _holds_ints(self) -> bool:
        return 0 < self._num_ints == self._num_dropped + len(self._values)

    def _window(self, window_size: int | None, what: str) -> tuple[int, bool]:
        """Number of held entries in the window, and whether the window reaches back to the start."""
        self._ready()
        num_held = min(len(self._values), self.max_length)
        if not num_held:
            raise ValueError(f"HistoryBuffer.{what}: nothing was recorded yet; call update first")
        if window_size is None:
            return num_held, True
        if isinstance(window_size, bool) or not isinstance(window_size, int):
            raise TypeError(f"HistoryBuffer.{what}: window_size must be an int or None, got {_describe(window_size)}")
        if window_size < 1:
            raise ValueError(f"HistoryBuffer.{what}: window_size must be at least 1, got {window_size}")
        num_all = num_held + (self._head[0] if self._head else 0)
        if window_size >= num_all:
            return num_held, True
        if window_size > self._longest_window:
            self._longest_window = window_size
        return min(window_size, num_held), False

    def mean(self, window_size: int | None = None) -> float:
        """Sum of the latest ``window_size`` values over the sum of their counts (all of them when None)."""
        size, is_global = self._window(window_size, "mean")
        total = _sum(self._values, size)
        count = float(size) if self._counts is None else _sum(self._counts, size)
        if is_global and self._head:
            total, count = total + self._head[1], count + self._head[2]
        return total / count if count else float("nan")

    def max(self, window_size: int | None = None) -> float:
        """Largest of the latest ``window_size`` values (of all when None); NaN when one of them is."""
        return self._extreme(window_size, "max", max, np.max, 4)

    def min(self, window_size: int | None = None) -> float:
        """Smallest of the latest ``window_size`` values (of all when None); NaN when one of them is."""
        return self._extreme(window_size, "min", min, np.min, 3)

    def _extreme(self, window_size: int | None, what: str, small: Any, large: Any, head_index: int) -> float:
        size, is_global = self._window(window_size, what)
        if size <= _SMALL_WINDOW:
            entries = self._values[-size:]
            total = sum(entries)  # NaN when an entry is, which Python's max and min would miss
            value = small(entries) if total == total else float(large(entries))
        else:
            value = float(large(_view(self._values, size)))
        if is_global and self._head:
            value = float(large([value, self._head[head_index]]))
        return int(value) if self._holds_ints() else value

    def current(self) -> float:
        """Return the value that was recorded last."""
        self._window(1, "current")
        value = self._values[-1]
        return int(value) if self._holds_ints() else value

    @classmethod
    def register_statistics(cls, method: _F) -> _F:
        """Make ``method(buffer, ...)`` callable as ``statistics(method.__name__, ...)``; usable as a decorator.

        Raises:
            ValueError: When the name is taken by another function.
        """
        name = method.__name__
        if name in cls._statistics_methods and cls._statistics_methods[name] is not method:
            raise ValueError(f"HistoryBuffer: a statistic {name!r} is registered already; choose another name")
        cls._statistics_methods[name] = method
        return method

    def statistics(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a statistic by name: ``min``, ``max``, ``current``, ``mean`` or a registered one."""
        if method_name not in self._statistics_methods:
            known = ", ".join(sorted(self._statistics_methods))
            raise KeyError(f"HistoryBuffer: no statistic {method_name!r}; there are {known}")
        window = kwargs.get("window_size")
        if isinstance(window, int) and window > self._longest_window and window < len(self):
            self._longest_window = window
        return self._statistics_methods[method_name](self, *args, **kwargs)

    # ---------------------------------------------------------------- what several processes share
    @property
    def num_updates(self) -> int:
        """Number of values ever recorded, pending ones included."""
        return self._num_dropped + len(self._values) + len(self._pending)

    def latest(self, num: int) -> list[float]:
        """Return the last ``num`` values, oldest first, as floats."""
        self._ready()
        return self._values[len(self._values) - num :].tolist()

    def replace_latest(self, values: Sequence[float]) -> None:
        """Put other values in place of the last ones."""
        self._ready()
        if values:
            self._values[-len(values) :] = array("d", values)
            self._num_ints = 0

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
        head = self._head
        if split > start:
            older = np.array(self._values[start:split])
            num_older = len(older)
            counts = float(num_older) if self._counts is None else float(np.sum(self._counts[start:split]))
            new = (num_older, float(older.sum()), counts, float(older.min()), float(older.max()))
            head = new if head is None else _merge(head, new)
        return {
            "max_length": self.max_length,
            "values": _to_tensor(self._values[split:]),
            "counts": None if self._counts is None else _to_tensor(self._counts[split:]),
            "older": None if head is None else list(head),
            "num_updates": self._num_dropped + len(self._values),
            "num_ints": self._num_ints,
            "longest_window": self._longest_window,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the contents by a saved state; references to this buffer and its ``update`` stay valid."""
        values, counts, older = state_dict["values"], state_dict["counts"], state_dict["older"]
        self.max_length = int(state_dict["max_length"])
        self._capacity = self.max_length + max(self.max_length // 4, 64)
        self._fill((), ())
        self._values = array("d", values.numpy().tobytes())
        self._counts = None if counts is None else array("d", counts.numpy().tobytes())
        self._is_plain = self._counts is None
        self._head = None if older is None else (int(older[0]), older[1], older[2], older[3], older[4])
        self._num_dropped = int(state_dict["num_updates"]) - len(self._values)
        self._num_ints = int(state_dict["num_ints"])
        self._longest_window = int(state_dict["longest_window"])

    def __getstate__(self) -> dict[str, Any]:
        """Everything, for copies and pickles; pending tensors are read, the hub is not included."""
        self._ready()
        names = (name for name in HistoryBuffer.__slots__ if name != "_owner")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._owner = None

    def __repr__(self) -> str:
        return f"HistoryBuffer({len(self)} entries, {len(self._pending)} pending, max_length={self.max_length})"


for _method in (HistoryBuffer.min, HistoryBuffer.max, HistoryBuffer.current, HistoryBuffer.mean):
    HistoryBuffer.register_statistics(_method)


def resolve_pending(buffers: Iterable[HistoryBuffer]) -> None:
    """Move the pending tensors of all ``buffers`` to the host, in one copy (one wait) per device."""
    buffers = [buffer for buffer in buffers if buffer._pending]
    tensors = [value for buffer in buffers for value, _ in buffer._pending if isinstance(value, torch.Tensor)]
    numbers = iter(to_host(tensors))
    for buffer in buffers:
        pending, buffer._pending = buffer._pending, []
        buffer._is_plain = buffer._counts is None
        for value, count in pending:
            buffer._append(next(numbers) if isinstance(value, torch.Tensor) else value, count)


def _as_number(value: Any) -> float:
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        number = value.item()
        if isinstance(number, int | float):
            return number
    raise TypeError(f"HistoryBuffer.update: a number or a one-element tensor is recorded, got {_describe(value)}")


def _describe(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"


def _view(values: array[float], size: int) -> np.ndarray:
    """The last ``size`` entries without copying them. Must not outlive the call: the array cannot grow meanwhile."""
    return np.frombuffer(values, dtype=np.float64)[-size:]


def _to_tensor(values: array[float]) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _sum(values: array[float], size: int) -> float:
    return float(sum(values[-size:])) if size <= _SMALL_WINDOW else float(_view(values, size).sum())


def _merge(a: tuple[int, float, float, float, float], b: tuple[int, float, float, float, float]) -> tuple:
    low, high = float(np.min([a[3], b[3]])), float(np.max([a[4], b[4]]))
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], low, high

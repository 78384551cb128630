"""One place for the scalars and the runtime information of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .. import dist
from ..errors import UsageKeyError, UsageTypeError, UsageValueError
from ..plain import on_host, to_plain
from ..text import did_you_mean, listed
from .history_buffer import HistoryBuffer, resolve_pending
from .logger import print_log
from .manager import ManagerMixin


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

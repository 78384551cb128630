"""One place for the scalars and the runtime information of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from .history_buffer import HistoryBuffer, resolve_pending
from .logger import print_log
from .manager import ManagerMixin


class MessageHub(ManagerMixin):
    """Scalars with their history, and runtime information, reached by name from everywhere.

    The text log, ``metrics.jsonl`` and the visualizer all read from here. Tensors are stored as they are; what is
    pending crosses from each device in one copy when any scalar is read (or `flush` is called).

    Args:
        name: Name of the instance.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._scalars: dict[str, HistoryBuffer] = {}
        self._info: dict[str, Any] = {}
        self._resumed: dict[str, bool] = {}
        self._reported: set[str] = set()
        self._num_averaged: dict[str, int] = {}

    @classmethod
    def get_current_instance(cls) -> MessageHub:
        """Return the hub that was created last; without any, create one called ``lazyengine``."""
        return super().get_current_instance() if cls._instances else cls.get_instance("lazyengine")

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
        if self._resumed.get(key) is not resumed:
            self._set_resumed(key, resumed)
        buffer = self._scalars.get(key)
        if buffer is None:
            buffer = self._create(key)
        try:
            buffer.update(value, count)
        except TypeError as error:
            error.add_note(f"scalar {key!r} of the message hub {self.instance_name!r}")
            raise

    def update_scalars(self, log_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Append several scalars: each a value, or ``dict(value=..., count=...)`` with ``count`` optional."""
        if not isinstance(log_dict, Mapping):
            raise TypeError(f"MessageHub.update_scalars: expected a dict of scalars, got {type(log_dict).__name__}")
        for key, value in log_dict.items():
            if isinstance(value, Mapping):
                if "value" not in value:
                    raise ValueError(f"MessageHub.update_scalars: {key!r} needs `value`, got the keys {list(value)}")
                self.update_scalar(key, value["value"], value.get("count", 1), resumed)
            else:
                self.update_scalar(key, value, 1, resumed)

    def scalar_updater(self, key: str, resumed: bool = True) -> Callable[..., None]:
        """Return the quick way for a hook that updates ``key`` in every iteration.

        The result takes ``(value, count=1)``, does what ``update_scalar(key, value, count)`` does without looking the
        key up, and stays valid when a state is loaded.
        """
        self._set_resumed(key, resumed)
        return (self._scalars.get(key) or self._create(key)).update

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Return the history of ``key`` (the buffer itself, no copy).

        Raises:
            KeyError: When nothing was recorded under ``key``.
        """
        try:
            return self._scalars[key]
        except KeyError:
            known = ", ".join(sorted(self._scalars)) or "none yet"
            raise KeyError(
                f"no scalar {key!r} in the message hub {self.instance_name!r}; recorded are: {known}"
            ) from None

    @property
    def log_scalars(self) -> dict[str, HistoryBuffer]:
        """All histories by key (no copy)."""
        return self._scalars

    def flush(self) -> None:
        """Read all pending tensors: one copy, one wait, per device."""
        resolve_pending(self._scalars.values())

    def average_over_ranks(self, prefix: str = "train/") -> None:
        """Put means over all ranks in place of what each recorded since the last call; every rank must call.

        Called where a log line is due and where a checkpoint is saved: a message then, none in between. Does nothing in
        a single process. Ranks that did not record the same keys equally often keep their own values, and say so once.

        Args:
            prefix: What the keys begin with.
        """
        from .. import dist

        if dist.get_world_size() == 1:
            return
        self.flush()
        new: dict[str, list[float]] = {}
        for key in sorted(key for key in self._scalars if key.startswith(prefix)):
            buffer = self._scalars[key]
            num_new = min(buffer.num_updates - self._num_averaged.get(key, 0), len(buffer))
            self._num_averaged[key] = buffer.num_updates
            if num_new:
                new[key] = buffer.latest(num_new)
        means = dist.average_lists(new)
        if means is not None:
            for key, values in means.items():
                self._scalars[key].replace_latest(values)
        elif prefix not in self._reported:
            self._reported.add(prefix)
            print_log(
                f"the ranks did not record the same scalars {prefix}* (here {', '.join(new)}), so that what is logged "
                "of them is that of rank 0 alone; let the model return the same keys on every rank",
                logger="current",
                level=logging.WARNING,
            )

    def _create(self, key: str) -> HistoryBuffer:
        buffer = self._scalars[key] = HistoryBuffer()
        buffer._owner = self.flush
        return buffer

    # ---------------------------------------------------------------- runtime information
    def update_info(self, key: str, value: Any, resumed: bool = True) -> None:
        """Set the runtime information ``key``; ``resumed`` as in `update_scalar`."""
        if self._resumed.get(key) is not resumed:
            self._set_resumed(key, resumed)
        self._info[key] = value

    def update_info_dict(self, info_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Set several entries of the runtime information."""
        if not isinstance(info_dict, Mapping):
            raise TypeError(f"MessageHub.update_info_dict: expected a dict, got {type(info_dict).__name__}")
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
            raise TypeError(f"MessageHub: keys are str, got {key!r} ({type(key).__name__})")
        known = self._resumed.setdefault(key, bool(resumed))
        if known != resumed:
            raise ValueError(
                f"MessageHub: {key!r} was recorded with resumed={known} and now with resumed={resumed}; "
                "pass the same at every call, or use another key"
            )

    # ---------------------------------------------------------------- saving
    def state_dict(self) -> dict[str, Any]:
        """Return what is to be resumed, in plain types that ``torch.load(weights_only=True)`` accepts.

        Runtime information that has no plain form is left out; this is said once per key.
        """
        self.flush()
        info = {}
        for key, value in self._info.items():
            if not self._resumed.get(key, False):
                continue
            try:
                info[key] = _to_plain(value)
            except TypeError as error:
                if key not in self._reported:
                    self._reported.add(key)
                    print_log(
                        f"runtime information {key!r} is not saved with checkpoints: {error}; "
                        "use plain types, or resumed=False",
                        logger="current",
                        level=logging.WARNING,
                    )
        scalars = {key: buffer.state_dict() for key, buffer in self._scalars.items() if self._resumed[key]}
        resumed = {key: value for key, value in self._resumed.items() if key in scalars or key in info}
        return {"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned. Keys that it does not have keep their present values.

        Raises:
            KeyError: When one of its three parts is missing.
        """
        for part in ("log_scalars", "runtime_info", "resumed_keys"):
            if part not in state_dict:
                raise KeyError(f"MessageHub.load_state_dict: no {part!r} in the state; it has {list(state_dict)}")
        for key, value in state_dict["log_scalars"].items():
            if not isinstance(value, Mapping) or "values" not in value:
                print_log(
                    f"scalar {key!r} in the state of the message hub is no saved history but "
                    f"{type(value).__name__}; skipped",
                    logger="current",
                    level=logging.WARNING,
                )
                continue
            buffer = self._scalars.get(key) or self._create(key)
            buffer.load_state_dict(dict(value))
            self._num_averaged[key] = buffer.num_updates
            self._resumed[key] = True
        for key, value in state_dict["runtime_info"].items():
            self._info[key] = _to_plain(value)
            self._resumed[key] = True


def _to_plain(value: Any) -> Any:
    """Copy ``value`` into built-in types and tensors on the host.

    Raises:
        TypeError: When some part of it has no such form.
    """
    if value is None:
        return None
    for plain in (bool, int, float, complex, str, bytes):  # subclasses, as numpy's float64, become the plain type
        if isinstance(value, plain):
            return plain(value)  # type: ignore[arg-type]
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    if isinstance(value, Enum):
        return _to_plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {_to_plain(key): _to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(_to_plain(entry) for entry in value)
    if isinstance(value, list):
        return [_to_plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return {_to_plain(entry) for entry in value}
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} has no plain form")

"""Turns the scalars of the message hub into the values and the line of a log event."""

from __future__ import annotations

import datetime
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .history_buffer import HistoryBuffer

_IS_LR = re.compile(r"(^|[./_])lr($|[./])")
_MODES = ("train", "val", "test")
_MAX_LRS_SHOWN = 4


class LogProcessor:
    """Smooths the scalars of one mode and formats them.

    Names that match ``mean_pattern`` are shown as the mean of the last ``window_size`` values, all others as they are
    now; the line says which is which. ``custom_cfg`` adds or replaces values::

        dict(data_src="loss", method_name="max", window_size="epoch", log_name="loss_max")

    ``method_name`` is a statistic of `HistoryBuffer`, ``window_size`` a number of updates, ``"epoch"`` or
    ``"global"``; without ``log_name`` the value takes the place of ``data_src``. Further keys go to the statistic.

    Args:
        window_size: Number of values that are averaged.
        by_epoch: Whether progress is shown as epoch and batch, or as iterations.
        custom_cfg: Statistics as above.
        num_digits: Digits after the point; learning rates have as many in scientific notation.
        log_with_hierarchy: Whether the names of the returned values keep their ``<mode>/``.
        mean_pattern: Regular expression searched in names, for those that are averaged.

    Raises:
        ValueError, TypeError: When a number is out of range or an entry of ``custom_cfg`` makes no sense.
    """

    def __init__(
        self,
        window_size: int = 10,
        by_epoch: bool = True,
        custom_cfg: Iterable[Mapping[str, Any]] | None = None,
        num_digits: int = 4,
        log_with_hierarchy: bool = False,
        mean_pattern: str = r".*(loss|time|data_time|grad_norm).*",
    ) -> None:
        if isinstance(window_size, bool) or not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"LogProcessor: window_size must be an int of at least 1, got {window_size!r}")
        if not isinstance(num_digits, int) or not 0 <= num_digits <= 17:
            raise ValueError(f"LogProcessor: num_digits must be an int from 0 to 17, got {num_digits!r}")
        self.window_size = window_size
        self.by_epoch = by_epoch
        self.num_digits = num_digits
        self.log_with_hierarchy = log_with_hierarchy
        self.mean_pattern = re.compile(mean_pattern)
        self.custom_cfg = [dict(entry) for entry in custom_cfg or ()]
        names = set()
        for i, entry in enumerate(self.custom_cfg):
            name = _check_custom(entry, f"LogProcessor: custom_cfg[{i}]", by_epoch)
            if name in names:
                raise ValueError(f"LogProcessor: custom_cfg[{i}] defines {name!r} a second time; give it a log_name")
            names.add(name)
        self._kinds: dict[str, tuple[bool, bool]] = {}  # name: (is averaged, is a learning rate)

    def get_log_after_iter(self, runner: Any, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Describe an iteration that has just ended.

        Args:
            runner: The runner; its ``epoch`` and ``iter`` do not count this iteration yet.
            batch_idx: Position of the batch in its epoch, from 0.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The values (with ``iter``, ``epoch`` where it has a meaning, ``memory`` in MB on a GPU) and the line.
        """
        values, labels = self._collect(runner, batch_idx + 1, mode, smooth=True)
        lrs = {name: values[name] for name in values if self._kind(name)[1]}
        shown = {name: value for name, value in values.items() if name not in lrs} if mode == "train" else {}
        if mode != "train":  # metrics still are those of the last evaluation
            shown = {name: values[name] for name in ("time", "data_time") if name in values}
        # Losses first and times last: a narrow terminal cuts the end off the first row.
        order = sorted(shown, key=lambda name: (name in ("time", "data_time"), "loss" not in name))
        shown = {name: shown[name] for name in order}
        parts = [self._progress(runner, batch_idx + 1, mode), *self._lr_parts(lrs)]
        eta = runner.message_hub.get_info("eta")
        if eta is not None and "time" in values:
            parts.append(f"eta: {datetime.timedelta(seconds=int(max(eta, 0)))}")
        extra: dict[str, Any] = {"iter": runner.iter + 1 if mode == "train" else runner.iter}
        if self.by_epoch and mode != "test":
            extra["epoch"] = self._epoch(runner, mode)
        if torch.cuda.is_initialized():
            extra["memory"] = round(torch.cuda.max_memory_allocated() / 2**20)
            parts.append(f"memory: {extra['memory']}")
        return self._named(values, mode) | extra, "  ".join(parts + self._value_parts(shown, labels))

    def get_log_after_epoch(
        self, runner: Any, num_batches: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Describe a validation or a test that has just ended.

        Metrics are those of this evaluation, never averaged over earlier ones; ``time`` and ``data_time`` are means
        over its batches.

        Args:
            runner: The runner; its ``epoch`` counts the epochs completed.
            num_batches: Number of batches of the evaluation.
            mode: ``"val"`` or ``"test"``.
            with_non_scalar: Whether runtime information of the mode, such as a confusion matrix, is returned too.
        """
        if mode not in ("val", "test"):
            raise ValueError(f"LogProcessor.get_log_after_epoch: mode must be 'val' or 'test', got {mode!r}")
        values, labels = self._collect(runner, num_batches, mode, smooth=False)
        info = runner.message_hub.runtime_info
        others = {key[len(mode) + 1 :]: value for key, value in info.items() if key.startswith(mode + "/")}
        times = {name: values.pop(name) for name in ("data_time", "time") if name in values}
        parts = [self._progress(runner, num_batches, mode)]
        parts += self._value_parts(values | others | times, labels)
        values |= (others if with_non_scalar else {}) | times
        return self._named(values, mode), "  ".join(parts)

    # ---------------------------------------------------------------- values
    def _collect(self, runner: Any, num_batches: int, mode: str, smooth: bool) -> tuple[dict[str, Any], dict[str, str]]:
        """Values by name without the mode, and what was done to those that are not the latest value."""
        if mode not in _MODES:
            raise ValueError(f"LogProcessor: mode must be one of {', '.join(_MODES)}, got {mode!r}")
        prefix = mode + "/"
        buffers: dict[str, HistoryBuffer] = {}
        for key, buffer in runner.message_hub.log_scalars.items():
            if key.startswith(prefix) and len(buffer):
                buffers[key[len(prefix) :]] = buffer
        values: dict[str, Any] = {}
        labels: dict[str, str] = {}
        for name, buffer in buffers.items():
            if smooth and self._kind(name)[0]:
                values[name], labels[name] = buffer.mean(self.window_size), f"mean of {self.window_size}"
            elif not smooth and name in ("time", "data_time"):
                values[name], labels[name] = buffer.mean(max(num_batches, 1)), "mean of the epoch"
            else:
                values[name] = buffer.current()
        for entry in self.custom_cfg:
            buffer = buffers.get(entry["data_src"])
            if buffer is None:
                continue
            name = entry.get("log_name", entry["data_src"])
            arguments = {key: value for key, value in entry.items() if key not in ("data_src", "log_name")}
            window = arguments.get("window_size")
            if isinstance(window, str):
                arguments["window_size"] = num_batches if window == "epoch" else runner.iter + 1
            values[name] = buffer.statistics(**arguments)
            span = {"epoch": " of the epoch", "global": " of all", None: ""}.get(window, f" of {window}")
            labels[name] = entry["method_name"] + span
        return values, labels

    def _kind(self, name: str) -> tuple[bool, bool]:
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = (self.mean_pattern.search(name) is not None, _IS_LR.search(name) is not None)
        return kind

    def _named(self, values: dict[str, Any], mode: str) -> dict[str, Any]:
        return {f"{mode}/{name}": value for name, value in values.items()} if self.log_with_hierarchy else values

    # ---------------------------------------------------------------- text
    def _progress(self, runner: Any, done: int, mode: str) -> str:
        if mode == "train" and not self.by_epoch:
            return f"Iter(train) [{str(runner.iter + 1).rjust(len(str(runner.max_iters)))}/{runner.max_iters}]"
        total = _num_batches(runner, mode)
        position = f"[{str(done).rjust(len(str(total)))}/{total}]"
        if not self.by_epoch or mode == "test":
            return f"{'Epoch' if self.by_epoch else 'Iter'}({mode}) {position}"
        max_epochs = getattr(runner, "max_epochs", None)
        width = len(str(max_epochs)) + 3 if max_epochs else 0
        return f"Epoch({mode}){f'[{self._epoch(runner, mode)}]'.rjust(width)}{position}"

    def _epoch(self, runner: Any, mode: str) -> int:
        return runner.epoch + 1 if mode == "train" else runner.epoch

    def _lr_parts(self, lrs: dict[str, float]) -> list[str]:
        if len(lrs) <= _MAX_LRS_SHOWN:
            return [f"{name}: {value:.{self.num_digits}e}" for name, value in lrs.items()]
        low, high = min(lrs.values()), max(lrs.values())
        return [f"lr of {len(lrs)} groups: {low:.{self.num_digits}e} to {high:.{self.num_digits}e}"]

    def _value_parts(self, values: dict[str, Any], labels: dict[str, str]) -> list[str]:
        """Latest values first; then, under one label each, those that are statistics."""
        by_label: dict[str, list[str]] = {"": []}
        for name, value in values.items():
            by_label.setdefault(labels.get(name, ""), []).append(f"{name}: {self._text(value)}")
        parts = by_label.pop("")
        for label, items in by_label.items():
            parts += [f"[{label}]", *items]
        return parts

    def _text(self, value: Any) -> str:
        if isinstance(value, float):
            tiny = 0 < abs(value) < 10.0**-self.num_digits
            return f"{value:.{self.num_digits}{'e' if tiny else 'f'}}"
        is_array = hasattr(value, "ndim") and value.ndim > 0
        return f"\n{value}\n" if is_array else str(value)


def _num_batches(runner: Any, mode: str) -> int | str:
    """Number of batches of a whole epoch of ``mode``, or ``?`` where it has no end."""
    loop: Any = getattr(runner, f"{mode}_loop", None)
    total = getattr(loop, "total_length", None)
    total = total() if callable(total) else total
    if isinstance(total, int):
        return total
    if callable(getattr(runner, "num_batches", None)):
        return runner.num_batches(mode)
    try:
        return len(getattr(runner, f"{mode}_dataloader"))
    except TypeError:
        return "?"


def _check_custom(entry: dict[str, Any], where: str, by_epoch: bool) -> str:
    """Return the name of the value that a ``custom_cfg`` entry defines, after checking it."""
    for key in ("data_src", "method_name"):
        if not isinstance(entry.get(key), str):
            raise ValueError(f"{where} needs {key!r} as a str; it has {entry}")
    methods = HistoryBuffer._statistics_methods
    method = entry["method_name"]
    if method not in methods:
        close = difflib.get_close_matches(method, methods, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "; register others by HistoryBuffer.register_statistics"
        raise ValueError(f"{where}: no statistic {method!r}; there are {', '.join(sorted(methods))}{hint}")
    window = entry.get("window_size", 1)
    is_size = isinstance(window, int) and not isinstance(window, bool) and window >= 1
    if not is_size and window not in ("epoch", "global", None):
        raise ValueError(f"{where}: window_size must be an int of at least 1, 'epoch' or 'global', got {window!r}")
    if window == "epoch" and not by_epoch:
        raise ValueError(f"{where}: window_size='epoch' needs by_epoch=True; give a number of updates or 'global'")
    arguments = {key: value for key, value in entry.items() if key not in ("data_src", "log_name", "method_name")}
    try:
        inspect.signature(methods[method]).bind(None, **arguments)
    except TypeError as error:
        raise ValueError(f"{where}: the statistic {method!r} does not take {list(arguments)}: {error}") from None
    return entry.get("log_name", entry["data_src"])

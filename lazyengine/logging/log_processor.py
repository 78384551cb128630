"""Turns the scalars of the message hub into the values and the line of a log event."""

from __future__ import annotations

import datetime
import functools
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import UsageValueError
from .message_hub import HistoryBuffer, is_window
from .terminal import IS_LR

_TIMES = ("time", "data_time")


class LogProcessor:
    """Smooths the scalars of one mode and formats them: those that were recorded since the line of an earlier step.

    Names that match ``mean_pattern`` are shown as the mean of the last ``window_size`` values, all others as they are
    now; the line says which is which. From when on a value is finite again (after an update that was skipped), those
    that were not are left out of the mean, and the line says how many. ``custom_cfg`` adds or replaces values::

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
        ValueError: When a number is out of range or an entry of ``custom_cfg`` makes no sense.
        KeyError: When a statistic is not known.
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
        if not is_window(window_size):
            raise UsageValueError(f"LogProcessor: window_size must be an int of at least 1, got {window_size!r}")
        if not isinstance(num_digits, int) or not 0 <= num_digits <= 17:
            raise UsageValueError(f"LogProcessor: num_digits must be an int from 0 to 17, got {num_digits!r}")
        self.window_size = window_size
        self.by_epoch = by_epoch
        self.num_digits = num_digits
        self.log_with_hierarchy = log_with_hierarchy
        self.mean_pattern = re.compile(mean_pattern)
        self.custom_cfg = [dict(entry) for entry in custom_cfg or ()]
        names = set()
        for i, entry in enumerate(self.custom_cfg):
            where = f"LogProcessor: custom_cfg[{i}]"
            _check_custom(entry, where, by_epoch)
            name = entry.setdefault("log_name", entry["data_src"])
            if name in names:
                raise UsageValueError(f"{where} defines {name!r} a second time; give it a log_name")
            names.add(name)

    def get_log_after_iter(self, runner: Any, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Return the values and the line of an iteration that has just ended.

        Args:
            runner: The runner; its ``epoch`` and ``iter`` do not count this iteration yet.
            batch_idx: Position of the batch in its epoch, from 0.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The values (with ``iter``, ``epoch`` where it has a meaning, ``memory`` in MB on a GPU) and the line.
        """
        values, labels = self._collect(runner, batch_idx + 1, mode, after_iter=True)
        lrs = {name: value for name, value in values.items() if _matches(IS_LR, name)}
        # Metrics still are those of the last evaluation. A narrow terminal cuts the end: losses first, times last.
        shown = [name for name in values if name not in lrs] if mode == "train" else [n for n in _TIMES if n in values]
        shown.sort(key=lambda name: (name in _TIMES, "loss" not in name))
        parts = [self._progress(runner, batch_idx + 1, mode), *self._lr_parts(lrs)]
        eta = runner.message_hub.get_info("eta")
        if eta is not None and "time" in values:
            parts.append(f"eta: {datetime.timedelta(seconds=int(max(eta, 0)))}")
        extra: dict[str, Any] = {"iter": runner.num_iters_completed}
        if self.by_epoch and mode != "test":
            extra["epoch"] = runner.epoch + (mode == "train")
        if torch.cuda.is_initialized():
            extra["memory"] = round(torch.cuda.max_memory_allocated() / 2**20)
            parts.append(f"memory: {extra['memory']}")
        parts += self._value_parts({name: values[name] for name in shown}, labels)
        return self._named(values, mode) | extra, "  ".join(parts)

    def get_log_after_epoch(
        self, runner: Any, num_batches: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Return the values and the line of a validation or a test that has just ended.

        Metrics are those of this evaluation, never averaged over earlier ones; ``time`` and ``data_time`` are means
        over its batches.

        Args:
            runner: The runner; its ``epoch`` counts the epochs completed.
            num_batches: Number of batches of the evaluation.
            mode: ``"val"`` or ``"test"``.
            with_non_scalar: Whether runtime information of the mode, such as a confusion matrix, is returned too.
        """
        values, labels = self._collect(runner, num_batches, mode, after_iter=False)
        info = runner.message_hub.runtime_info
        others = {key[len(mode) + 1 :]: value for key, value in info.items() if key.startswith(mode + "/")}
        times = {name: values.pop(name) for name in ("data_time", "time") if name in values}
        parts = [self._progress(runner, num_batches, mode), *self._value_parts(values | others | times, labels)]
        return self._named(values | (others if with_non_scalar else {}) | times, mode), "  ".join(parts)

    # ---------------------------------------------------------------- values
    def _collect(
        self, runner: Any, num_batches: int, mode: str, after_iter: bool
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return values by name without the mode, and what was done to those that are not the latest value."""
        if mode not in ("train", "val", "test"):
            raise UsageValueError(f"LogProcessor: mode must be one of train, val, test, got {mode!r}")
        scalars: dict[str, HistoryBuffer] = runner.message_hub.log_scalars
        prefix = mode + "/"
        buffers = {key.removeprefix(prefix): b for key, b in scalars.items() if key.startswith(prefix) and len(b)}
        if mode == "train" or not after_iter:  # a line of its own: it has nothing that an earlier one had
            step = runner.num_iters_completed
            buffers = {name: buffer for name, buffer in buffers.items() if buffer.is_new_at(step)}
        values: dict[str, Any] = {}
        labels: dict[str, str] = {}
        for name, buffer in buffers.items():
            if after_iter and _matches(self.mean_pattern, name):
                values[name], num_left_out = _recent_mean(buffer, self.window_size)
                left_out = f", {num_left_out} not finite left out" if num_left_out else ""
                labels[name] = f"mean of {self.window_size}{left_out}"
            elif not after_iter and name in _TIMES:
                values[name], labels[name] = buffer.mean(max(num_batches, 1)), "mean of the epoch"
            else:
                values[name] = buffer.current()
        for entry in self.custom_cfg:
            if entry["data_src"] in buffers:
                name, window, arguments = entry["log_name"], entry.get("window_size"), _arguments(entry)
                if isinstance(window, str):
                    arguments["window_size"] = num_batches if window == "epoch" else runner.iter + 1
                values[name] = buffers[entry["data_src"]].statistics(entry["method_name"], **arguments)
                span = {"epoch": " of the epoch", "global": " of all", None: ""}.get(window, f" of {window}")
                labels[name] = entry["method_name"] + span
        return values, labels

    def _named(self, values: dict[str, Any], mode: str) -> dict[str, Any]:
        return {f"{mode}/{name}": value for name, value in values.items()} if self.log_with_hierarchy else values

    # ---------------------------------------------------------------- text
    def _progress(self, runner: Any, done: int, mode: str) -> str:
        if mode == "train" and not self.by_epoch:
            position, total = str(runner.num_iters_completed), str(runner.max_iters or "?")
            return f"Iter(train) [{position.rjust(len(total))}/{total}]"
        total = str(runner.num_batches(mode) or "?")
        position = f"[{str(done).rjust(len(total))}/{total}]"
        if not self.by_epoch or mode == "test":
            return f"{'Epoch' if self.by_epoch else 'Iter'}({mode}) {position}"
        epoch, max_epochs = f"[{runner.epoch + (mode == 'train')}]", runner.max_epochs
        return f"Epoch({mode}){epoch.rjust(len(str(max_epochs)) + 3 if max_epochs else 0)}{position}"

    def _lr_parts(self, lrs: dict[str, float]) -> list[str]:
        if len(lrs) <= 4:  # more would fill the line
            return [f"{name}: {value:.{self.num_digits}e}" for name, value in lrs.items()]
        low, high = min(lrs.values()), max(lrs.values())
        return [f"lr of {len(lrs)} groups: {low:.{self.num_digits}e} to {high:.{self.num_digits}e}"]

    def _value_parts(self, values: dict[str, Any], labels: dict[str, str]) -> list[str]:
        """Return latest values first; then, under one label each, those that are statistics."""
        by_label: dict[str, list[str]] = {"": []}
        for name, value in values.items():
            by_label.setdefault(labels.get(name, ""), []).append(f"{name}: {self._text(value)}")
        return by_label.pop("") + [part for label, items in by_label.items() for part in (f"[{label}]", *items)]

    def _text(self, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.{self.num_digits}{'e' if 0 < abs(value) < 10.0**-self.num_digits else 'f'}}"
        return f"\n{value}\n" if getattr(value, "ndim", 0) > 0 else str(value)


def _recent_mean(buffer: HistoryBuffer, window_size: int) -> tuple[float, int]:
    """Return the mean of the latest values, and how many of them were left out as not finite."""
    mean = buffer.mean(window_size)
    if math.isfinite(mean) or not math.isfinite(buffer.current()):
        return mean, 0
    values, counts = (each[-window_size:] for each in buffer.data)
    is_finite = np.isfinite(values)
    count = counts[is_finite].sum()
    return float(values[is_finite].sum() / count) if count else mean, int((~is_finite).sum())


@functools.cache
def _matches(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.search(name) is not None


def _arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what an entry of ``custom_cfg`` passes to the statistic."""
    return {key: value for key, value in entry.items() if key not in ("data_src", "log_name", "method_name")}


def _check_custom(entry: dict[str, Any], where: str, by_epoch: bool) -> None:
    for key in ("data_src", "method_name"):
        if not isinstance(entry.get(key), str):
            raise UsageValueError(f"{where} needs {key!r} as a str; it has {entry}")
    window, arguments = entry.get("window_size", 1), _arguments(entry)
    if not is_window(window) and window not in ("epoch", "global", None):
        raise UsageValueError(f"{where}: window_size must be an int of at least 1, 'epoch' or 'global', got {window!r}")
    if window == "epoch" and not by_epoch:
        raise UsageValueError(f"{where}: window_size='epoch' needs by_epoch=True; give a number of updates or 'global'")
    try:
        inspect.signature(HistoryBuffer.get_statistic(entry["method_name"])).bind(None, **arguments)
    except TypeError as error:
        raise UsageValueError(f"{where}: the statistic does not take {list(arguments)}: {error}") from None

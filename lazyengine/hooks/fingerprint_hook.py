"""Records hashes of batches, weights and updates, by which `lazyengine bisect` finds where two runs part."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import dist
from ..errors import UsageValueError
from ..fileio import QueuedFile
from ..logging import print_log
from ..nesting import iter_leaves
from .hook import Hook, Priority, Runner

FINGERPRINTS = "fingerprints"
"""How the names of the files begin, one for each rank in the folder of a start."""
_PLAIN = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8)
_CHUNK = 1 << 16  # words of 8 bytes
_SMALL = 1 << 13  # tensors of fewer elements are copied together: an operation costs more than their bytes


class FingerprintHook(Hook):
    """Record a hash of the batch, of the weights before and of the weights after every so many iterations.

    They are lines ``{"iter", "batch", "weights", "update"}`` in ``fingerprints_rank<R>.jsonl`` of the start's folder,
    written by each rank of what it has; ``update`` is the hash of the weights behind the iteration. Buffers count as
    weights. A tensor is hashed where it lies, and the host does not wait for an accelerator.

    Args:
        interval: Iterations between two records: those whose number, counted from 0, it divides.

    Raises:
        ValueError: The interval is below 1.
    """

    priority = Priority.VERY_LOW

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise UsageValueError(f"FingerprintHook: interval={interval}: expected at least 1 iteration.")
        self.interval = interval
        self._file: QueuedFile | None = None
        self._begun: tuple[int, Any, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin a file."""
        path = os.path.join(runner.log_dir, f"{FINGERPRINTS}_rank{dist.get_rank()}.jsonl")
        self._file = QueuedFile(path, 1.0, b"\n", print_log)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Hash the batch and the weights."""
        if runner.iter % self.interval == 0:
            batch = hash_tensors([leaf for _, leaf in iter_leaves(data_batch)])
            self._begun = runner.iter, batch, _hash_weights(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Hash the weights again, and record."""
        if self._begun is None or self._file is None:
            return
        (iteration, batch, weights), self._begun = self._begun, None
        update = _hash_weights(runner)
        self._file.add(lambda: _line(iter=iteration, batch=batch, weights=weights, update=update))

    def close(self) -> None:
        """Write what is queued."""
        if self._file is not None:
            self._file.close()


def _hash_weights(runner: Runner) -> list[Any]:
    return hash_tensors([*runner.model.parameters(), *runner.model.buffers()])


def _line(**values: Any) -> bytes:
    texts = {name: value if isinstance(value, int) else _text_of(value) for name, value in values.items()}
    return json.dumps(texts).encode() + b"\n"


def _text_of(sums: list[Any]) -> str:
    return hashlib.blake2b(repr([int(value) % (1 << 64) for value in sums]).encode(), digest_size=8).hexdigest()


def hash_tensors(leaves: Iterable[Any]) -> list[Any]:
    """Return numbers that change with any bit of the tensors and any other value among the leaves, and with order.

    Tensors of an accelerator give tensors there, shape `()`, which are not read yet.
    """
    small: dict[Any, list[Tensor]] = {}
    sums: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            sums.append(zlib.crc32(repr(leaf).encode(errors="backslashreplace")))
            continue
        flat: Tensor = (leaf.to_local() if hasattr(leaf, "to_local") else leaf).detach().reshape(-1)  # type: ignore
        if flat.numel() < _SMALL:
            small.setdefault((flat.dtype, flat.device), []).append(flat)
        else:
            sums.append(_sum_of(flat))
    return sums + [_sum_of(torch.cat(group)) for group in small.values()]


def _sum_of(flat: Tensor) -> Any:
    """Return the sum of all words, each times an odd number that its place has, modulo 2**64."""
    size = flat.numel() * flat.element_size()
    if flat.is_cpu and size <= _CHUNK * 8 and flat.dtype in _PLAIN:  # the same as below, in fewer operations
        words = np.frombuffer(flat.numpy().tobytes() + bytes(-size % 8), np.int64)
        return int(np.dot(words, _factors_of_host()[: len(words)])) % (1 << 64)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    flat = flat.contiguous().view(torch.uint8)
    if flat.storage_offset() % 8 or size % 8:  # words lie at multiples of 8 bytes
        flat = torch.nn.functional.pad(flat, (0, -size % 8)).clone()
    total: Any = 0
    for words in flat.view(torch.int64).split(_CHUNK):
        if flat.is_cpu:
            value = int(np.dot(words.numpy(), _factors_of_host()[: len(words)]))  # int64 wraps around
            total = (total * 0x9E3779B97F4A7C15 + value) % (1 << 64)
        else:
            total = total * -7046029254386353131 + (words * _factors(str(flat.device))[: len(words)]).sum()
    return total


@cache
def _factors_of_host() -> Any:
    return _factors("cpu").numpy()


@cache
def _factors(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (_CHUNK,), generator=generator).mul_(2).add_(1).to(device)

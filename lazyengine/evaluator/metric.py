"""The base classes of metrics: results of a batch are kept, collected from all ranks, and turned into numbers once."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lazyengine.dist import broadcast_object_list, collect_results, is_main_process
from lazyengine.logging import print_log

from .samples import to_cpu


class BaseMetric(ABC):
    """A metric that keeps one result for each sample.

    A subclass appends to ``self.results`` in `process`, one result **for each sample** (results are cut to the size of
    the dataset, because samplers repeat some samples to give every rank the same number), and computes in
    `compute_metrics`. For results that are tensors see `TensorMetric`.

    Args:
        collect_device: ``"cpu"`` collects through files, ``"gpu"`` sends; see `lazyengine.dist.collect_results`.
        prefix: Put before the names, ``prefix/name``; None for the class's ``default_prefix``, "" for none.
        collect_dir: Folder for ``collect_device="cpu"`` that all ranks see; None chooses one.

    Raises:
        ValueError: ``collect_device`` is unknown, or ``collect_dir`` is given where it has no use.
    """

    default_prefix: ClassVar[str | None] = None
    _needs_samples: ClassVar[bool] = False

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None, collect_dir: str | None = None) -> None:
        if collect_device not in ("cpu", "gpu"):
            raise ValueError(f"{type(self).__name__}: collect_device must be 'cpu' or 'gpu', got {collect_device!r}")
        if collect_dir is not None and collect_device != "cpu":
            raise ValueError(f"{type(self).__name__}: collect_dir={collect_dir!r} has no use with collect_device='gpu'")
        self.collect_device, self.collect_dir = collect_device, collect_dir
        self.prefix = self.default_prefix if prefix is None else prefix
        self.results: list[Any] = []
        self._dataset_meta: dict[str, Any] | None = None

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """What the dataset says of itself (``classes`` …), set by the `Evaluator`."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any] | None) -> None:
        self._dataset_meta = dataset_meta

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values with their prefix, where known beforehand; lets duplicates be found early."""
        return ()

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Add the results of one batch to ``self.results``.

        Args:
            data_batch: The batch as the loader gave it.
            data_samples: What the model's predict mode returned; see `lazyengine.evaluator.samples`.
        """

    @abstractmethod
    def compute_metrics(self, results: Any) -> Mapping[str, Any]:
        """Compute the values of the whole dataset; called on the main process only.

        Args:
            results: The results of all ranks in the dataset's order, on the CPU.

        Returns:
            Values by name, without prefix.
        """

    def evaluate(self, size: int) -> dict[str, Any]:
        """Collect the results and compute the metric. Collective: every rank must call.

        Args:
            size: Number of samples in the dataset; what samplers added is cut off.

        Returns:
            Values by name with prefix, the same on every rank.

        Raises:
            RuntimeError: `compute_metrics` failed on the main process (there the error itself is raised).
        """
        if not self.results:
            print_log(
                f"{type(self).__name__} has no results on this rank: process() kept nothing or was not called",
                logger="current",
                level=logging.WARNING,
            )
        try:
            return self._on_main_process(self._collect(size))
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget all results."""
        self.results.clear()

    def with_prefix(self, name: str) -> str:
        """Return a value's name with the metric's prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def _collect(self, size: int) -> Any:
        folder = {"tmpdir": self.collect_dir} if self.collect_device == "cpu" else {}
        return to_cpu(collect_results(self.results, size, self.collect_device, **folder))

    def _on_main_process(self, results: Any) -> dict[str, Any]:
        """Compute on the main process and tell the others; an error there is an error everywhere, not a deadlock."""
        answer: list[Any] = [None, None]
        failure = None
        if is_main_process():
            try:
                if self._needs_samples and len(results) == 0:
                    raise ValueError(f"{type(self).__name__} has no samples to compute from, on any rank")
                values = self.compute_metrics(results)
                answer[0] = {self.with_prefix(name): to_cpu(value) for name, value in values.items()}
            except Exception as error:
                failure = error
                answer[1] = f"{type(error).__name__}: {error}"
        broadcast_object_list(answer)
        if failure is not None:
            failure.add_note(f"while computing the metric {type(self).__name__}")
            raise failure
        if answer[1] is not None:
            raise RuntimeError(
                f"the metric {type(self).__name__} could not be computed on the main process: {answer[1]}"
            )
        return answer[0]


class TensorMetric(BaseMetric):
    """A metric whose results are tensors with a row for each sample.

    `process` appends tensors ``(N, ...)`` of any length, all of one dtype and shape of a row, on any device. They stay
    where they are, without a synchronization, until `evaluate` joins them and collects them as tensors;
    ``compute_metrics(results)`` is given one tensor ``(size, ...)``.
    """

    _needs_samples = True
    results: list[Tensor]

    def _collect(self, size: int) -> Any:
        folder = {"tmpdir": self.collect_dir} if self.collect_device == "cpu" else {}
        part = torch.cat(self.results) if self.results else []  # an empty list fits to the tensors of other ranks
        return collect_results(part, size, self.collect_device, **folder)

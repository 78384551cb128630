"""The base classes of metrics: results of a batch are kept, collected from all ranks, and turned into numbers once."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Literal, TypedDict

import torch

from lazyengine import dist
from lazyengine.errors import UsageRuntimeError, UsageTypeError, UsageValueError
from lazyengine.logging import print_log
from lazyengine.nesting import map_leaves
from lazyengine.text import short

from .samples import to_cpu, to_number

Number = int | Literal["any"]


class Options(TypedDict, total=False):
    """What every metric takes; see `BaseMetric`."""

    collect_device: str
    prefix: str | None
    collect_dir: str | None
    results_per_sample: Number | None


class BaseMetric(ABC):
    """A metric that keeps one result for each sample.

    A subclass appends to ``self.results`` in `process`, one result **for each sample** (a list, where a sample has
    several), and computes in `compute_metrics`. By this number the results of samples that samplers repeat, to give
    every rank as many, are found and left out; more results than that are an error. A subclass whose samples all have
    k results, one after the other, sets ``results_per_sample = k``. With ``"any"`` all results are used, in no
    particular order, those of repeated samples too. For results that are tensors see `TensorMetric`.

    Args:
        collect_device: ``"cpu"`` collects through files, ``"gpu"`` sends; see `lazyengine.dist.collect_results`.
        prefix: Put before the names, ``prefix/name``; None for the class's ``default_prefix``, "" for none.
        collect_dir: Folder for ``collect_device="cpu"`` that all ranks see; None chooses one.
        results_per_sample: See above; None for the class's.

    Attributes:
        results: What `process` kept on this rank.
        dataset_meta: What the dataset says of itself (``classes`` …); None where it says nothing.
        files: Paths of what it writes in each evaluation, of which two metrics must not have the same.

    Raises:
        UsageValueError: An argument is not accepted, or ``collect_dir`` is given where it has no use.
    """

    default_prefix: ClassVar[str | None] = None
    results_per_sample: Number = 1
    _needs_results: ClassVar[bool] = False
    names: Sequence[str] = ()  # of the values, with prefix, where known beforehand: lets duplicates be found early
    files: Sequence[str | os.PathLike[str]] = ()

    def __init__(
        self,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
        results_per_sample: Number | None = None,
    ) -> None:
        name = type(self).__name__
        if collect_device not in ("cpu", "gpu"):
            raise UsageValueError(f"{name}: collect_device must be 'cpu' or 'gpu', got {collect_device!r}")
        if collect_dir is not None and collect_device != "cpu":
            raise UsageValueError(f"{name}: collect_dir={collect_dir!r} has no use with collect_device='gpu'")
        number = self.results_per_sample if results_per_sample is None else results_per_sample
        if number != "any" and (type(number) is not int or number < 1):
            raise UsageValueError(f"{name}: results_per_sample must be at least 1, or 'any', got {number!r}")
        self.collect_device, self.collect_dir, self.results_per_sample = collect_device, collect_dir, number
        self.prefix = self.default_prefix if prefix is None else prefix
        self.results: list[Any] = []
        self.dataset_meta: dict[str, Any] | None = None  # set by the evaluator

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Add the results of one batch to ``self.results``.

        Args:
            data_batch: The batch as the loader gave it.
            data_samples: What the model's predict mode returned; see `lazyengine.evaluator.samples`.
        """

    @abstractmethod
    def compute_metrics(self, results: Any) -> Mapping[str, Any]:
        """Compute the values of the whole dataset; called on the main process only, as if it were the only one.

        So metrics of other libraries, which would wait for the other ranks, compute from what they are given here.

        Args:
            results: The results of all ranks in the dataset's order, on the CPU.

        Returns:
            Values by name, without prefix.
        """

    def evaluate(self, size: int | None) -> dict[str, Any]:
        """Collect the results and compute the metric. Collective: every rank must call.

        Args:
            size: Number of samples in the dataset, by which samples that samplers repeat are left out; None where
                nobody knows it, then all results are used.

        Returns:
            Values by name with prefix, the same on every rank. Values of one element are Python numbers.

        Raises:
            UsageRuntimeError: There are more results than samples, beyond those of repeated ones (on every rank).
            RuntimeError: `compute_metrics` failed on the main process (there the error itself is raised).
        """
        try:
            return self._on_main_process(self._collect(size))
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget all results, and what metrics of torchmetrics that it holds have seen."""
        self.results.clear()
        for value in vars(self).values():
            for held in value.values() if isinstance(value, dict) else [value]:
                parts: Any = held.modules() if isinstance(held, torch.nn.Module) else ()
                for part in parts:
                    if hasattr(part, "update_count") and hasattr(part, "reset"):
                        part.reset()

    def with_prefix(self, name: str) -> str:
        """Return a value's name with the metric's prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def _collect(self, size: int | None) -> Any:
        return to_cpu(self._gather(self.results, size))

    def _gather(self, part: list[Any] | torch.Tensor, size: int | None) -> Any:
        """Return on the main process a list or tensor of all ranks' results, without those of repeated samples."""
        if len(part) == 0:
            self._warn("has no results on this rank: process() kept nothing or was not called")
        part = part if dist.is_first_of_data_rank() else part[:0]  # others have the same
        everyone = dist.all_gather_object(len(part) if dist.is_first_of_data_rank() else None)
        lengths = [length for length in everyone if length is not None]
        if self._needs_results and not any(lengths):
            raise UsageValueError(f"{type(self).__name__} has no samples to compute from, on any rank")
        self._check_lengths(lengths, size)
        if len(lengths) == 1:
            return part
        number = 1 if self.results_per_sample == "any" else self.results_per_sample
        limit = sum(lengths) if size is None or self.results_per_sample == "any" else size
        if number == 1:
            return dist.collect_results(part, limit, self.collect_device, self.collect_dir)
        if isinstance(part, torch.Tensor):  # collected by samples, each with all its results
            by_sample = part.unflatten(0, (-1, number))
        else:
            by_sample = [part[i : i + number] for i in range(0, len(part), number)]
        collected = dist.collect_results(by_sample, limit, self.collect_device, self.collect_dir)
        return collected.flatten(0, 1) if isinstance(collected, torch.Tensor) else list(chain(*collected or ()))

    def _check_lengths(self, lengths: list[int], size: int | None) -> None:
        """Refuse numbers of results of which it is not known which belong to repeated samples."""
        number = self.results_per_sample
        if number == "any":
            if size is not None and size % len(lengths):
                self._warn("with 'any' counts twice what a sampler repeats; DefaultSampler(round_up=False) does not")
            return
        fits = all(length % number == 0 for length in lengths)
        if size is not None and sum(lengths) > size * number:  # then a sampler has made several ranks equal
            fits = len(lengths) > 1 and set(lengths) == {math.ceil(size / len(lengths)) * number}
        if not fits:
            ranks = "1 process" if len(lengths) == 1 else f"{len(lengths)} processes ({lengths})"
            raise UsageRuntimeError(
                f"{type(self).__name__} kept {sum(lengths)} results on {ranks} for {size} samples, with "
                f"results_per_sample={number}. Keep one result for each sample (a list, if it has several), or set "
                "results_per_sample (of the class, or as an argument) to the number that every sample has, or to "
                "'any', which uses all of them; several processes then need a sampler that repeats no samples, "
                "DefaultSampler(round_up=False)."
            )

    def _warn(self, text: str) -> None:
        print_log(f"{type(self).__name__} {text}", "current", logging.WARNING)

    def _on_main_process(self, results: Any) -> dict[str, Any]:
        """Compute on the main process and send the values; an error there is an error everywhere, not a deadlock."""
        values: dict[str, Any] = {}
        failure = None
        if dist.is_main_process():
            try:
                self._check_foreign_states(results)
                with _alone():
                    computed = self.compute_metrics(results)
                    if not isinstance(computed, Mapping):
                        what = f"compute_metrics returned {short(computed)}; return values by their names"
                        raise UsageTypeError(f"{type(self).__name__}.{what}: {{'name': value}}")
                    for name, value in computed.items():
                        values[self.with_prefix(name)] = to_cpu(map_leaves(to_number, value))
            except Exception as error:
                error.add_note(f"while computing the metric {type(self).__name__}")
                failure = error
        answer: list[Any] = [values, failure and f"{type(failure).__name__}: {failure}"]
        dist.broadcast_object_list(answer)
        if failure is not None:
            raise failure
        if answer[1] is not None:
            kind = type(self).__name__
            raise RuntimeError(f"the metric {kind} could not be computed on the main process: {answer[1]}")
        return answer[0]

    def _check_foreign_states(self, results: Any) -> None:
        """Refuse a metric of torchmetrics that holds what this rank processed, and is all that there is."""
        if dist.get_world_size() == 1 or len(results):
            return
        modules = {name: value for name, value in vars(self).items() if isinstance(value, torch.nn.Module)}
        for name, module in modules.items():
            if any(getattr(part, "update_count", 0) for part in module.modules()):
                raise UsageRuntimeError(
                    f"{type(self).__name__}.process updates {name} ({type(module).__name__}) on each rank, and nothing "
                    "is in results: computed on the main process, it would be of that rank's samples alone. Keep "
                    "results and update it in compute_metrics, or use TorchMetric."
                )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let the main process compute without the others, which do not: libraries ask torch whether there are any."""
    asked = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_initialized = asked


class TensorMetric(BaseMetric):
    """A metric whose results are tensors with a row for each sample.

    `process` appends tensors ``(N, ...)`` of any length, all of one dtype and shape of a row, on any device. They stay
    where they are, without a synchronization, until `evaluate` joins them and collects them as tensors;
    ``compute_metrics(results)`` is given one tensor ``(size, ...)``. A row is a result.
    """

    _needs_results = True

    def _collect(self, size: int | None) -> Any:
        # An empty list fits to the tensors of other ranks.
        return self._gather(torch.cat(self.results) if self.results else [], size)

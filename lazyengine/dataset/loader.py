"""The data loader: torch's, with batches that are a function of (seed, epoch, position, rank)."""

import atexit
import contextlib
import copy
import functools
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from ..dist.launch import STOP_SIGNALS
from ..seeding import DATA_STREAM, derive_seed
from .batches import BatchReader, BatchSource
from .collate import default_collate
from .samplers import DefaultSampler
from .streams import SeededStreams

_LOGGER = logging.getLogger(__name__)


class DataLoader(TorchDataLoader[Any]):
    """torch's `DataLoader`, whose batches do not depend on who reads them.

    Before a batch is read and collated, python's, numpy's and torch's random streams are seeded from (seed, epoch,
    position of the batch, rank). So batches are equal for any `num_workers` and start method, differ between epochs and
    can be reached by skipping indices alone. Reading one in the main process leaves torch's and numpy's streams as they
    were (python's goes on from the batch's). Call `set_epoch` before each epoch (the runner does).

    Args:
        dataset: Map-style or iterable. Iterable datasets are passed through: only in the main process are their batches
            seeded, and only with `state_dict`/`load_state_dict` and `num_workers=0` can they be resumed exactly.
        batch_size: Samples in a batch on this rank; None to get single samples, not collated.
        sampler: Iterable of indices. The default is a `DefaultSampler`, which shares the samples out among the ranks.
        shuffle: For the default sampler.
        batch_sampler: Iterable of index lists, instead of `batch_size`, `sampler`, `shuffle` and `drop_last`.
        num_workers: Processes that read batches; 0 reads in the main process.
        collate_fn: Makes a batch of a list of samples; it runs where the samples are read.
        pin_memory: Copy batches to pinned memory; ignored where there is no accelerator.
        drop_last: Leave out an incomplete last batch.
        timeout: Seconds to wait for a batch of the workers; 0 waits for ever.
        worker_init_fn: Called in each worker with its number when it starts.
        multiprocessing_context: How workers start: `"fork"`, `"spawn"` or `"forkserver"`.
        generator: Source of torch's base seed of the workers; the default is the loader's own.
        prefetch_factor: Batches read ahead by each worker.
        persistent_workers: Keep the workers between epochs.
        in_order: False returns batches as they are ready, which is not reproducible.
        seed: The run's seed; the runner sets it. None takes one that all ranks agree on, drawn from numpy's global
            stream (collective: every rank must iterate).
        seed_batches: False leaves the random streams alone: a few microseconds a batch less, and no exact resume.

    `timeout`, `multiprocessing_context`, `prefetch_factor` and `persistent_workers` do nothing with `num_workers=0`.

    Raises:
        ValueError: The dataset is empty, `drop_last` leaves no batch, or options contradict one another.
        TypeError: `dataset` or `collate_fn` is not what it must be.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        *,
        sampler: Iterable[Any] | None = None,
        shuffle: bool = False,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] = default_collate,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        in_order: bool = True,
        seed: int | None = None,
        seed_batches: bool = True,
    ) -> None:
        is_iterable = isinstance(dataset, IterableDataset)
        if not callable(collate_fn):
            raise TypeError(f"collate_fn: got {collate_fn!r}; accepted: a callable that takes a list of samples")
        if not is_iterable and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(
                f"dataset: got {type(dataset).__name__}; accepted: an object with `__getitem__` and `__len__`, or a "
                "torch.utils.data.IterableDataset"
            )
        if not is_iterable and hasattr(dataset, "full_init"):
            dataset.full_init()  # here once, rather than in every worker
        if sampler is not None and shuffle:
            raise ValueError(f"shuffle=True and sampler={type(sampler).__name__}: give one of them")
        if sampler is None and batch_sampler is None and not is_iterable:
            sampler = DefaultSampler(dataset, shuffle=shuffle)
        has_workers = num_workers > 0
        own_generator = torch.Generator() if generator is None else None
        super().__init__(
            dataset,
            batch_size,
            sampler=sampler,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=None if batch_size is None and collate_fn is default_collate else collate_fn,
            pin_memory=pin_memory,
            drop_last=drop_last,
            timeout=timeout if has_workers else 0,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=multiprocessing_context if has_workers else None,
            generator=own_generator or generator,
            prefetch_factor=prefetch_factor if has_workers else None,
            persistent_workers=persistent_workers and has_workers,
            in_order=in_order,
        )
        self.seed_batches = seed_batches
        self._own_generator = own_generator
        self._is_iterable = is_iterable
        self._reader = BatchReader(dataset, self.collate_fn)
        self._batches = BatchSource(
            self.sampler, self._torch_index_sampler, self.batch_size, self.drop_last, seed_batches
        )
        self._follows_seed = self._batches.is_own and self.sampler.seed is None  # type: ignore[union-attr]
        self.seed = seed
        self._num_batches_to_skip = 0
        self._check_num_batches()

    # ------------------------------------------------------------------ what the runner sets
    def set_seed(self, seed: int) -> None:
        """Set the run's seed; a sampler of ours without a seed of its own follows it."""
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, for the batches' seeds and for a sampler that knows epochs."""
        self._batches.epoch = epoch
        for sampler in (self.sampler, self.batch_sampler, getattr(self.batch_sampler, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)  # type: ignore[union-attr]

    def set_start(self, num_batches_to_skip: int) -> None:
        """Leave out the first batches of the next iteration, and of that one only; no data is read for it.

        With an iterable dataset nothing is left out (its own state says where it goes on), but batches are counted so.

        Raises:
            ValueError: The number is negative or greater than that of an epoch.
            RuntimeError: The loader cannot go on exactly; see `exact_resume_reason`.
        """
        try:
            num_batches = len(self)
        except TypeError:
            num_batches = None
        if num_batches_to_skip < 0 or (num_batches is not None and num_batches_to_skip > num_batches):
            raise ValueError(f"set_start({num_batches_to_skip}): an epoch of this loader has {num_batches} batches")
        if self._is_iterable and num_batches_to_skip and (reason := self.exact_resume_reason()):
            raise RuntimeError(reason)
        self._num_batches_to_skip = num_batches_to_skip

    def exact_resume_reason(self) -> str | None:
        """Say why a run cannot be resumed exactly in the middle of this loader's epoch, or None if it can."""
        name = type(self.dataset).__name__
        if not self.seed_batches:
            return "seed_batches=False: the random numbers of a batch depend on the batches before it"
        if not self.in_order:
            return "in_order=False: the order of the batches depends on timing; remove it"
        if self._is_stateful and self.num_workers > 0:
            return f"{name} has a state, which lives in {self.num_workers} worker processes; use num_workers=0"
        if self._is_iterable and not self._is_stateful:
            return (
                f"{name} is iterable and has no `state_dict`/`load_state_dict`, so nobody knows where it stands; "
                "add them (and use num_workers=0), or use a map-style dataset"
            )
        for sampler in (self.sampler, self.batch_sampler, getattr(self.batch_sampler, "sampler", None)):
            if getattr(sampler, "generator", None) is not None:
                return (
                    f"{type(sampler).__name__} draws from a generator of its own, whose state is not saved; "
                    "leave its generator out, or use DefaultSampler"
                )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a dataset that has one (`{}` otherwise); with workers it would be a stale copy."""
        return {"dataset": self.dataset.state_dict()} if self._is_stateful else {}  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the dataset its state back.

        Raises:
            RuntimeError: The loader cannot go on exactly; see `exact_resume_reason`.
        """
        if "dataset" in state_dict:
            if not self._is_stateful:
                raise RuntimeError(f"the saved run's dataset had a state, but {type(self.dataset).__name__} takes none")
            if reason := self.exact_resume_reason():
                raise RuntimeError(reason)
            self.dataset.load_state_dict(state_dict["dataset"])  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ torch's side
    def __iter__(self) -> _BaseDataLoaderIter:
        """Start an epoch; returns torch's iterator."""
        from ..dist import get_rank, sync_random_seed

        if self.seed is None:
            self.seed = sync_random_seed()
        if self._follows_seed:
            self.sampler.seed = self.seed  # type: ignore[union-attr]
        batches = self._batches
        batches.seed, batches.start, self._num_batches_to_skip = self.seed, self._num_batches_to_skip, 0
        if self._own_generator is not None:
            self._own_generator.manual_seed(derive_seed(self.seed, DATA_STREAM, batches.epoch, get_rank()))
        return super().__iter__()

    def __len__(self) -> int:
        """Number of batches of a whole epoch on this rank.

        Raises:
            TypeError: There is none: an `InfiniteSampler`, or an iterable dataset without a length.
        """
        return super().__len__() if self._is_iterable else len(self._batches)

    @property
    def _index_sampler(self) -> Any:
        return self._torch_index_sampler if self._is_iterable else self._batches

    @property
    def _torch_index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    @property
    def _is_stateful(self) -> bool:
        return hasattr(self.dataset, "state_dict") and hasattr(self.dataset, "load_state_dict")

    def _get_iterator(self) -> _BaseDataLoaderIter:
        view = copy.copy(self)  # the loader as torch's iterator sees it; `self.dataset` stays the user's
        pins = bool(self.pin_memory) and torch.accelerator.is_available()
        view.__dict__["pin_memory"] = pins  # torch would warn
        if not self._is_iterable:
            view.__dict__["dataset"] = self._reader
            view.__dict__["collate_fn"] = _as_is
        view.__dict__["worker_init_fn"] = functools.partial(_start_worker, self.worker_init_fn)
        if self.num_workers == 0:
            return _SeededIterableIter(view) if self._is_iterable else _MainProcessIter(view)
        try:
            return _WorkersIter(view)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if "pickle" in str(error).lower():
                error.add_note(
                    f"the dataset {type(self.dataset).__name__}, its pipeline, the collate_fn and the worker_init_fn "
                    "are pickled to start workers: define functions and classes at the top level of a module"
                )
            raise

    def _check_num_batches(self) -> None:
        try:
            num_batches = len(self)
        except TypeError:  # no length, or an InfiniteSampler
            return
        if num_batches > 0:
            return
        if self.drop_last:
            raise ValueError(
                f"drop_last=True leaves no batch: this rank has {len(self.sampler)} samples, "  # type: ignore[arg-type]
                f"fewer than batch_size={self.batch_size}; set drop_last=False or a smaller batch_size"
            )
        raise ValueError(f"the loader of {type(self.dataset).__name__} has no batches: dataset or sampler is empty")

    def check_worker_number_rationality(self) -> None:
        """Log (torch warns, and again at each epoch) when there are more workers than processors."""
        num_processors = os.cpu_count()
        if num_processors and self.num_workers > num_processors:
            _LOGGER.info("num_workers=%d on %d processors: loading may be slower", self.num_workers, num_processors)


_ADVICE = (
    "To find the cause, run with num_workers=0. A killed worker is often out of memory (use fewer, or a smaller "
    "prefetch_factor); a timeout may be slow storage (raise `timeout`); workers started by spawn or forkserver need "
    'the script\'s entry below `if __name__ == "__main__":`'
)


class _WorkersIter(_MultiProcessingDataLoaderIter):
    """torch's iterator over workers, which end with it and at exit; with advice on workers that die or hang."""

    def __init__(self, loader: Any) -> None:
        _advise_wherever_a_worker_dies()
        if (loader.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            resource_tracker.ensure_running()  # its start, which would come within, lets SIGTERM through again
        with _blocked(STOP_SIGNALS):  # as workers are until they ignore them, which may be seconds later
            super().__init__(loader)
        for worker in self._workers:
            worker._popen.terminate = worker._popen.kill  # type: ignore[attr-defined] - they ignore SIGTERM
        atexit.register(_end_workers, weakref.ref(self))  # torch would wait five seconds for each

    def _get_data(self) -> Any:
        try:
            return super()._get_data()
        except (RuntimeError, ConnectionError, EOFError) as error:
            found = error
            if not isinstance(error, RuntimeError):  # it died while it was handing over a tensor
                found = RuntimeError("a DataLoader worker exited unexpectedly")
            _advise(found, f"while waiting for batch {self._num_yielded} of this iteration")
            if found is error:
                raise
            raise found from error


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Hold signals back in this thread, and in the processes that it starts meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _advise(error: Exception, *where: str) -> None:
    for note in (*where, _ADVICE):
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def _advise_wherever_a_worker_dies() -> None:
    """Let torch's handler of SIGCHLD, which raises at whatever the main thread does when a worker dies, say what to do.

    Only the main thread can set a handler; torch sets its own once in a process, and so does this.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    signal_handling._set_SIGCHLD_handler()  # else the first loader would set it after its workers have started
    torch_handler = signal.getsignal(signal.SIGCHLD)
    if not callable(torch_handler) or hasattr(torch_handler, "_gives_advice"):
        return

    def handler(number: int, frame: Any) -> None:
        try:
            torch_handler(number, frame)
        except RuntimeError as error:
            _advise(error)
            raise

    handler._gives_advice = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handler)


class _MainProcessIter(_SingleProcessDataLoaderIter):
    """Reads a map-style dataset in the main process."""

    def __next__(self) -> Any:
        """As torch's; but without a running profiler not in a range for it, which costs as much as a small batch."""
        if torch.autograd._profiler_enabled():  # pyright: ignore[reportPrivateImportUsage]
            return super().__next__()
        batch = self._next_data()
        self._num_yielded += 1
        return batch


class _SeededIterableIter(_SingleProcessDataLoaderIter):
    """Reads an iterable dataset in the main process, its batches seeded like all others."""

    def __init__(self, loader: DataLoader) -> None:
        from ..dist import get_rank

        self._source, self._rank_of_job = loader._batches, get_rank()
        self._start, self._epoch = loader._batches.start, loader._batches.epoch
        self._is_seeded = loader.seed_batches
        super().__init__(loader)

    def _next_data(self) -> Any:
        if not self._is_seeded:
            return super()._next_data()
        position = self._start + self._num_yielded
        with SeededStreams(derive_seed(self._source.seed, DATA_STREAM, self._epoch, position, self._rank_of_job)):
            return super()._next_data()


def _as_is(batch: Any) -> Any:
    return batch


def _end_workers(iterator: "weakref.ref[_WorkersIter]") -> None:
    alive = iterator()
    if alive is not None:
        alive._shutdown_workers()  # type: ignore[attr-defined]


def _start_worker(init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """In a worker: let `get_worker_info().dataset` be the user's dataset, then call the user's function."""
    info: Any = get_worker_info()
    if isinstance(info.dataset, BatchReader):
        object.__setattr__(info, "dataset", info.dataset.dataset)  # torch forbids the plain assignment
    for number in STOP_SIGNALS:  # sent to all processes of a run, which still needs its workers to come to an end
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if init_fn is not None:
        init_fn(worker_id)

"""torch's iterator over worker processes: they end with it and at exit, and their deaths come with advice."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.context
import pickle
import signal
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import get_worker_info

from .. import _torch
from ..dist import STOP_SIGNALS
from .batches import BatchReader

_LOGGER = logging.getLogger(__name__)

BIRTH_LIMIT_S = 5.0
"""How long a forked worker may take to come to life, the first time it is tried; twice as long each time after it."""
_ADVICE = (
    "To find the cause, run with num_workers=0. A killed worker is often out of memory (use fewer, or a smaller "
    "prefetch_factor); a timeout may be slow storage (raise `timeout`); workers started by spawn or forkserver need "
    'the script\'s entry below `if __name__ == "__main__":`, and nothing in the dataset that holds a torch.Generator'
)


class WorkersPass:
    """One pass over a loader of torch's that has workers.

    Args:
        loader: The loader; where its workers stay, no other pass over it may be open.

    Attributes:
        is_open: Whether the workers may still have a batch to hand over.
    """

    def __init__(self, loader: TorchDataLoader[Any]) -> None:
        self.is_open = True
        self._position = 0
        self._iterator: Any = None
        self._workers: list[Any] = []
        if (loader.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            resource_tracker.ensure_running()  # starting it inside the block would unblock SIGTERM
        try:
            with _blocked(STOP_SIGNALS), self._advised():  # workers hold them back until they ignore them
                self._iterator, self._workers = _torch.start_workers(loader)
                _torch.handle_dying_workers(_advise)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if "pickle" in str(error).lower():
                error.add_note(
                    "the dataset, its pipeline, the collate_fn and the worker_init_fn are pickled to start workers: "
                    "define functions and classes at the top level of a module"
                )
            raise
        for worker in self._workers:
            worker.terminate = worker.kill  # they ignore SIGTERM
        _running[self._iterator] = self._workers

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._iterator)
        except StopIteration:
            self.is_open = False
            raise
        except Exception:
            with self._advised():  # not around each batch, which costs 10 us of it
                raise
        self._position += 1
        return batch

    @contextlib.contextmanager
    def _advised(self) -> Iterator[None]:
        """Add advice to the error of a worker that dies or hangs; those that a worker itself reports are left alone."""
        try:
            yield
        except (RuntimeError, ConnectionError, EOFError) as error:
            is_of_torch = "DataLoader" in str(error) or not isinstance(error, RuntimeError)
            if not is_of_torch or str(error).startswith("Caught "):  # the sampler's, or what a worker reports
                raise
            found = error
            if not isinstance(error, RuntimeError):  # it died while it was handing over a tensor
                found = RuntimeError("a DataLoader worker exited unexpectedly")
            _advise(found, f"while waiting for batch {self._position} of this iteration")
            _torch.forget_workers(self._iterator, self._workers)
            if found is error:
                raise
            raise found from error


_running: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


@atexit.register
def _end_workers() -> None:
    """End the workers that are left, which torch would leave to multiprocessing's SIGTERM."""
    for iterator, workers in list(_running.items()):
        _torch.end_workers(iterator, workers)


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Hold signals back in this thread, and in the processes that it starts meanwhile."""
    set_mask: Any = getattr(signal, "pthread_sigmask", None)  # not on every system
    former = set_mask and set_mask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        if set_mask:
            set_mask(signal.SIG_SETMASK, former)


if sys.version_info < (3, 12) and hasattr(multiprocessing.context, "ForkContext"):

    class _Process(multiprocessing.context.ForkProcess):
        """A forked process that is started anew where it does not come to life.

        Before Python 3.12 it waits for ever, ahead of its first line, where another thread held the list of threads at
        the fork: one of gloo does, for a moment, where it frees the last reference to a tensor.
        """

        _birth: Any  # where a new process says that it is alive

        def run(self) -> None:
            self._birth.send_bytes(b"")
            self._birth.close()
            super().run()

        @staticmethod
        def _Popen(process_obj: Any) -> Any:
            for attempt in itertools.count():
                receiving, process_obj._birth = multiprocessing.Pipe(duplex=False)
                with receiving, process_obj._birth:
                    started = multiprocessing.context.ForkProcess._Popen(process_obj)
                    process_obj._birth.close()
                    if receiving.poll(limit_s := BIRTH_LIMIT_S * 2**attempt):
                        return started
                started.kill()
                started.wait()
                _LOGGER.info("a worker has not come to life within %g s: it is started anew", limit_s)

    class _Context(multiprocessing.context.ForkContext):
        Process = _Process

    def context_of_workers(given: Any) -> Any:
        """Return the context to start workers by: what is given, if it is not Python's own that forks."""
        context = given or multiprocessing.get_context()
        return _Context() if type(context) is multiprocessing.context.ForkContext else given
else:

    def context_of_workers(given: Any) -> Any:
        """Return the context to start workers by: what is given."""
        return given


def _advise(error: Exception, *where: str) -> None:
    for note in (*where, _ADVICE):
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def start_worker(init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """In a worker: let `get_worker_info().dataset` be the user's dataset, then call the user's function."""
    dataset = get_worker_info().dataset  # type: ignore[union-attr]
    if isinstance(dataset, BatchReader):
        _torch.show_dataset(dataset.dataset)
    for number in STOP_SIGNALS:  # sent to all processes of a run, which still needs its workers to come to an end
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if init_fn is not None:
        init_fn(worker_id)

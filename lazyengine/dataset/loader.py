"""The data loader: torch's, with batches that are a function of (seed, epoch, position, rank)."""

from __future__ import annotations

import copy
import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset

from .. import _torch, dist
from ..errors import UsageRuntimeError, UsageTypeError, UsageValueError
from ..seeding import Purpose, stream_seed
from ..text import listed
from .batches import DATA, ORDER, BatchReader, BatchSource, started, tell_epoch
from .collate import default_collate
from .generators import OwnGenerators, contents, find_counters, find_generators, paths_in
from .samplers import DefaultSampler, Order, knows_ranks
from .streams import Progress, StreamParts, StreamPass, StreamReader
from .workers import WorkersPass, context_of_workers, start_worker

_LOGGER = logging.getLogger(__name__)


class DataLoader(TorchDataLoader[Any]):
    """torch's `DataLoader`, whose batches do not depend on who reads them.

    Before a batch is read and collated, python's, numpy's and torch's random streams are seeded from (seed, epoch,
    position of the batch, rank). So batches are equal for any `num_workers` and start method, differ between epochs and
    can be reached by skipping indices alone. Reading one in the main process leaves torch's and numpy's streams as they
    were (python's goes on from the batch's). Call `set_epoch` before each epoch (the runner does).

    Args:
        dataset: Map-style or iterable. A stream is resumed exactly with any number of workers and ranks if it has
            virtual shards (`num_shards` and `iter_shard(shard, epoch, state)`, or a stream of Hugging Face `datasets`),
            with the same number of workers if it has `state_dict` and `load_state_dict`; see the README.
        batch_size: Samples in a batch on this rank; None to get single samples, not collated.
        sampler: Iterable of indices. The default is a `DefaultSampler`, which shares the samples out among the ranks.
        shuffle: For the default sampler.
        batch_sampler: Iterable of index lists, instead of `batch_size`, `sampler`, `shuffle` and `drop_last`. One that
            knows no ranks (no `rank`, `num_replicas` or `world_size`, also of its `sampler`) is dealt to them in turns.
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
        own_generators: What becomes of random generators inside the dataset, its transforms, the `collate_fn` and
            samplers of others. `"seed"` seeds them, as the global ones, from the position of the batch, whatever seed
            they had; `"save"` saves their states with `state_dict` (only with `num_workers=0`); `"leave"` does nothing.

    `timeout`, `multiprocessing_context`, `prefetch_factor` and `persistent_workers` do nothing with `num_workers=0`.

    Raises:
        ValueError: The dataset is empty, `drop_last` leaves no batch, or options contradict one another.
        TypeError: `dataset` or `collate_fn` is not what it must be.
    """

    _num_batches_to_skip = 0
    _epoch_offset = 0
    _num_passes = 0
    _stream_pass: StreamPass | None = None  # the one whose position is saved
    _loaded: dict[str, Any] | None = None  # where the next pass over a stream begins
    _kept: TorchDataLoader[Any] | None = None  # the one whose workers stay between passes

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
        own_generators: Literal["seed", "save", "leave"] = "seed",
    ) -> None:
        is_iterable = isinstance(dataset, IterableDataset)
        _check_options(dataset, collate_fn, own_generators, sampler if shuffle else None)
        if not is_iterable and hasattr(dataset, "full_init"):
            dataset.full_init()  # here once, rather than in every worker
        if sampler is None and batch_sampler is None and not is_iterable:
            sampler = DefaultSampler(dataset, shuffle=shuffle)
        if not is_iterable:
            _check_order(dataset, getattr(batch_sampler, "sampler", batch_sampler) if sampler is None else sampler)
        of_workers = {"timeout": timeout, "multiprocessing_context": multiprocessing_context}
        of_workers |= {"prefetch_factor": prefetch_factor, "persistent_workers": persistent_workers}
        self._own_generator = torch.Generator() if generator is None else None
        super().__init__(
            dataset,
            batch_size,
            sampler=sampler,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=None if batch_size is None and collate_fn is default_collate else collate_fn,
            pin_memory=pin_memory,
            drop_last=drop_last,
            worker_init_fn=worker_init_fn,
            generator=self._own_generator or generator,
            in_order=in_order,
            **(of_workers if num_workers > 0 else {}),
        )
        self.seed_batches, self.own_generators = seed_batches, own_generators
        self._parts = StreamParts(dataset, num_workers) if is_iterable else None
        self._reader = self._make_reader()
        self._batches = self._make_source()
        own_order = self.sampler if self._batches.is_own else self.batch_sampler
        follows = isinstance(own_order, Order) and own_order.seed is None
        self._seed_follower: Any = own_order if follows else None
        self.seed = seed
        self._reasons: list[str] = []  # for which no resume is exact, found by `settle_generators`
        self._open_stream: Callable[[], Any] = lambda: None
        self._kept_pass: Callable[[], WorkersPass | None] = lambda: None
        self._kept_contents: list[Any] = []  # of what the workers that stay have copies of
        self._check_num_batches()

    def _make_reader(self) -> BatchReader:
        seeds = self.own_generators == "seed"
        if self._parts is None:
            return BatchReader(self.dataset, self.collate_fn, seeds)
        options = {"parts": self._parts, "batch_size": self.batch_size, "drop_last": self.drop_last}
        return StreamReader(self.dataset, self.collate_fn, seeds, **options)

    def _make_source(self) -> BatchSource:
        order: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        is_given = self.batch_size is None and self.batch_sampler is not None  # not torch's, made of a sampler
        is_dealt = is_given and dist.get_data_world_size() > 1 and not knows_ranks(order)
        seeds = self.own_generators == "seed"
        options = (self.batch_size, self.drop_last, self.seed_batches, is_given, is_dealt, seeds)
        return BatchSource(self.sampler, order, *options)

    # ------------------------------------------------------------------ what the runner sets
    def set_seed(self, seed: int) -> None:
        """Set the run's seed; a sampler of ours without a seed of its own follows it."""
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration: of the batches' seeds, and of whatever has `set_epoch`; see `set_epoch`.

        Workers that stay between iterations are told with the next batch.
        """
        epoch += self._epoch_offset
        self._restart_changed_workers()
        self._set_epoch_of_order(epoch)
        self._reader.set_epoch(epoch)
        self._note_contents()

    def leave_out(self, indices: Iterable[int]) -> None:
        """Read the sample after it instead of each of these, which cannot be read; call it before the first batch.

        Raises:
            UsageRuntimeError: The dataset is a stream, or hands out whole batches, or no sample is left.
        """
        left_out = set(indices)
        if self._parts is not None or hasattr(self.dataset, "__getitems__"):
            raise UsageRuntimeError(f"leave_out: samples of {type(self.dataset).__name__} are not read one by one.")
        length = len(self.dataset)  # pyright: ignore[reportArgumentType]
        if len(left_out) >= length:
            raise UsageRuntimeError(f"leave_out: no sample of {length} would be left.")
        for index in left_out:
            others = (each % length for each in range(index + 1, index + length))
            self._reader.instead[index] = next(each for each in others if each not in left_out)

    def _set_epoch_of_order(self, epoch: int) -> None:
        self._batches.epoch = epoch
        tell_epoch(epoch, self, ORDER, told={id(self)})

    def set_start(self, num_batches_to_skip: int) -> None:
        """Leave out the first batches of the next iteration, and of that one only; no data is read for it.

        A stream goes on from the state that was loaded.

        Raises:
            ValueError: The number is negative or greater than that of an epoch.
            RuntimeError: The loader cannot go on exactly; see `why_no_exact_resume`.
        """
        num_batches = self._num_batches if self._parts is None else None  # a stream's is a guess where it has workers
        if num_batches_to_skip < 0 or (num_batches is not None and num_batches_to_skip > num_batches):
            raise UsageValueError(
                f"set_start({num_batches_to_skip}): an epoch of this loader has {num_batches} batches"
            )
        if self._parts is not None and num_batches_to_skip:
            if reason := self.why_no_exact_resume():
                raise UsageRuntimeError(reason)
            if self._loaded is None:
                raise UsageRuntimeError(
                    f"set_start({num_batches_to_skip}): {type(self.dataset).__name__} is a stream, which goes on from "
                    "a state alone; call load_state_dict with what state_dict returned."
                )
            if self._loaded["epoch"] is None:  # saved by version 0.1
                state = self._loaded["progress"][0].state
                self._loaded.update(epoch=self._batches.epoch, progress={0: Progress(num_batches_to_skip, state)})
        self._num_batches_to_skip = num_batches_to_skip

    def why_no_exact_resume(self) -> str | None:
        """Return why a run cannot be resumed exactly in the middle of this loader's epoch, or None if it can."""
        if not self.seed_batches:
            return "seed_batches=False: the random numbers of a batch depend on the batches before it"
        if not self.in_order:
            return "in_order=False: the order of the batches depends on timing; remove it"
        if self._parts is not None and not self._parts.has_state:
            return (
                f"{type(self.dataset).__name__} is iterable and has no `state_dict`/`load_state_dict`, so nobody knows "
                "where it stands; add them, or `num_shards` and `iter_shard`, or use a map-style dataset"
            )
        if self._reasons:
            return "; ".join(self._reasons)
        if self.own_generators == "seed" or not (paths := list(find_generators(self._roots))):
            return None
        if self.own_generators == "leave":
            return f"own_generators='leave': nobody saves the states of {listed(paths)}"
        if self.num_workers:
            return f"own_generators='save': the states of {listed(paths)} are in the workers; use num_workers=0"
        return None

    @property
    def _roots(self) -> dict[str, Any]:
        """What batches are made by, and what samplers of others draw from, by name."""
        if self._batches.is_own or self._parts is not None:
            return self._reader.roots
        name = "batch_sampler" if self.batch_size is None and self.batch_sampler is not None else "sampler"
        return {**self._reader.roots, name: getattr(self, name)}

    def settle_generators(self, shared_with: Mapping[str, Any], registered: Iterable[Any]) -> list[str]:
        """See the function of this name."""
        found, registered = find_generators(self._roots), list(registered)
        elsewhere = paths_in(shared_with, found.values(), but=(self, *self._roots.values()))
        self._reasons, left, lines = [], [], []
        for path, generator in found.items():
            if any(generator is each for each in registered):
                left.append(path)
                lines.append(f"left to you, who registered it: {path}")
                if self.num_workers and not path.startswith(("sampler", "batch_sampler")):
                    self._reasons.append(f"{path} is registered, and drawn from in {self.num_workers} workers")
            elif (other := elsewhere.get(id(generator))) is not None:
                left.append(path)
                self._reasons.append(
                    f"{path} is {other} too, so it is not seeded, and its state not saved (give each its own, or call "
                    "runner.register_generator)"
                )
        self._reader.left_alone, self._batches.left_alone = frozenset(left), [found[path] for path in left]
        self._kept = None
        paths = [path for path in found if path not in left]
        if paths and self.own_generators == "seed" and self.seed_batches:
            lines.append(f"seeded from the position of each batch, seeds of their own are replaced: {listed(paths)}")
        if counters := find_counters(self._reader.roots):
            lines.append(
                f"counts what it has read, which no position decides on, and which is not saved: {listed(counters)}; "
                "what follows from it differs between workers and after a resume"
            )
        return lines

    def state_dict(self) -> dict[str, Any]:
        """Return where a stream stands, and the generators' states with `own_generators="save"`; else `{}`."""
        state: dict[str, Any] = {}
        if self._parts is not None and self._parts.has_state:
            if self._stream_pass is not None:
                state["stream"] = self._stream_pass.state_dict()
            elif self._loaded is not None:
                progress = {part: list(each) for part, each in self._loaded["progress"].items()}
                state["stream"] = {**self._loaded, "progress": progress}
        if self.own_generators == "save" and not self.num_workers:
            state["generators"] = OwnGenerators(find_generators(self._roots)).state_dict()
        return {name: part for name, part in state.items() if part}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iteration go on from a state.

        Raises:
            RuntimeError: The dataset has no state, or was read by another number of workers, of which each had its own.
        """
        self._epoch_offset = state_dict.get("epoch_offset", 0)
        OwnGenerators(find_generators(self._roots)).load_state_dict(state_dict.get("generators", {}))
        saved = state_dict.get("stream")
        if "dataset" in state_dict:  # version 0.1 saved the dataset's alone
            progress = {0: [0, state_dict["dataset"], False]}
            saved = {"epoch": None, "num_parts": 1, "is_virtual": False, "progress": progress}
        if saved is None:
            return
        name, parts = type(self.dataset).__name__, self._parts
        if parts is None or not parts.has_state:
            raise UsageRuntimeError(f"the saved run's dataset had a state, but {name} takes none.")
        if saved["is_virtual"] != parts.is_virtual or saved["num_parts"] != parts.number:
            unit = "num_shards" if saved["is_virtual"] else "num_workers"
            raise UsageRuntimeError(
                f"the state of {name} was saved with {unit}={saved['num_parts']}, and cannot be shared out among "
                f"{'num_shards' if parts.is_virtual else 'num_workers'}={parts.number}. Use the former number, or give "
                "the stream `num_shards` and `iter_shard`, whose batches do not depend on who reads them."
            )
        progress = {int(part): Progress(*each) for part, each in saved["progress"].items()}
        self._stream_pass, self._loaded = None, {**saved, "progress": progress}

    # ------------------------------------------------------------------ torch's side
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Start an iteration. What is set now holds for it; others may be begun before it ends."""
        return self._iterate(keeps_streams=True)

    def iterate_for_steps(self) -> Iterator[Any]:
        """Start an iteration of someone who seeds all random streams after each batch, as a run does before its steps.

        Reading in the main process then leaves torch's and numpy's where they are, which costs less.
        """
        if type(self).__iter__ is not DataLoader.__iter__:  # what a subclass does around it may draw
            return iter(self)
        return self._iterate(keeps_streams=False)

    def _iterate(self, keeps_streams: bool) -> Iterator[Any]:
        if self.seed is None:
            self.seed = dist.sync_random_seed()
        if self._seed_follower is not None:
            self._seed_follower.seed = self.seed
        start, self._num_batches_to_skip = self._num_batches_to_skip, 0
        epoch, rank = self._batches.epoch, dist.get_data_rank()
        if self._own_generator is not None:
            self._own_generator.manual_seed(stream_seed(self.seed, Purpose.WORKERS, epoch=epoch, rank=rank))
        self._num_passes += 1
        told_epoch = self._reader.told_epoch
        if self._parts is not None:
            return self._iterate_over_stream(self._parts, epoch, start, told_epoch, keeps_streams)
        return self._results(self._batches.keys(self.seed, start, told_epoch, self._num_passes), keeps_streams)

    def _iterate_over_stream(
        self, parts: StreamParts, epoch: int, start: int, told_epoch: int | None, keeps_streams: bool
    ) -> Iterator[Any]:
        loaded, self._loaded = self._loaded or {}, None
        begin = loaded.get("progress", {})
        if begin and loaded["epoch"] not in (None, epoch):  # a stream whose readers stay may go on from pass to pass
            stays = not parts.is_virtual and (not self.num_workers or self.persistent_workers)
            is_carried = stays and all(each.is_over for each in begin.values())
            begin = {part: Progress(0, each.state) for part, each in begin.items()} if is_carried else {}
            if start:
                raise UsageRuntimeError(
                    f"set_start({start}) in epoch {epoch}: the state that was loaded is of epoch {loaded['epoch']}; "
                    "call set_epoch with that one, and begin no pass while the one whose state is saved is open."
                )
        goes_on = self._stream_pass is None or self._stream_pass.is_over
        stream_pass = StreamPass(parts, self.num_workers, epoch, begin, goes_on)
        keys = stream_pass.keys(self.seed or 0, self.seed_batches, told_epoch, self._num_passes)
        batches = stream_pass.batches(self._results(keys, keeps_streams))
        if self._open_stream() is None or self._stream_pass is None or self._stream_pass.is_over:
            self._stream_pass, self._open_stream = stream_pass, weakref.ref(batches)
        return batches

    def _results(self, keys: Iterable[Any], keeps_streams: bool) -> Iterator[Any]:
        """Yield what the reader returns for each key, wherever it reads."""
        pins = bool(self.pin_memory) and torch.accelerator.is_available()  # torch would warn
        if self.num_workers > 0:
            return self._iterate_with_workers(keys, pins)
        if pins:
            return iter(self._torch_loader(keys, pins))
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # as torch draws the workers' base seed
        reader = copy.copy(self._reader) if self._parts is not None else self._reader  # with parts of its own
        return map(reader.__getitem__ if keeps_streams else reader.read, started(keys))

    def _iterate_with_workers(self, keys: Iterable[Any], pins: bool) -> Iterator[Any]:
        kept_pass = self._kept_pass()
        if not self.persistent_workers or (self._kept is not None and kept_pass is not None and kept_pass.is_open):
            return WorkersPass(self._torch_loader(keys, pins))
        self._restart_changed_workers()
        if self._kept is None:
            self._kept_keys = _Keys()
            self._kept = self._torch_loader(self._kept_keys, pins, persistent_workers=True)
        self._kept_keys.next_keys = keys
        self._note_contents()
        batches = WorkersPass(self._kept)
        self._kept_pass = weakref.ref(batches)
        return batches

    def _restart_changed_workers(self) -> None:
        """Let workers that stay start anew where what they have copies of was changed since, as by a hook."""
        if self._kept is not None and contents(self._reader.roots) != self._kept_contents:
            self._kept = None

    def _note_contents(self) -> None:
        if self.persistent_workers:
            self._kept_contents = contents(self._reader.roots)

    def _torch_loader(self, keys: Any, pins: bool, persistent_workers: bool = False) -> TorchDataLoader[Any]:
        """Build torch's loader of one pass, or of several whose workers stay, over the keys of batches."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        if self.num_workers > 0:
            options["multiprocessing_context"] = context_of_workers(self.multiprocessing_context)
        return _TorchLoader(
            self._reader,  # type: ignore[arg-type]
            batch_size=None,
            sampler=keys,
            **options,
            collate_fn=_as_is,
            pin_memory=pins,
            worker_init_fn=functools.partial(start_worker, self.worker_init_fn),
            persistent_workers=persistent_workers,
        )

    def __len__(self) -> int:
        """Number of batches of a whole epoch on this rank.

        Raises:
            TypeError: There is none: an `InfiniteSampler`, an iterable dataset without a length, or one with shards.
        """
        if self._parts is not None and self._parts.is_virtual:
            raise TypeError("a stream with shards has no number of batches: the last one of each shard may be smaller")
        return super().__len__() if self._parts is not None else len(self._batches)

    @property
    def _num_batches(self) -> int | None:
        try:
            return len(self)
        except TypeError:  # no length, or an InfiniteSampler
            return None

    def _check_num_batches(self) -> None:
        if self._num_batches != 0:
            return
        if self.drop_last:
            raise UsageValueError(
                f"drop_last=True leaves no batch: this rank has {len(self.sampler)} samples, "  # type: ignore[arg-type]
                f"fewer than batch_size={self.batch_size}; set drop_last=False or a smaller batch_size"
            )
        raise UsageValueError(
            f"the loader of {type(self.dataset).__name__} has no batches: dataset or sampler is empty"
        )

    def check_worker_number_rationality(self) -> None:
        """Log (torch warns, and again at each epoch) when there are more workers than processors."""
        num_processors = os.cpu_count()
        if num_processors and self.num_workers > num_processors:
            _LOGGER.info("num_workers=%d on %d processors: loading may be slower", self.num_workers, num_processors)


def _check_options(dataset: Any, collate_fn: Any, own_generators: str, useless_sampler: Any) -> None:
    if useless_sampler is not None:
        raise UsageValueError(f"shuffle=True and sampler={type(useless_sampler).__name__}: give one of them")
    if own_generators not in ("seed", "save", "leave"):
        raise UsageValueError(f"own_generators: got {own_generators!r}; accepted: 'seed', 'save', 'leave'.")
    if not callable(collate_fn):
        raise UsageTypeError(f"collate_fn: got {collate_fn!r}; accepted: a callable that takes a list of samples")
    is_map = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not is_map and not isinstance(dataset, IterableDataset):
        raise UsageTypeError(
            f"dataset: got {type(dataset).__name__}; accepted: an object with `__getitem__` and `__len__`, or a "
            "torch.utils.data.IterableDataset"
        )


def _check_order(dataset: Any, order: Any) -> None:
    """Refuse an order of more samples than there are, and say that one of fewer leaves some out, where it tells."""
    drawn_from: Any = getattr(order, "dataset", getattr(order, "data_source", None))
    if drawn_from is dataset or not hasattr(drawn_from, "__getitem__") or not hasattr(drawn_from, "__len__"):
        return
    number, size = len(drawn_from), len(dataset)
    what = f"{type(order).__name__} draws from {number} samples ({type(drawn_from).__name__}), but the dataset "
    what += f"({type(dataset).__name__}) has {size}"
    if number > size:
        raise UsageValueError(f"sampler: {what}; give both the same dataset.")
    if number < size:
        _LOGGER.warning("%s: the others are never read. Give both the same dataset, if that is not meant", what)


def settle_generators(
    loader: Any, shared_with: Mapping[str, Any] | None = None, registered: Iterable[Any] = ()
) -> list[str]:
    """Decide what becomes of each random generator inside a loader, and return what the log of the start should say.

    A generator that something else draws from too is left alone and named by `why_no_exact_resume`; one that the user
    registered is left alone, since its state is saved.

    Args:
        loader: Ours, a `CombinedLoader`, torch's, or any other iterable of batches.
        shared_with: What else may draw from generators, by name: the model, the hooks, other loaders.
        registered: Generators that the user has registered.
    """
    if hasattr(loader, "settle_generators"):
        return loader.settle_generators(shared_with or {}, registered)
    roots = {name: part for name in ("dataset", "collate_fn") if (part := getattr(loader, name, None)) is not None}
    name, paths, of_order = type(loader).__name__, list(find_generators(roots)), list(_of_order(loader, registered))
    lines = [f"not seeded by {name}: {listed(paths)}; lazyengine.dataset.DataLoader seeds them"] if paths else []
    if of_order:
        lines.append(f"seeded from the epoch at each pass, seeds of their own are replaced: {listed(of_order)}")
    if getattr(loader, "persistent_workers", False):
        lines.append(f"workers of {name} that stay draw on, and begin anew after a resume, also at an epoch's end")
    if hasattr(loader, "load_state_dict"):
        lines.append(f"{name} goes on from its own state; random numbers drawn in reading are not repeated")
    return lines


def _of_order(loader: Any, registered: Iterable[Any]) -> dict[str, Any]:
    """Return the generators from which a loader that is not ours draws the order of a pass, by path."""
    found = find_generators({name: getattr(loader, name, None) for name in _ORDER})
    samples = {name: getattr(loader, name, None) for name in ("dataset", "collate_fn") if found}  # walked if need be
    left = {id(each) for each in (*find_generators(samples).values(), *registered)}
    return {path: each for path, each in found.items() if id(each) not in left}


def seed_order(loader: Any, seed: int, epoch: int, registered: Iterable[Any]) -> None:
    """Seed what a loader that is not ours draws the order of a pass from, so that it is a function of the epoch."""
    for each in getattr(loader, "loaders", {"": loader}).values():
        if not hasattr(each, "set_seed") and (found := _of_order(each, registered)):
            OwnGenerators(found).seed(stream_seed(seed, Purpose.SAMPLER, epoch=epoch))


def set_seed(loader: Any, seed: int) -> None:
    """Give a loader the seed of the run, or the samplers of ours in one that takes none, unless they have their own."""
    if hasattr(loader, "set_seed"):
        if getattr(loader, "seed", None) is None:
            loader.set_seed(seed)
        return
    batch_sampler = getattr(loader, "batch_sampler", None)
    for order in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        if isinstance(order, Order) and order.seed is None:
            order.seed = seed


def set_epoch(loader: Any, epoch: int, *, samplers_only: bool = False) -> None:
    """Tell everything in a loader that has `set_epoch` which epoch its next iteration is; the loops call it.

    That is the loader, its sampler, its batch sampler and that one's sampler, the dataset and the datasets, pipelines
    and transforms inside it, and the collate function: each object once. Workers see it too, also those that stay.

    Args:
        loader: Ours, torch's, or any other iterable of batches.
        epoch: The epoch.
        samplers_only: For an evaluation, which is epoch 0 also inside training: only what decides on the order is told.

    Raises:
        UsageRuntimeError: Workers of torch's own loader stay, and cannot be told.
    """
    if isinstance(loader, DataLoader):
        (loader._set_epoch_of_order if samplers_only else loader.set_epoch)(epoch)
    elif samplers_only:
        tell_epoch(epoch, loader, ORDER, told={id(loader)})
    else:
        told: set[int] = set()
        tell_epoch(epoch, loader, ORDER, told)
        has_copies = tell_epoch(epoch, loader, DATA, told) and getattr(loader, "persistent_workers", False)
        if has_copies and not _torch.let_workers_start_anew(loader):
            raise UsageRuntimeError(
                f"{type(loader.dataset).__name__} has `set_epoch`, and the copies of it in the workers of torch's "
                "DataLoader cannot be told: use lazyengine.dataset.DataLoader, or persistent_workers=False."
            )


_ORDER = ("generator", "sampler", "batch_sampler")
_OPTIONS = ("num_workers", "timeout", "multiprocessing_context", "generator", "prefetch_factor", "in_order")


class _TorchLoader(TorchDataLoader[Any]):
    """torch's own, built for a pass; the user's loader has looked at the number of workers already."""

    def check_worker_number_rationality(self) -> None:
        """Do nothing."""


class _Keys:
    """The keys of whichever pass is the next over workers that stay."""

    next_keys: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.next_keys)


def _as_is(batch: Any) -> Any:
    return batch

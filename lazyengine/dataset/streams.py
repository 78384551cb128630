"""Iterable datasets: read in parts that can each go on where they stood, and whether workers share them out."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch.utils.data
from torch.utils.data import IterableDataset, IterDataPipe, get_worker_info
from torch.utils.data.graph_settings import apply_sharding

from .. import dist
from ..errors import UsageRuntimeError, UsageValueError
from ..seeding import Purpose, stream_seed
from .batches import BatchReader
from .generators import walk

_MAX_OPEN_PARTS = 64
_PLAIN_MODULES = {*sys.stdlib_module_names, "builtins", "numpy", "torch"}


class Progress(NamedTuple):
    """How far a part of a stream has been read: batches, the state after them, and whether that was its end."""

    num_batches: int = 0
    state: Any = None
    is_over: bool = False


class StreamParts:
    """A stream as parts that can be read each on its own.

    A stream with `num_shards` and `iter_shard(shard, epoch, state)` has its shards for parts: they belong to nobody,
    so any number of workers and ranks reads the same batches. So do streams of Hugging Face `datasets`, which are split
    into at most 64 parts. Of any other stream, a part is what a worker reads of it.

    Args:
        dataset: The stream.
        num_workers: Processes that read it.
    """

    def __init__(self, dataset: Any, num_workers: int) -> None:
        self._dataset = dataset
        is_hugging_face = type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "shard")
        self._is_hugging_face = is_hugging_face and not getattr(dataset, "_distributed", None)  # split by the user
        self.is_virtual = self._is_hugging_face or hasattr(dataset, "iter_shard")
        self.number = dataset.num_shards if self.is_virtual else max(num_workers, 1)
        if self._is_hugging_face:
            self.number = min(self.number, _MAX_OPEN_PARTS)
        if self.number < 1:
            raise UsageValueError(f"num_shards of {type(dataset).__name__}: got {self.number}; accepted: 1 or more.")
        self.has_state = self.is_virtual or (hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict"))
        self._initial: list[Any] = []  # the state that the dataset had before anything was read here, if it has one
        self._last: _OwnPart | None = None  # which moves the dataset

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}  # a worker reads for itself

    def open(self, part: int, epoch: int, state: Any, goes_on: bool = True) -> Part:
        """Begin to read a part of an epoch, anew or from a state that the part has had.

        Args:
            part: The part.
            epoch: The epoch.
            state: The state.
            goes_on: Whether the pass before has ended, so that a stream of which the reader stays may go on from it.
        """
        if self._is_hugging_face:
            return _HuggingFacePart(self._dataset.shard(self.number, part), epoch, state)
        if self.is_virtual:
            return Part(self._dataset.iter_shard(part, epoch, state), num_read=state if isinstance(state, int) else 0)
        if isinstance(self._dataset, IterDataPipe) and (worker := get_worker_info()) is not None:
            apply_sharding(self._dataset, worker.num_workers, worker.id)
        return _OwnPart(self, self._dataset, state, goes_on) if self.has_state else Part(self._dataset)

    def give_to(self, part: _OwnPart, dataset: Any) -> list[Any]:
        """Let a part move the dataset, and return the state that it had at first, if it has one."""
        last, self._last = self._last, part
        if last is not None:
            last.pause()
            return copy.deepcopy(self._initial)
        with contextlib.suppress(Exception):  # of one that has no state before it is read
            self._initial = [copy.deepcopy(dataset.state_dict())]
        return []

    def is_moved_by(self, part: _OwnPart) -> bool:
        """Return whether nobody else has moved the dataset since this part was read."""
        return self._last is part


class Part:
    """The samples of a part of a stream from some point on.

    Args:
        samples: The samples.
        holder: What has the state; None for `samples`, whose state is the number of samples read if it has none.
        num_read: Samples that have been read before.
    """

    is_loaded = False  # whether a state was loaded into the dataset

    def __init__(self, samples: Iterable[Any], holder: Any = None, num_read: int = 0) -> None:
        self._samples = iter(samples)
        holder = self._samples if holder is None else holder
        self._state_of = getattr(holder, "state_dict", None)
        self._num_read = num_read
        self.num_batches = 0
        self.is_over = False

    def begin(self) -> None:
        """Begin to read; before that, the dataset may be told something."""

    def take(self, size: int) -> list[Any]:
        """Return the next samples, fewer at the end."""
        samples = list(itertools.islice(self._samples, size))
        self._num_read += len(samples)
        self.num_batches += 1
        self.is_over = len(samples) < size
        return samples

    def progress(self) -> Progress:
        """Return how far it has been read."""
        state = self._num_read if self._state_of is None else self._state_of()
        return Progress(self.num_batches, state, self.is_over)


class _OwnPart(Part):
    """What a process reads of a stream that says itself where it stands; other passes may be read meanwhile.

    A pass begins anew where the one before was cut off. It goes on where that one has ended, as streams that count
    their passes do; where nothing comes then, it begins anew too.

    Args:
        parts: Who else may read it.
        dataset: The stream.
        state: Its state to begin from; None for a new pass.
        goes_on: Whether the pass before has ended.
    """

    def __init__(self, parts: StreamParts, dataset: Any, state: Any, goes_on: bool) -> None:
        self._parts, self._dataset = parts, dataset
        initial = parts.give_to(self, dataset)
        self._reached = [state] if state is not None else [] if goes_on else initial
        self.is_loaded = bool(self._reached)
        self._load()
        super().__init__((), dataset)

    def begin(self) -> None:
        self._samples = iter(self._dataset)

    def _load(self) -> None:
        for state in self._reached:
            self._dataset.load_state_dict(state)

    def pause(self) -> None:
        """Keep where it stands, before somebody else moves the dataset."""
        self._reached = copy.deepcopy(self._reached)

    def progress(self) -> Progress:
        progress = super().progress()
        self._reached = [progress.state]
        return progress

    def take(self, size: int) -> list[Any]:
        if not self._parts.is_moved_by(self):
            self._parts.give_to(self, self._dataset)
            self._samples = iter(())  # what ends in it may move the dataset
            self._load()
            self.begin()
        samples = super().take(size)
        if not samples and self.is_loaded and self.num_batches == 1:
            self.begin()
            samples, self.num_batches = super().take(size), 1
        return samples


class _HuggingFacePart(Part):
    """Some shards of a stream of Hugging Face.

    In workers the stream would look for its own share of them. Samples in a shuffle buffer are not in its state: then
    the state is the number of samples read, and as many are read again.
    """

    def __init__(self, shards: Any, epoch: int, state: Any) -> None:
        shards.set_epoch(epoch)
        roots = {"": shards}
        is_counted = any(type(part).__name__ == "BufferShuffledExamplesIterable" for _, part, _ in walk(roots))
        if state is not None and not is_counted:
            shards.load_state_dict(state)
        super().__init__(shards, object() if is_counted else shards)
        if state is not None and is_counted:
            self.take(state)

    def take(self, size: int) -> list[Any]:
        with mock.patch.object(torch.utils.data, "get_worker_info", return_value=None):
            return super().take(size)


@dataclasses.dataclass(eq=False)
class StreamReader(BatchReader):
    """A stream as torch's fetcher sees it: for the key of a batch it returns the batch and the `Progress` of its part.

    The last element of a key is the part, the number of the batch in it, and the `Progress` to begin from.
    """

    can_read_again = False

    parts: StreamParts = dataclasses.field(kw_only=True)
    batch_size: int | None = dataclasses.field(kw_only=True)
    drop_last: bool = dataclasses.field(kw_only=True)
    _open: dict[int, Part] = dataclasses.field(default_factory=dict, init=False)

    def begin_pass(self) -> None:
        """Close what is open."""
        super().begin_pass()
        self._open = {}

    def _read(self, key: Any) -> Any:
        seed, epoch, position, *_, (number, num_batch, begin, goes_on, own_seed) = key
        try:
            is_moved = number not in self._open and begin.state is not None
            if number not in self._open:
                goes_on = goes_on or bool(self._generators.found)  # whose states then may be in that of the beginning
                self._open[number] = self.parts.open(number, epoch, begin.state, goes_on)
                self._open[number].num_batches = begin.num_batches
                if self._open[number].is_loaded and not begin.num_batches and self.told_epoch is not None:
                    self.set_epoch(self.told_epoch)  # which the state of another pass may hold
                self._open[number].begin()
            part = self._open[number]
            while part.num_batches < num_batch and not part.is_over:  # batches of other ranks
                part.take(self.batch_size or 1)
                is_moved = True
            if is_moved and seed is not None:  # which may have drawn
                self.reseed(seed)
            samples = [] if part.is_over else part.take(self.batch_size or 1)
            is_left_out = not samples or (part.is_over and self.drop_last)
            batch = [] if is_left_out else [self.collate_fn(samples if self.batch_size else samples[0])]
            if seed is not None and self._generators.found:  # which may be in the state: as the next batch finds them
                run_seed, rank = own_seed
                next_epoch, place = (epoch + 1, number) if part.is_over else (epoch, position + self.parts.number)
                self._generators.seed(_batch_seed(run_seed, rank, next_epoch, place))
            return number, part.progress(), *batch
        except Exception as error:
            error.add_note(f"while reading batch {position} of epoch {epoch} of {type(self.dataset).__name__}")
            raise


class StreamPass:
    """One pass over a stream: the keys of its batches, and how far each part has been read.

    Batch b of all ranks comes from part b modulo the number of parts, if these belong to nobody; parts that are over
    are left out. Otherwise the workers take turns.

    Args:
        parts: The parts.
        num_workers: Processes that read them; torch gives key k to worker k modulo this number.
        epoch: The epoch.
        begin: How far each part was read when the pass that is gone on with was saved.
        goes_on: Whether the pass before has ended; what workers have read ahead says nothing of it.
    """

    def __init__(
        self, parts: StreamParts, num_workers: int, epoch: int, begin: Mapping[int, Progress], goes_on: bool
    ) -> None:
        self.epoch, self._goes_on = epoch, goes_on
        self._parts, self._num_workers, self._begin = parts, num_workers, begin
        self.world_size, self._rank = (dist.get_data_world_size(), dist.get_data_rank()) if parts.is_virtual else (1, 0)
        step = math.gcd(parts.number, self.world_size)
        self._own = range(self._rank % step, parts.number, step)
        self.progress = {part: begin.get(part, Progress()) for part in self._own}

    @property
    def is_over(self) -> bool:
        """Whether all parts have been read."""
        return all(progress.is_over for progress in self.progress.values())

    def keys(self, seed: int, is_seeded: bool, told_epoch: int | None, number: int) -> Iterator[Any]:
        """Yield the keys of the batches, and None where a worker has nothing to read in its turn."""
        rank = 0 if self._parts.is_virtual else dist.get_data_rank()
        turn = itertools.count()
        opened = set()
        for num_batch in itertools.count(min(progress.num_batches for progress in self.progress.values())):
            if self.is_over:
                return
            for i, part in enumerate(self._own):
                position = num_batch * self._parts.number + part
                if position % self.world_size != self._rank or self.progress[part].is_over:
                    continue
                if num_batch < self._begin.get(part, Progress()).num_batches:
                    continue
                if self._num_workers:
                    while next(turn) % self._num_workers != i % self._num_workers:
                        yield None
                begin = None if part in opened else self._begin.get(part, Progress())
                opened.add(part)
                batch_seed = None
                if is_seeded:
                    batch_seed = _batch_seed(seed, rank, self.epoch, position)
                place = part, num_batch, begin, self._goes_on, (seed, rank)
                yield batch_seed, self.epoch, position, told_epoch, number, place

    def batches(self, results: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches among what the reader has returned, and note how far each part has been read."""
        for result in results:
            if result is not None:
                part, self.progress[part], *batch = result
                yield from batch

    def state_dict(self) -> dict[str, Any]:
        """Return how far each part has been read, and by whom."""
        layout = {"epoch": self.epoch, "world_size": self.world_size, "num_parts": self._parts.number}
        progress = {part: list(progress) for part, progress in self.progress.items()}
        return {**layout, "is_virtual": self._parts.is_virtual, "progress": progress}


def _batch_seed(seed: int, rank: int, epoch: int, position: int) -> int:
    return stream_seed(seed, Purpose.DATA, epoch=epoch, position=position, rank=rank)


def merge_loader_states(states: Sequence[dict[str, Any]], world_size: int, rank: int) -> dict[str, Any]:
    """Return the state that a loader goes on from, out of those that it had on each rank when they were saved.

    Args:
        states: What `state_dict` of the loader returned, by rank.
        world_size: The number of ranks now.
        rank: The rank that goes on.

    Raises:
        UsageRuntimeError: There are other ranks now, and the loader is not over a stream whose shards belong to nobody,
            or the ranks had read unequally much of it.
    """
    places = [state.get("places") for state in states]
    if places[0] and (len(states) == world_size or all(each == places[0] for each in places)):  # loaders in step
        loaders = {name: [state["loaders"][name] for state in states] for name in states[0]["loaders"]}
        merged = {name: merge_loader_states(of_ranks, world_size, rank) for name, of_ranks in loaders.items()}
        return {"places": places[rank % len(states)], "loaders": merged}
    streams = [state.get("stream", {}) for state in states]
    if len(states) == world_size:
        offset = streams[rank].get("epoch", 0) - streams[0].get("epoch", 0)
        return {**states[rank], "epoch_offset": offset} if offset else states[rank]
    advice = f"resume with {len(states)} ranks, or set train_loop.allow_inexact_resume=True"
    if not all(stream.get("is_virtual") for stream in streams):
        raise UsageRuntimeError(
            f"the checkpoint holds a state of the loader of each of {len(states)} ranks, which cannot be shared out "
            f"among {world_size}: only a stream with `num_shards` and `iter_shard` can; {advice}."
        )
    if len({stream["epoch"] for stream in streams}) > 1 or streams[0]["num_parts"] % len(states):
        raise UsageRuntimeError(
            f"the {len(states)} ranks were in different passes of the stream, or its {streams[0]['num_parts']} shards "
            f"cannot be shared out evenly among them, so that {world_size} ranks cannot go on from there; {advice}."
        )
    return {"stream": {**streams[0], "progress": {k: v for stream in streams for k, v in stream["progress"].items()}}}


def check_stream(loader: Any) -> None:
    """Refuse a loader whose workers would each read the whole stream.

    That is certain of an iterable dataset with a length, since the samples of all workers together are more than that,
    where none of its code asks which worker it runs in. Streams without a length, or with code that cannot be looked
    into, are taken: they may draw other samples in each worker.

    Args:
        loader: Any loader; other datasets than iterable ones, and fewer than two workers, are always accepted.

    Raises:
        UsageValueError: When the stream is not shared out.
    """
    dataset, num_workers = getattr(loader, "dataset", None), getattr(loader, "num_workers", 0)
    is_stream = isinstance(dataset, IterableDataset) and not isinstance(dataset, IterDataPipe)  # torch shares pipes out
    if not is_stream or num_workers < 2 or getattr(loader, "worker_init_fn", None) is not None:
        return
    try:
        length = len(dataset)  # type: ignore[arg-type]
    except TypeError:
        return
    if not _asks_for_its_worker(dataset):
        name = type(dataset).__name__
        raise UsageValueError(
            f"every one of {num_workers} workers reads all of {name}, {num_workers * length} samples where its "
            f"`__len__` is {length}: no code of {name} asks which worker it runs in. Share the samples out in its "
            "`__iter__` by torch.utils.data.get_worker_info(), or use num_workers=1 or a map-style dataset."
        )


def _asks_for_its_worker(stream: Any) -> bool:
    """Return whether code that a stream reaches asks for its worker, or might."""
    parts: list[Any] = [stream]
    seen: dict[int, Any] = {}
    while parts:
        part = parts.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, FunctionType):
            names = _names_in(part.__code__)
            if any(word in name.lower() for name in names for word in ("worker", "shard", "process")):
                return True
            parts += [part.__globals__[name] for name in names if name in part.__globals__]
        elif isinstance(part, ModuleType):
            if part.__name__.partition(".")[0] not in _PLAIN_MODULES:
                return True
        elif isinstance(part, type):
            if part.__module__.partition(".")[0] not in _PLAIN_MODULES:
                parts += [*vars(part).values(), *part.__bases__]
        elif isinstance(part, list | tuple):
            parts += part[:100]
        else:
            parts += [type(part), *getattr(part, "__dict__", {}).values(), getattr(part, "__func__", None)]
    return False


def _names_in(code: CodeType) -> set[str]:
    """Return the globals and attributes that a function and those inside it use."""
    inside = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inside)

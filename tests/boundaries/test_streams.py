"""Streams go on exactly where a checkpoint was taken: with workers, with other ones, with other ranks."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest

from lazyengine.dataset import DataLoader, merge_loader_states, pseudo_collate

from ..dataset.test_golden import as_rank
from .streams import LENGTHS, Buffered, CountingPasses, Mute, Ordered, Restarting, Shards, StatefulShards, Stepping


def loader_of(stream: Any, num_workers: int = 0, **options: Any) -> DataLoader:
    options = {"multiprocessing_context": "fork", "collate_fn": pseudo_collate, "seed": 5, **options}
    return DataLoader(stream, 3, num_workers=num_workers, **options)


def numbers(batches: list[Any]) -> list[int]:
    return [number for batch in batches for number in batch[0]]


def passes(loader: DataLoader, epochs: int) -> list[list[Any]]:
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found.append(list(loader))
    return found


def resumed(stream: Any, num_workers: int, epoch: int, batch: int, state: dict[str, Any], **options: Any) -> DataLoader:
    """Return a new loader that is told what the loop tells it after a resume."""
    loader = loader_of(stream, num_workers, **options)
    loader.load_state_dict(copy.deepcopy(state))
    loader.set_epoch(epoch)
    assert loader.why_no_exact_resume() is None
    loader.set_start(batch)
    return loader


@pytest.mark.parametrize("stream", [Shards, StatefulShards])
@pytest.mark.parametrize("num_workers", [1, 2, 4, 9])
def test_virtual_shards_give_the_same_batches_for_any_number_of_workers(stream, num_workers):
    whole = passes(loader_of(stream()), 2)
    assert sorted(numbers(whole[0])) == list(range(sum(LENGTHS)))
    assert [set(batch[1]) for batch in whole[1]] == [{1}] * len(whole[1])
    assert whole[0] != whole[1]
    for persistent in (False, True):
        assert passes(loader_of(stream(), num_workers, persistent_workers=persistent), 2) == whole


@pytest.mark.parametrize("stream", [Shards, StatefulShards])
def test_thirty_kills_with_changing_workers(stream):
    """Every sample once a pass, and every batch what it is without a kill."""
    whole = passes(loader_of(stream()), 3)
    chance, kills = random.Random(0), 0
    loader, state, epoch, batch = loader_of(stream()), None, 0, 0
    found: list[list[Any]] = [[], [], []]
    workers = itertools.cycle([0, 2, 4])
    while epoch < 3:
        if state is None:
            loader.set_epoch(epoch)
        steps = chance.randint(1, 2) if kills < 30 else 100
        iterator = iter(loader)
        for _ in range(steps):
            read = next(iterator, None)
            if read is None:
                epoch, batch = epoch + 1, 0
                break
            found[epoch].append(read)
            batch += 1
        kills += 1
        state = loader.state_dict()
        if epoch < 3:
            loader = resumed(stream(), next(workers), epoch, batch, state)
    assert kills > 30
    assert found == whole
    for batches in found:
        assert sorted(numbers(batches)) == list(range(sum(LENGTHS)))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_the_state_of_each_worker_travels_with_its_batches(num_workers, persistent):
    options = {"persistent_workers": persistent}
    whole = passes(loader_of(Stepping(), num_workers, **options), 2)
    assert sorted(numbers(whole[1])) == list(range(41))
    for batch in range(len(whole[1]) + 1):
        loader = loader_of(Stepping(), num_workers, **options)
        loader.set_epoch(1)
        read = list(itertools.islice(loader, batch))
        again = resumed(Stepping(), num_workers, 1, batch, loader.state_dict(), **options)
        assert read + list(again) == whole[1]
        again.set_epoch(0)
        assert list(again) == whole[0]


STATEFUL = [Stepping, Restarting, Buffered, Ordered, CountingPasses]
READERS = [{}, {"num_workers": 1, "persistent_workers": True}]


@pytest.mark.parametrize("options", READERS)
@pytest.mark.parametrize("stream", STATEFUL)
@pytest.mark.parametrize("limit", [2, 4, None])
def test_a_pass_begins_anew_after_one_that_was_cut_off_or_has_ended_also_after_a_resume(stream, options, limit):
    """Whether or not the stream goes on by itself where it stands; 4 batches are all of it."""
    loader, whole, states = loader_of(stream(12), **options), [], []
    for epoch in range(3):
        loader.set_epoch(epoch)
        whole.append(list(itertools.islice(loader, limit)))
        states.append(copy.deepcopy(loader.state_dict()))
    assert [len(batches) for batches in whole] == [limit or 4] * 3
    for epoch in (1, 2):
        again = loader_of(stream(12), **options)
        again.load_state_dict(states[epoch - 1])
        again.set_epoch(epoch)
        assert list(itertools.islice(again, limit)) == whole[epoch]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("stream", STATEFUL)
def test_what_a_state_holds_is_the_same_after_a_resume_at_each_batch(stream, num_workers):
    whole = list(loader_of(stream(13), num_workers))
    for batch in range(1, len(whole)):
        loader = loader_of(stream(13), num_workers)
        read = list(itertools.islice(loader, batch))
        assert read + list(resumed(stream(13), num_workers, 0, batch, loader.state_dict())) == whole


@pytest.mark.parametrize("stream", STATEFUL[:4])
def test_a_pass_within_a_pass_over_a_stream_with_a_state_disturbs_nothing(stream):
    whole = list(loader_of(stream()))
    loader, read = loader_of(stream()), []
    for batch in loader:
        read.append(batch)
        inner = list(itertools.islice(loader, len(read) % 3))
        assert numbers(inner) == numbers(whole[: len(inner)])
    assert read == whole


def test_a_state_of_another_epoch_is_not_gone_on_from():
    loader = loader_of(Shards())
    next(iter(loader))
    again = loader_of(Shards())
    again.load_state_dict(loader.state_dict())
    again.set_epoch(1)
    again.set_start(1)
    with pytest.raises(RuntimeError, match=r"set_start\(1\) in epoch 1: the state that was loaded is of epoch 0"):
        iter(again)


def test_another_number_of_workers_is_refused_where_there_are_no_shards():
    loader = loader_of(Stepping(), 2)
    next(iter(loader))
    with pytest.raises(RuntimeError, match=r"num_workers=2.*num_workers=3.*num_shards"):
        loader_of(Stepping(), 3).load_state_dict(loader.state_dict())


def test_a_stream_without_a_state_says_so():
    assert "Mute is iterable and has no `state_dict`" in (loader_of(Mute()).why_no_exact_resume() or "")
    assert sorted(numbers(list(loader_of(Mute())))) == list(range(12))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 1), (1, 4)])
def test_virtual_shards_go_on_with_other_ranks(before, after):
    """Every sample once: what was read before, on all ranks, and what all ranks read after."""
    lengths = (9, 9, 9, 9, 9, 9)
    states, seen = [], []
    for rank in range(before):
        with as_rank(rank, before):
            loader = loader_of(Shards(lengths), rank % 2)
            seen += numbers(list(itertools.islice(loader, 4)))
            states.append(loader.state_dict())
    for rank in range(after):
        with as_rank(rank, after):
            loader = loader_of(Shards(lengths), 2)
            loader.load_state_dict(merge_loader_states(states, after, rank))
            seen += numbers(list(loader))
    assert sorted(seen) == list(range(54))


def test_the_ranks_of_other_streams_stay():
    states = [loader_of(Stepping()).state_dict()] * 2
    with pytest.raises(RuntimeError, match=r"2 ranks.*3"):
        merge_loader_states(states, 3, 0)
    assert merge_loader_states([{"a": 1}, {"a": 2}], 2, 1) == {"a": 2}


# ------------------------------------------------------------------ of libraries
def hugging_face(shuffles: bool = False) -> Any:
    datasets = pytest.importorskip("datasets")

    def samples(shards):
        for shard in shards:
            for i in range(LENGTHS[shard]):
                yield {"number": sum(LENGTHS[:shard]) + i}

    stream = datasets.IterableDataset.from_generator(samples, gen_kwargs={"shards": list(range(6))})
    if shuffles:  # reads ahead in threads, whose draws no seed reaches; what draws comes after it
        stream = stream.shuffle(seed=3, buffer_size=4)
    return stream.map(lambda sample: {**sample, "draw": random.random()})


@pytest.mark.parametrize("shuffles", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_of_hugging_face(shuffles, num_workers):
    whole = passes(loader_of(hugging_face(shuffles)), 3)
    for batches in whole:
        assert sorted(n for batch in batches for n in batch["number"]) == list(range(sum(LENGTHS)))
    if shuffles:
        assert [b["number"] for b in whole[0]] != [b["number"] for b in whole[1]] != [b["number"] for b in whole[2]]
    assert passes(loader_of(hugging_face(shuffles), num_workers), 3) == whole
    for batch in (1, 4, len(whole[1])):
        loader = loader_of(hugging_face(shuffles), 2 - num_workers)
        loader.set_epoch(1)
        list(itertools.islice(loader, batch))
        again = resumed(hugging_face(shuffles), num_workers, 1, batch, loader.state_dict())
        assert list(again) == whole[1][batch:]
        again.set_epoch(2)
        assert list(again) == whole[2]  # and not without what came before the checkpoint

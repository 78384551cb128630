"""Generators that reading makes, endless orders and loaders in step behind a limit, `overfit` over streams."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from lazyengine.dataset import BaseDataset, CombinedLoader, ConcatDataset, DataLoader, InfiniteSampler, set_epoch
from lazyengine.runner import EpochBasedTrainLoop, Runner

from ..runner.toy import StopAt, ToyData, toy_runner


def read_by(runner: Any) -> list[list[int]]:
    """Return the indices in each batch that the model has been trained on."""
    return runner.model.batches


class MakesOne:
    """Draws from a generator that it makes when it first needs one, as augmentation libraries do."""

    generator: Any = None

    def __call__(self, record: dict[str, Any]) -> Any:
        if self.generator is None:
            self.generator = np.random.default_rng()
        return record["sample_idx"], self.generator.random()


class MakesOneForEachKind:
    def __init__(self) -> None:
        self.by_kind: dict[int, random.Random] = {}

    def __call__(self, record: dict[str, Any]) -> Any:
        return record["sample_idx"], self.by_kind.setdefault(record["sample_idx"] % 3, random.Random()).random()


class MakesOneAnewWhereItIsNone:
    def __init__(self) -> None:
        self.generators: dict[str, Any] = {"a": None, "b": None}

    def __call__(self, record: dict[str, Any]) -> Any:
        name = "ab"[record["sample_idx"] % 2]
        self.generators[name] = self.generators[name] or random.Random()
        return record["sample_idx"], self.generators[name].random()


class Numbers(BaseDataset):
    def load_data_list(self) -> Any:
        return [{} for _ in range(6)]


@pytest.mark.parametrize("kind", [MakesOne, MakesOneForEachKind, MakesOneAnewWhereItIsNone])
def test_a_generator_that_is_made_in_a_later_batch_is_seeded_too(kind):
    def read(num_workers, start=0):
        data = ConcatDataset([Numbers(pipeline=[kind()]), Numbers(pipeline=[kind()])])
        loader = DataLoader(data, 2, seed=3, num_workers=num_workers, multiprocessing_context="fork")
        loader.set_start(start)
        return [[part.tolist() for part in batch] for batch in loader]

    whole = read(0)
    assert whole == read(0) == read(2)
    assert read(0, start=4) == whole[4:]


class MakesOneInItsStream(IterableDataset):
    num_shards = 1
    generator: Any = None

    def __iter__(self) -> Any:
        raise NotImplementedError

    def iter_shard(self, shard, epoch, state):
        for i in range(state or 0, 6):
            self.generator = self.generator or random.Random()
            yield torch.tensor([i, self.generator.random()])


def test_a_stream_that_makes_a_generator_while_it_is_read_is_named_and_seeded_from_the_next_batch(caplog):
    first, second = ([b.tolist() for b in DataLoader(MakesOneInItsStream(), 2, seed=0)] for _ in range(2))
    assert first[1:] == second[1:]
    assert caplog.text.count("MakesOneInItsStream has made generators while its batch 0 of epoch 0 was read") == 2


def orders_of(loader, num_epochs: int = 2, num_batches: int = 3) -> list[list[int]]:
    found = []
    for epoch in range(num_epochs):
        set_epoch(loader, epoch)
        found.append([batch.tolist() for batch in itertools.islice(loader, num_batches)])
    return found


def test_an_endless_order_is_another_one_in_each_epoch_that_is_cut_off():
    first, second = orders_of(DataLoader(range(1000), 2, sampler=InfiniteSampler(range(1000)), seed=0))
    assert first != second
    loader = DataLoader(range(1000), 2, sampler=InfiniteSampler(range(1000)), seed=0)
    set_epoch(loader, 1)
    loader.set_start(2)
    assert [next(iter(loader)).tolist()] == second[2:]


def test_an_endless_loader_beside_a_short_one_does_not_repeat_its_first_batches(tmp_path):
    runner = toy_runner(str(tmp_path), max_iters=10)
    data = ToyData(200)
    endless = DataLoader(data, 4, sampler=InfiniteSampler(data))
    combined = CombinedLoader({"labeled": DataLoader(ToyData(), 4), "other": endless}, "shortest")
    set_epoch(combined, 0)
    read = []
    for epoch in range(3):
        set_epoch(combined, epoch)
        read += [batch["other"]["index"].tolist() for batch in combined]
    assert len({str(batch) for batch in read}) == 15
    runner.train_loop.dataloader, runner.train_loop.limit, runner.train_loop.epoch_length = endless, 2, 2
    runner.train()
    assert len({str(batch) for batch in read_by(runner)}) == 10


class Pairs:
    """Takes the first loader's batch of a combined one."""

    def __init__(self, combined: CombinedLoader) -> None:
        self.combined = combined

    def __getattr__(self, name: str) -> Any:
        return getattr(self.combined, name)

    def __iter__(self) -> Any:
        return (batch["a"] for batch in iter(self.combined))


@pytest.mark.parametrize("mode", ["in_step", "shortest", "cycle"])
def test_loaders_in_step_begin_the_next_pass_at_its_beginning_after_a_resume_at_the_limit(tmp_path, mode):
    def train(folder, *hooks, resume=False):
        named = {f"of_{type(hook).__name__}": hook for hook in hooks}
        runner = toy_runner(str(tmp_path / folder), max_iters=9, hooks=named, resume=resume)
        loaders = {name: DataLoader(ToyData(), 4, shuffle=True) for name in "ab"}
        loop = runner.train_loop
        loop.dataloader, loop.limit, loop.epoch_length = Pairs(CombinedLoader(loaders, mode)), 3, 3
        return runner

    whole = train("whole")
    whole.train()
    killed = train("killed", StopAt(4))
    checkpoints: Any = killed.hooks["checkpoint"]
    checkpoints.interval, checkpoints.by_epoch = 3, False
    with pytest.raises(InterruptedError):
        killed.train()
    resumed = train("killed", resume=True)
    resumed.train()
    assert resumed.iter == 9
    assert read_by(resumed) == read_by(whole)[3:]


def test_what_is_set_holds_for_an_iteration_of_which_no_batch_is_asked_for():
    combined = CombinedLoader({name: DataLoader(range(6), 2) for name in "ab"})
    whole = [batch["a"].tolist() for batch in combined]
    combined.set_start(3)
    iter(combined)
    assert [batch["a"].tolist() for batch in combined] == whole
    shuffled = CombinedLoader({"a": DataLoader(range(6), 2, shuffle=True, seed=0)})
    first = [batch["a"].tolist() for batch in shuffled]
    iteration = iter(shuffled)
    set_epoch(shuffled, 1)
    assert [batch["a"].tolist() for batch in iteration] == first


class Standing(IterableDataset):
    """A stream that goes on where it stands, also from pass to pass."""

    def __init__(self) -> None:
        self.data: Any = ToyData()
        self.at = 0

    def __iter__(self) -> Any:
        while self.at < len(self.data):
            self.at += 1
            yield self.data[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize(("num_workers", "stays"), [(0, False), (1, False), (1, True)])
def test_overfitting_on_a_stream_stays_with_its_first_batches(tmp_path, num_workers, stays):
    def train(hooks, resume=False):
        runner = toy_runner(str(tmp_path), max_iters=8, hooks=hooks, resume=resume)
        options = {"num_workers": num_workers, "persistent_workers": stays, "multiprocessing_context": "fork"}
        runner.train_loop.dataloader = DataLoader(Standing(), 4, **options)
        loop = runner.train_loop
        loop.overfit, loop.limit, loop.epoch_length = 2, 3, 3
        checkpoints: Any = runner.hooks["checkpoint"]
        checkpoints.interval, checkpoints.by_epoch = 2, False
        return runner

    killed = train({"stop": StopAt(5)})
    with pytest.raises(InterruptedError):
        killed.train()
    resumed = train({}, resume=True)
    resumed.train()
    a, b = [0, 1, 2, 3], [4, 5, 6, 7]
    assert read_by(killed) == [a, b, a, a, b]
    assert read_by(resumed) == [b, a, a, b][-len(read_by(resumed)) :] != []


class Anew(Standing):
    """The same, which begins anew at each pass."""

    def __iter__(self) -> Any:
        yield from (self.data[i] for i in range(len(self.data)))


def epochs_of(folder, limit: int) -> Any:
    runner = toy_runner(str(folder))
    val_loop, wrapper, model = runner.val_loop, runner.optim_wrapper, runner.model
    loop = EpochBasedTrainLoop(DataLoader(Anew(), 4), 3, limit=limit)
    return Runner(model, train_loop=loop, val_loop=val_loop, optim_wrapper=wrapper, work_dir=str(folder))


def test_a_stream_is_trained_on_in_epochs_of_limit_batches(tmp_path):
    runner = epochs_of(tmp_path / "two", limit=2)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    assert read_by(runner) == [[0, 1, 2, 3], [4, 5, 6, 7]] * 3
    assert runner.num_batches("train") == 2
    with pytest.raises(RuntimeError, match=r"an epoch has 9 batches, and the train loader gave 5 in epoch 0; .*limit"):
        epochs_of(tmp_path / "nine", limit=9).train()
    with pytest.raises(TypeError, match=r"set train_loop\.limit to the batches of an epoch"):
        EpochBasedTrainLoop(DataLoader(Anew(), 4), 2)

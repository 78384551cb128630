"""Generators of one's own in datasets, transforms, collate functions and samplers: exact with any workers."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler

from lazyengine.dataset import BaseDataset, DataLoader, find_generators, pseudo_collate, settle_generators


class Slotted:
    __slots__ = ("draws",)

    def __init__(self) -> None:
        self.draws = random.Random(0)

    def __call__(self, sample: Any) -> Any:
        return [*sample, self.draws.random()]


def add_noise(generator: Any, sample: Any) -> Any:
    return [*sample, float(generator.random())]


def in_a_closure(generator: Any) -> Any:
    return lambda sample: [*sample, float(torch.rand((), generator=generator))]


class InAttribute:
    def __init__(self) -> None:
        self.rng = np.random.RandomState(3)

    def __call__(self, sample: Any) -> Any:
        return [*sample, float(self.rng.rand())]


class MadeLate:
    """Makes its generator when it is first needed."""

    rng = None

    def __call__(self, sample: Any) -> Any:
        self.rng = self.rng or np.random.default_rng(7)
        return [*sample, float(self.rng.normal())]


class OfItsClass(InAttribute):
    rng = np.random.RandomState(5)

    def __init__(self) -> None:
        pass


class Inherited(OfItsClass):
    pass


class OfItsClassLate:
    rng: Any = None

    def __call__(self, sample: Any) -> Any:
        type(self).rng = self.rng or random.Random()
        return [*sample, self.rng.random()]


TRANSFORMS = {
    "of the class": OfItsClass,
    "inherited": Inherited,
    "of the class, late": OfItsClassLate,
    "slots": Slotted,
    "partial": lambda: functools.partial(add_noise, np.random.default_rng(1)),
    "closure": lambda: in_a_closure(torch.Generator().manual_seed(4)),
    "attribute": InAttribute,
    "late": MadeLate,
    "philox": lambda: functools.partial(add_noise, np.random.Generator(np.random.Philox(2))),
    "mersenne": lambda: functools.partial(add_noise, np.random.Generator(np.random.MT19937(2))),
    "sfc": lambda: functools.partial(add_noise, np.random.Generator(np.random.SFC64(2))),
    "nested": lambda: (lambda inner: lambda sample: inner[0]["deep"](sample))([{"deep": Slotted()}]),
}


class Data:
    def __init__(self, *transforms: Any, size: int = 20) -> None:
        self.transforms, self.size = list(transforms), size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        sample = [index]
        for transform in self.transforms:
            sample = transform(sample)
        return sample


def make(data: Any, num_workers: int = 0, **options: Any) -> DataLoader:
    options = {"collate_fn": pseudo_collate, "seed": 2, "multiprocessing_context": "fork", **options}
    return DataLoader(data, 3, num_workers=num_workers, **options)


def epoch_of(loader: DataLoader, epoch: int, start: int = 0) -> list[Any]:
    loader.set_epoch(epoch)
    loader.set_start(start)
    return list(loader)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_generator_is_a_function_of_the_position(name):
    whole = [epoch_of(make(Data(TRANSFORMS[name]())), epoch) for epoch in (0, 1)]
    assert whole[0] != whole[1]
    draws = [draw for batch in whole[0] for draw in batch[1]]
    assert len(set(draws)) == len(draws) == 20
    loader = make(Data(TRANSFORMS[name]()))
    assert [epoch_of(loader, 0), epoch_of(loader, 1), epoch_of(loader, 1, 4)] == [*whole, whole[1][4:]]
    for persistent in (False, True):
        loader = make(Data(TRANSFORMS[name]()), 2, persistent_workers=persistent)
        assert [epoch_of(loader, 0), epoch_of(loader, 1), epoch_of(loader, 1, 4)] == [*whole, whole[1][4:]]
    assert loader.why_no_exact_resume() is None


def test_spawned_workers_too():
    data = Data(InAttribute(), Slotted())
    whole = [epoch_of(make(data), epoch) for epoch in (0, 1)]
    loader = make(data, 2, multiprocessing_context="spawn", persistent_workers=True)
    assert [epoch_of(loader, 0), epoch_of(loader, 1), epoch_of(loader, 1, 4)] == [*whole, whole[1][4:]]


def two_draws(generator: Any, sample: Any) -> Any:
    """Draws 64 bits and 32, of which numpy keeps the other half for the next draw."""
    return [*sample, float(generator.random()), float(generator.integers(1 << 32, dtype=np.uint32)) / 2**32]


@pytest.mark.parametrize("kind", [np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937])
def test_batches_have_streams_that_have_nothing_in_common(kind):
    data = Data(functools.partial(two_draws, np.random.Generator(kind(0))), size=4500)
    whole = epoch_of(make(data), 1)
    assert epoch_of(make(data), 1, 700) == whole[700:]
    first = np.array([[draws[0] for draws in batch[1:]] for batch in whole])
    assert np.abs(first.mean(0) - 0.5).max() < 0.03
    assert np.abs(first.std(0) - 12**-0.5).max() < 0.02
    assert np.abs(np.corrcoef(np.concatenate([first[:-1], first[1:]], 1).T) - np.eye(4)).max() < 0.1


class Collate:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, samples: list[Any]) -> Any:
        return samples, self.rng.integers(1 << 40)


def test_a_collate_function_too():
    whole = epoch_of(make(Data(), collate_fn=Collate()), 1)
    assert epoch_of(make(Data(), 2, collate_fn=Collate()), 1, 3) == whole[3:]


class Stream(IterableDataset[Any]):
    """A stream whose samples are drawn from a generator of its own."""

    num_shards = 3

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Any:
        raise NotImplementedError

    def iter_shard(self, shard: int, epoch: int, state: int | None) -> Any:
        for i in range(state or 0, 9):
            yield shard, i, float(self.rng.random())


def test_a_stream_too():
    whole = epoch_of(make(Stream()), 1)
    assert len({draw for batch in whole for draw in batch[2]}) == 27
    assert epoch_of(make(Stream(), 2), 1) == whole


class Lazy:
    """A sampler that draws while it is iterated over."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Any:
        for _ in range(12):
            yield self.draw()


def own_draw() -> Any:
    rng = np.random.default_rng(0)
    return lambda: int(rng.integers(20))


SAMPLERS = {
    "global random": lambda: Lazy(lambda: random.randrange(20)),
    "global numpy": lambda: Lazy(lambda: int(np.random.randint(20))),
    "global torch": lambda: Lazy(lambda: int(torch.randint(20, ()))),
    "its own": lambda: Lazy(own_draw()),
    "torch's with a generator": lambda: RandomSampler(range(20), generator=torch.Generator()),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("batches", [False, True])
def test_a_sampler_that_draws_lazily(name, batches):
    def loader(num_workers=0):
        sampler = SAMPLERS[name]()
        if batches:
            given = BatchSampler(sampler, 3, drop_last=False)
            return DataLoader(Data(), collate_fn=pseudo_collate, seed=2, num_workers=num_workers, batch_sampler=given)
        return make(Data(), num_workers, sampler=sampler)

    whole = epoch_of(loader(), 1)
    assert epoch_of(loader(), 0) != whole
    disturbed = loader()
    epoch_of(disturbed, 0)
    torch.manual_seed(1)
    disturbed.set_epoch(1)
    found = []
    for batch in disturbed:
        found.append(batch)
        np.random.seed(1)
        random.seed(1)
        torch.manual_seed(1)
    assert found == whole
    assert epoch_of(loader(2), 1, 2) == whole[2:]
    assert loader().why_no_exact_resume() is None


def test_albumentations():
    albumentations = pytest.importorskip("albumentations")

    def transform():
        steps = [albumentations.RandomCrop(4, 4), albumentations.HorizontalFlip(p=0.5), albumentations.GaussNoise(p=1)]
        pipeline = albumentations.Compose(steps, seed=137)
        image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
        return lambda sample: [*sample, pipeline(image=image)["image"].tobytes()]

    whole = [epoch_of(make(Data(transform())), epoch) for epoch in (0, 1)]
    assert whole[0] != whole[1]
    for num_workers in (0, 2):
        assert epoch_of(make(Data(transform()), num_workers), 1, 2) == whole[1][2:]
    loader = make(Data(transform()), 2, multiprocessing_context="fork", persistent_workers=True)
    assert [epoch_of(loader, 0), epoch_of(loader, 1)] == whole


def test_what_is_found_has_a_path_and_global_ones_are_not_taken():
    data = Data(Slotted(), functools.partial(add_noise, np.random.default_rng(0)), random.random, np.random.rand)
    found = find_generators({"dataset": data})
    assert list(found) == ["dataset.transforms[0].draws", "dataset.transforms[1].args[0]"]


def test_the_start_lists_them():
    loader = make(Data(InAttribute(), Slotted()))
    lines = "\n".join(settle_generators(loader))
    assert "replaced: dataset.transforms[0].rng, dataset.transforms[1].draws" in lines
    assert settle_generators(make(Data())) == []


def test_one_that_the_model_draws_from_too_is_left_alone():
    shared = np.random.default_rng(0)
    model = torch.nn.Linear(1, 1)
    model.noise = [shared]  # type: ignore[assignment]
    loader = make(Data(functools.partial(add_noise, shared), Slotted()))
    lines = "\n".join(settle_generators(loader, {"model": model}))
    assert "dataset.transforms[0].args[0]" not in lines
    assert "dataset.transforms[0].args[0] is model.noise[0] too" in (loader.why_no_exact_resume() or "")
    before = shared.bit_generator.state
    next(iter(loader))
    expected = np.random.default_rng(0)
    expected.random(3)
    assert before != shared.bit_generator.state == expected.bit_generator.state


def test_one_that_the_user_registered_is_left_to_him():
    own = torch.Generator().manual_seed(3)
    loader = make(Data(in_a_closure(own)))
    settle_generators(loader, registered=[own])
    first = [draw for batch in loader for draw in batch[1]]
    assert first == [float(torch.rand((), generator=g)) for g in [torch.Generator().manual_seed(3)] for _ in range(20)]
    assert loader.why_no_exact_resume() is None
    assert "registered" in (make(Data(in_a_closure(own)), 2).why_no_exact_resume() or "registered")


def test_saving_their_states_instead():
    not_own = ("late", "of the class", "inherited", "of the class, late")

    def loader():
        kinds = [kind() for name, kind in TRANSFORMS.items() if name not in not_own]
        return make(Data(*kinds), own_generators="save")

    whole = list(loader())
    first = loader()
    iterator = iter(first)
    read = [next(iterator) for _ in range(3)]
    second = loader()
    second.load_state_dict(first.state_dict())
    second.set_start(3)
    assert read + list(second) == whole
    assert "num_workers=0" in (make(Data(InAttribute()), 2, own_generators="save").why_no_exact_resume() or "")


def test_leaving_them_is_named():
    loader = make(Data(InAttribute()), own_generators="leave")
    assert "dataset.transforms[0].rng" in (loader.why_no_exact_resume() or "")
    assert make(Data(), own_generators="leave").why_no_exact_resume() is None
    with pytest.raises(ValueError, match="own_generators: got 'keep'"):
        make(Data(), own_generators="keep")


class Counting(Data):
    calls = 0

    def __getitem__(self, index: int) -> Any:
        self.calls += 1
        return [index, self.calls]


def test_a_counter_is_named_at_the_start():
    assert any("dataset.calls (Counting.__getitem__)" in line for line in settle_generators(make(Counting())))


class Many(BaseDataset):
    def load_data_list(self) -> Any:
        return [{"number": i} for i in range(2_000)]


def test_ten_million_records_are_not_walked_through():
    seen: list[int] = []

    class Record(dict):
        def __iter__(self):
            seen.append(1)
            return super().__iter__()

    data = Data(Slotted())
    data.records = [Record(number=1)] * 10_000_000  # type: ignore[attr-defined]
    assert len(find_generators({"dataset": data})) == 1
    assert settle_generators(make(data))
    whole = next(iter(make(data)))
    assert next(iter(make(data, 2))) == whole
    assert not seen
    assert find_generators({"dataset": Many(serialize_data=False)}) == {}

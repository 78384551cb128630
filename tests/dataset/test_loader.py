import random
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lazyengine.dataset import (
    BaseDataset,
    DataLoader,
    DefaultSampler,
    InfiniteSampler,
    default_collate,
    pseudo_collate,
)
from lazyengine.errors import UsageRuntimeError
from lazyengine.seeding import DATA_STREAM, derive_seed

from .samples import Augmented, Boxes, Broken, Shapes, StatelessStream, Stream, jittered_collate
from .test_golden import as_rank


def plain(batch):
    """A batch as lists that can be compared."""
    return [part.tolist() if isinstance(part, torch.Tensor) else part for part in batch]


def epoch_of(loader, epoch=0, start=0):
    loader.set_epoch(epoch)
    loader.set_start(start)
    return [plain(batch) for batch in loader]


def make(dataset=None, batch_size=5, **kwargs):
    options = {"shuffle": "sampler" not in kwargs and "batch_sampler" not in kwargs, "seed": 3, **kwargs}
    return DataLoader(dataset or Augmented(), batch_size, collate_fn=jittered_collate, **options)


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def next_draws():
    """What numpy's and torch's global streams give next."""
    return np.random.rand(700).tolist(), torch.rand(700).tolist()


def test_a_batch_is_a_function_of_seed_epoch_and_position():
    loader = make()
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert first != second
    assert epoch_of(loader, 0) == first
    assert epoch_of(make(seed=4), 0) != first
    for start in range(6):
        assert epoch_of(loader, 1, start) == second[start:]
    assert epoch_of(loader, 1) == second  # the start held for one iteration only


def test_an_epoch_uses_every_sample_once_and_every_batch_its_own_stream():
    batches = epoch_of(make())
    assert sorted(row[0] for rows, _ in batches for row in rows) == list(range(24))
    assert len({tuple(noise) for _, noise in batches}) == len(batches) == 5


def test_ranks_draw_different_numbers():
    with as_rank(0, 2):
        first = epoch_of(make())
    with as_rank(1, 2):
        second = epoch_of(make())
    assert [noise for _, noise in first] != [noise for _, noise in second]
    read = [row[0] for batches in (first, second) for rows, _ in batches for row in rows]
    assert sorted(read) == list(range(24))


def test_the_documented_seed_is_used():
    loader = make(num_workers=0)
    loader.set_epoch(2)
    loader.set_start(1)
    ((rows, _), *_) = loader
    seed = derive_seed(3, DATA_STREAM, 2, 1, 0)
    random.seed(seed)
    assert rows[0, 2].item() == pytest.approx(random.random())


def test_reading_leaves_the_streams_of_the_model_alone():
    seed_all(5)
    expected = next_draws()
    seed_all(5)
    epoch_of(make())
    assert next_draws() == expected
    with_reading, without = [], []
    for found, loader in ((with_reading, iter(make())), (without, None)):
        seed_all(5)
        for _ in range(5):
            if loader is not None:
                next(loader)
            found.append((np.random.rand(), torch.rand(()).item(), torch.randn(()).item()))
    assert with_reading == without


def test_pythons_stream_goes_on_from_the_batch():
    def draws(seed, start):
        random.seed(seed)
        loader = make()
        loader.set_start(start)
        return [random.random() for _ in loader]

    assert draws(1, 0)[2:] == draws(2, 2)


def test_reading_for_steps_gives_the_same_batches_and_leaves_the_streams_where_they_are():
    expected, steps = epoch_of(make()), make().iterate_for_steps()
    draws = set()
    for batch in expected:
        seed_all(5)
        assert plain(next(steps)) == batch
        draws.add(repr(next_draws()))
    assert len(draws) == len(expected)  # each goes on from its batch, whatever it was before


class Mixing(DataLoader):
    """Draws around the reading, as a mixup of batches may."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch, torch.rand(()).item()


def test_reading_for_steps_changes_nothing_for_a_loader_of_the_users():
    seed_all(5)
    expected = [torch.rand(()).item() for _ in range(5)]
    seed_all(5)
    loader = Mixing(Augmented(), 5, collate_fn=jittered_collate, seed=3)
    assert [number for _, number in loader.iterate_for_steps()] == expected


def test_starting_an_epoch_draws_nothing():
    torch.manual_seed(5)
    before = torch.default_generator.get_state()
    for loader in (make(), DataLoader(Stream(), 2, seed=1)):
        iter(loader)
    assert torch.equal(torch.default_generator.get_state(), before)


def test_a_failed_read_restores_the_streams():
    seed_all(5)
    expected = next_draws()
    seed_all(5)
    with pytest.raises(ValueError, match="broken image"):
        list(DataLoader(Broken("raises"), 4, seed=0))
    assert next_draws() == expected


def test_seeding_can_be_switched_off():
    loader = make(seed_batches=False)
    torch.manual_seed(1)
    first = epoch_of(loader)
    assert [[row[0] for row in rows] for rows, _ in first] == [[row[0] for row in rows] for rows, _ in epoch_of(make())]
    torch.manual_seed(1)
    second = epoch_of(loader)
    assert [noise for _, noise in first] == [noise for _, noise in second]  # torch's own stream, from where it stood
    assert loader.why_no_exact_resume() is not None


def test_the_epoch_that_was_set_when_an_iteration_began_holds():
    loader = make()
    expected = epoch_of(loader, 0)
    loader.set_epoch(0)
    iterator = iter(loader)
    loader.set_epoch(1)
    assert [plain(batch) for batch in iterator] == expected


def test_a_sampler_without_a_seed_follows_the_loader():
    loader = make(seed=None)
    loader.set_seed(3)
    assert epoch_of(loader) == epoch_of(make())
    loader.set_seed(4)
    assert epoch_of(loader) == epoch_of(make(seed=4))
    with mock.patch("lazyengine.dist.sync_random_seed", return_value=3):
        assert epoch_of(make(seed=None)) == epoch_of(make())


def test_an_infinite_loader_can_start_anywhere():
    loader = make(sampler=InfiniteSampler(range(24)))
    iterator = iter(loader)
    stream = [plain(next(iterator)) for _ in range(12)]
    assert all(len(rows) == 5 for rows, _ in stream)
    loader.set_start(7)
    iterator = iter(loader)
    assert [plain(next(iterator)) for _ in range(5)] == stream[7:]
    with pytest.raises(TypeError, match="never ends"):
        len(loader)


SAMPLERS = {
    "random": RandomSampler,
    "replacing": lambda data: RandomSampler(data, replacement=True, num_samples=70),
    "weighted": lambda data: WeightedRandomSampler([1.0] * len(data), len(data)),
    "subset": lambda data: SubsetRandomSampler(range(0, 24, 2)),
    "sequential": SequentialSampler,
    "distributed": lambda data: DistributedSampler(data, num_replicas=2, rank=1),
    "list": lambda data: [3, 1, 2, 0],
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_of_others_are_functions_of_the_epoch_too(name):
    data = Augmented()
    loader = make(data, sampler=SAMPLERS[name](data))
    epochs = [epoch_of(loader, epoch) for epoch in (0, 1)]
    assert epoch_of(loader, 0) == epochs[0]
    assert epoch_of(loader, 1, 1) == epochs[1][1:]
    assert len(loader) == len(epochs[0])
    assert loader.why_no_exact_resume() is None
    if name in ("random", "replacing", "weighted", "subset", "distributed"):
        assert [row[0] for rows, _ in epochs[0] for row in rows] != [row[0] for rows, _ in epochs[1] for row in rows]


def test_batch_samplers_of_others():
    sampler = BatchSampler(RandomSampler(range(24)), 7, drop_last=True)
    loader = make(batch_size=1, batch_sampler=sampler)
    assert [len(rows) for rows, _ in epoch_of(loader)] == [7, 7, 7]
    assert epoch_of(loader, 0, 2) == epoch_of(loader)[2:]
    with pytest.raises(ValueError, match="mutually exclusive"):
        make(batch_size=2, batch_sampler=sampler)


def test_a_sampler_with_its_own_generator_is_named_where_it_is_left_alone():
    loader = make(sampler=RandomSampler(range(24), generator=torch.Generator()), own_generators="leave")
    assert "nobody saves the states of sampler.generator" in (loader.why_no_exact_resume() or "")
    assert "timing" in (make(in_order=False).why_no_exact_resume() or "")
    assert make().why_no_exact_resume() is None


def test_single_samples():
    loader = DataLoader(Augmented(4), None, shuffle=True, seed=0)
    samples = list(loader)
    assert sorted(sample[0] for sample in samples) == [0, 1, 2, 3]
    loader.set_start(2)
    assert list(loader) == samples[2:]
    infinite = iter(DataLoader(Augmented(3), None, sampler=InfiniteSampler(range(3), shuffle=False), seed=0))
    assert [next(infinite)[0] for _ in range(4)] == [0, 1, 2, 0]


def test_length_and_last_batch():
    assert (len(make()), len(make(drop_last=True)), len(epoch_of(make(drop_last=True)))) == (5, 4, 4)
    with as_rank(1, 5):
        assert len(make(batch_size=2)) == 3  # 24 samples are rounded up to 25


def label_only(info):
    return {"label": info["label"]}


def test_datasets_with_getitems_and_records():
    loader = DataLoader(Subset(Augmented(), [5, 6, 7]), 2)  # type: ignore[arg-type]
    assert [batch[0].tolist() for batch in loader] == [[5, 6], [7]]
    loader = DataLoader(Boxes(5, lazy_init=True, pipeline=[label_only]), 2, collate_fn=pseudo_collate)
    assert loader.dataset._fully_initialized
    assert [batch["label"] for batch in loader] == [[0, 1], [2, 3], [4]]


def test_the_loader_keeps_what_it_was_given():
    data = Augmented()
    loader = DataLoader(data, 5, drop_last=True)
    assert loader.dataset is data
    assert (loader.batch_size, loader.drop_last, loader.collate_fn) == (5, True, default_collate)


def test_options_of_workers_do_not_hinder_reading_in_the_main_process():
    options = {"timeout": 5, "persistent_workers": True, "prefetch_factor": 4, "multiprocessing_context": "spawn"}
    assert epoch_of(make(pin_memory=True, **options)) == epoch_of(make())


class Nothing(BaseDataset):
    def load_data_list(self):
        return []


def test_loaders_without_batches_are_refused():
    with pytest.raises(ValueError, match=r"the dataset \(Nothing\) is empty: check its ann_file"):
        DataLoader(Nothing(), 2)
    with pytest.raises(
        ValueError, match="drop_last=True leaves no batch: this rank has 24 samples, fewer than batch_size=25"
    ):
        make(batch_size=25, drop_last=True)
    with pytest.raises(ValueError, match="has no batches"):
        make(sampler=[])


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="dataset: got int; accepted"):
        DataLoader(3)
    with pytest.raises(TypeError, match="collate_fn: got None; accepted: a callable"):
        DataLoader(Augmented(), collate_fn=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shuffle=True and sampler=list: give one"):
        DataLoader(Augmented(), shuffle=True, sampler=[1])
    loader = make()
    for start in (-1, 6):
        with pytest.raises(ValueError, match=rf"set_start\({start}\): an epoch of this loader has 5 batches"):
            loader.set_start(start)


ORDERS = {
    "ours": lambda data: {"sampler": DefaultSampler(data), "batch_size": 2},
    "torch's": lambda data: {"sampler": RandomSampler(data), "batch_size": 2},
    "torch's, of batches": lambda data: {"batch_sampler": BatchSampler(SequentialSampler(data), 2, False)},
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_of_another_dataset_is_refused_or_said_so(caplog, order):
    """As where a change of the config exchanges the loader's dataset and leaves the sampler's."""
    data, make_order = list(range(6)), ORDERS[order]
    with pytest.raises(ValueError, match=r"Sampler draws from 7 samples \(list\), but .* has 6; give"):
        DataLoader(data, **make_order(list(range(7))))
    assert len(list(DataLoader(data, **make_order(data)))) == len(list(DataLoader(data, **make_order(data[:])))) == 3
    assert not caplog.records
    assert len(list(DataLoader(data, **make_order(range(4))))) == 2
    assert "draws from 4 samples (range), but the dataset (list) has 6: the others are never read" in caplog.text


def test_errors_name_index_batch_and_epoch():
    loader = DataLoader(Broken("raises"), 4, seed=0)
    loader.set_epoch(2)
    with pytest.raises(ValueError, match="broken image") as caught:
        list(loader)
    assert caught.value.__notes__ == ["while reading index 5 of Broken (batch 1 of epoch 2)"]
    with pytest.raises(RuntimeError, match=r"cannot stack \['image'\].*\(3, 4\), sample 2 has \(3, 5\)") as shapes:
        list(DataLoader(Shapes(8), 4))
    assert shapes.value.__notes__ == [
        "while collating the samples of indices [0, 1, 2, 3] of Shapes (batch 0 of epoch 0)"
    ]
    with pytest.raises(RuntimeError, match="StopIteration, which would have ended the epoch"):
        list(DataLoader(Broken("stops"), 4))


def test_iterable_datasets_with_state_are_resumed():
    loader = DataLoader(Stream(), 2, seed=1)
    whole = [plain(batch) for batch in loader]
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    assert state["stream"]["progress"] == {0: [2, {"position": 4}, False]}
    for saved in (state, {"dataset": {"position": 4}}):  # which is what version 0.1 saved
        resumed = DataLoader(Stream(), 2, seed=1)
        resumed.load_state_dict(saved)
        resumed.set_start(2)
        assert [plain(batch) for batch in resumed] == whole[2:]
        assert resumed.why_no_exact_resume() is None


def test_iterable_datasets_are_seeded_by_epoch():
    loader = DataLoader(Stream(), 2, seed=1)
    assert epoch_of(loader, 0) == epoch_of(loader, 0) != epoch_of(loader, 1)
    before = torch.default_generator.get_state()
    epoch_of(loader, 0)
    assert torch.equal(torch.default_generator.get_state(), before)


def test_exact_resume_is_refused_with_the_reason():
    loader = DataLoader(StatelessStream(), 2)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert "StatelessStream is iterable and has no `state_dict`" in (loader.why_no_exact_resume() or "")
    with pytest.raises(RuntimeError, match="nobody knows where it stands"):
        loader.set_start(1)
    with pytest.raises(RuntimeError, match="the saved run's dataset had a state"):
        loader.load_state_dict({"dataset": {"position": 4}})
    assert loader.state_dict() == make().state_dict() == {}
    with_workers = DataLoader(Stream(), 2, num_workers=2)
    with pytest.raises(RuntimeError, match="num_workers=1, and cannot be shared out among num_workers=2"):
        with_workers.load_state_dict({"dataset": {"position": 4}})


def test_a_profiler_sees_the_reading_of_batches():
    loader = DataLoader(list(range(4)), 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
    assert any(event.key.startswith("enumerate(DataLoader)") for event in profiler.key_averages())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_is_left_out_is_read_as_the_one_after_it(num_workers):
    class Brittle(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index in (2, 3, 5):
                raise ValueError(f"sample {index} is broken")
            return torch.tensor(index)

    loader = DataLoader(Brittle(), batch_size=2, num_workers=num_workers)
    loader.leave_out([2, 3, 5])
    assert [batch.tolist() for batch in loader] == [[0, 1], [4, 4], [4, 0]]
    with pytest.raises(UsageRuntimeError, match="no sample of 6 would be left"):
        loader.leave_out(range(6))

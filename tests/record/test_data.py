"""What a dataset is recognised by, without reading a sample."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from lazyengine.dataset import BaseDataset, RepeatDataset
from lazyengine.record import changed_data, fingerprint


class Unread(torch.utils.data.Dataset):
    """Whatever it holds, its samples are not read."""

    def __init__(self, **attributes) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index):
        raise AssertionError("__getitem__ was called")


class Records(BaseDataset):
    """Records of a number each."""

    def __init__(self, values, **kwargs) -> None:
        self.values = values
        super().__init__(**kwargs)

    def load_data_list(self):
        return [{"value": value, "image": np.full((3, 3), value)} for value in self.values]

    def __getitem__(self, index):
        raise AssertionError("__getitem__ was called")


class Own(Unread):
    """Says itself what it is."""

    def fingerprint(self) -> str:
        return self.version


def changed(a, b) -> list[str]:
    return changed_data({"train": fingerprint(a)}, {"train": fingerprint(b)})


PAIRS = {
    "records": (Records([1, 2]), Records([1, 2]), Records([1, 3])),
    "wrapped": (
        RepeatDataset(Records([1, 2]), 2),
        RepeatDataset(Records([1, 2]), 2),
        RepeatDataset(Records([1, 3]), 2),
    ),
    "tensors": (TensorDataset(torch.ones(4)), TensorDataset(torch.ones(4)), TensorDataset(torch.zeros(4))),
    "array": (Unread(x=np.ones(4)), Unread(x=np.ones(4)), Unread(x=np.zeros(4))),
    "bfloat16": tuple(Unread(x=torch.full((2, 2), v, dtype=torch.bfloat16)) for v in (1, 1, 2)),
    "subset": tuple(Subset(Unread(x=[1]), indices) for indices in ([0, 1], [0, 1], [0, 2])),
    "concat": tuple(ConcatDataset([Unread(x=[1]), Unread(x=[v])]) for v in (1, 1, 2)),
    "lists": tuple(Unread(samples=[("a.png", 0), ("b.png", v)]) for v in (1, 1, 2)),
    "own": tuple(Own(version=v) for v in ("1", "1", "2")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_data_are_noticed_and_equal_ones_are_not(name):
    one, same, other = PAIRS[name]
    assert changed(one, same) == []
    assert len(changed(one, other)) == 1
    assert "error" not in fingerprint(one)


def test_another_length_or_class_is_named():
    assert changed(Records([1]), Records([1, 2])) == ["train: the number of samples was 1 and is 2"]
    assert "the class of the data was" in changed(Records([1]), Unread())[0]


def test_a_file_counts_by_its_name_size_and_time(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"12")
    os.utime(file, (1, 1))
    before = fingerprint(Unread(path=str(file)))
    assert fingerprint(Unread(path=str(file))) == before
    moved = tmp_path / "inside" / "a.bin"
    moved.parent.mkdir()
    moved.write_bytes(b"12")
    os.utime(moved, (1, 1))
    assert fingerprint(Unread(path=str(moved))) == before
    os.utime(moved, (2, 2))
    assert fingerprint(Unread(path=str(moved))) != before


def test_counters_and_objects_are_no_data():
    assert changed(Unread(x=[1], epoch=1, lock=object()), Unread(x=[1], epoch=2, lock=object())) == []


class Made(torch.utils.data.Dataset):
    """Makes its samples of numbers."""

    def __init__(self, length=10, seed=0, train=True, scale=1.0) -> None:
        self.length, self.seed, self.train, self.scale = length, seed, train, scale
        self.num_read = 0

    def __len__(self) -> int:
        return self.length


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"seed": 5}, "train: seed was 0 and is 5"),
        ({"train": False}, "train: train was True and is False"),
        ({"scale": 0.5, "seed": 1}, "train: seed was 0 and is 1, scale was 1.0 and is 0.5"),
        ({"length": 11, "seed": 1}, "train: the number of samples was 10 and is 11"),
    ],
)
def test_numbers_that_data_are_made_of_are_compared(arguments, line):
    """A set of another seed, or the other split, was taken for the same one."""
    one, other = Made(), Made(**arguments)
    one.num_read = 7
    assert changed(one, Made()) == []
    assert changed(one, other) == [line]
    wrapped = ConcatDataset([one, one]), ConcatDataset([one, other])
    assert len(changed(*wrapped)) == 1
    assert "length" in arguments or changed(*wrapped) == [
        line.replace("train: ", "train: [1].").replace(", ", ", [1].")
    ]


def test_a_record_of_before_has_no_numbers_to_compare():
    former = {"train": {k: v for k, v in fingerprint(Made()).items() if k != "arguments"}}
    assert changed_data(former, {"train": fingerprint(Made(seed=5))}) == []


def test_of_large_data_a_spread_part_is_hashed():
    large = np.zeros(8_000_000, np.uint8)
    other = large.copy()
    other[-1] = 1
    assert len(changed(Unread(x=large), Unread(x=other))) == 1
    many = list(range(100_000))
    assert len(changed(Unread(x=many), Unread(x=[*many[:-1], -1]))) == 1


def test_streams_and_broken_classes_stop_nothing():
    class Stream(IterableDataset):
        def __iter__(self):
            raise AssertionError("it was read")

    class Broken(Unread):
        def __len__(self):
            raise RuntimeError("not yet")

    assert fingerprint(Stream())["length"] is None
    assert "not yet" in fingerprint(Broken())["error"]

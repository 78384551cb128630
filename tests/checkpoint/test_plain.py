"""What a checkpoint may hold, and that what it may not hold is named when it is saved."""

import datetime
import enum
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyengine.checkpoint import CheckpointError, read_checkpoint, save_checkpoint, to_plain


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")


def _round_trip(tmp_path, value):
    path = tmp_path / "c.pth"
    save_checkpoint({"value": value}, path)
    loaded = torch.load(path, weights_only=True)["value"]
    again = read_checkpoint(path)["value"]
    assert type(again) is type(loaded)
    return loaded


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.complex64(1j), 1j),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Text("t"), "t"),
        (Point(1, np.int8(2)), (1, 2)),
        (PurePosixPath("/a/b"), "/a/b"),
        (frozenset({1, 2}), {1, 2}),
        ({Color.RED}, {"red"}),
        (deque([1, Color.RED]), [1, "red"]),
        (defaultdict(list, a=[np.int32(1)]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (np.array(["x", "y"]), ["x", "y"]),
        (np.array([{"a": 1}, None], dtype=object), [{"a": 1}, None]),
        (b"", bytearray()),
        (b"\x00\xff", b"\x00\xff"),
        ({Level.HIGH: 1, np.int64(4): 2, (1, np.int8(2)): 3}, {3: 1, 4: 2, (1, 2): 3}),
        (torch.Size([1, 2]), torch.Size([1, 2])),
        (torch.float16, torch.float16),
        (torch.device("cpu"), torch.device("cpu")),
        (10**500, 10**500),
        (float("inf"), float("inf")),
        ([], []),
    ],
)
def test_values_become_plain(tmp_path, value, expected):
    loaded = _round_trip(tmp_path, value)
    assert loaded == expected
    assert type(loaded) is type(expected)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "int64", "float16", "float32", "float64", "complex64", "bool", ">i4"]
)
def test_numeric_arrays_become_tensors(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)[::-1]
    loaded = _round_trip(tmp_path, array)
    assert isinstance(loaded, torch.Tensor)
    assert loaded.shape == (2, 3)
    assert np.array_equal(loaded.numpy(), array)
    assert np.array_equal(_round_trip(tmp_path, np.asarray(array[0, 0])).numpy(), array[0, 0])


def test_read_only_arrays_are_copied(tmp_path):
    array = np.arange(3)
    array.flags.writeable = False
    assert _round_trip(tmp_path, array).tolist() == [0, 1, 2]


TENSORS = {
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "conjugated": torch.tensor([1 + 2j]).conj(),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "uint32": torch.tensor([1], dtype=torch.uint32),
    "sparse": torch.eye(3).to_sparse(),
    "with gradient": torch.ones(2, requires_grad=True) * 2,
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # torch 2.14 on
@pytest.mark.parametrize("name", TENSORS)
def test_tensors(tmp_path, name):
    tensor = TENSORS[name]
    loaded = _round_trip(tmp_path, tensor)
    assert type(loaded) is torch.Tensor
    assert not loaded.requires_grad
    assert loaded.dtype == tensor.dtype
    assert loaded.shape == tensor.shape
    dense, expected = (t.detach().to_dense() if t.layout != torch.strided else t.detach() for t in (loaded, tensor))
    if dense.dtype == torch.float8_e4m3fn:
        dense, expected = dense.float(), expected.float()
    assert torch.equal(dense, expected)


def test_shared_tensors_stay_shared_and_views_save_only_themselves(tmp_path):
    path = tmp_path / "c.pth"
    weight = torch.arange(1000.0)
    save_checkpoint({"a": weight[:3], "b": [weight[:3]], "whole": torch.ones(4), "half": None}, path)
    loaded = torch.load(path)
    assert loaded["a"].tolist() == [0, 1, 2]
    assert loaded["a"].untyped_storage().nbytes() == 12
    assert loaded["a"].data_ptr() == loaded["b"][0].data_ptr()
    assert path.stat().st_size < 4000
    tied = torch.nn.Linear(2, 2)
    save_checkpoint({"a": tied.weight, "b": tied.weight.t()}, path)
    loaded = torch.load(path)
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


def test_state_dict_keeps_type_and_versions(tmp_path):
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    loaded = _round_trip(tmp_path, state)
    assert type(loaded) is OrderedDict
    assert loaded._metadata == state._metadata


def _self_containing():
    value = [1]
    value.append({"inner": value})
    return value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"hooks": [0, {"fn": print}]}, "checkpoint['hooks'][1]['fn']"),
        ({"a": (1, datetime.timedelta(1))}, "checkpoint['a'][1]"),
        ({"a": Path}, "checkpoint['a']"),
        ({"a": slice(3)}, "checkpoint['a']"),
        ({"a": torch.Generator()}, "checkpoint['a']"),
        ({"a": _self_containing()}, "checkpoint['a'][1]['inner']"),
        ({"a": torch.empty(2, device="meta")}, "checkpoint['a']"),
        ({"a": np.array(["2020-01-01"], dtype="datetime64[D]")}, "checkpoint['a']"),
        ({"a": {frozenset({1}): 2}}, "checkpoint['a'] key"),
        ({"a": {torch.ones(1): 2}}, "checkpoint['a'] key"),
        ({"a": {1: 1, Level.HIGH: 2, 3: 3, "x": [object()]}}, "checkpoint['a']"),
    ],
)
def test_what_is_not_plain_is_named_and_nothing_is_written(tmp_path, value, path):
    with pytest.raises(CheckpointError, match="cannot save") as caught:
        save_checkpoint(value, tmp_path / "c.pth")
    assert path in str(caught.value)
    assert list(tmp_path.iterdir()) == []


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.complex_numbers()
_leaves = _leaves.filter(lambda v: v == v)
_keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner) | st.dictionaries(_keys, inner) | st.tuples(inner, inner) | st.sets(st.integers()),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_values)
def test_any_nesting_of_plain_values_is_loaded_as_it_was(tmp_path, value):
    assert to_plain(value) == value
    assert _round_trip(tmp_path, value) == value

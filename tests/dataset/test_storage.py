import copy
import enum
import gc
import multiprocessing
import pickle
import tempfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyengine.dataset.storage import store_records

from .samples import Boxes, file_ids, record

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-200, 200),
    st.floats(),
    st.floats(width=32),
    st.text(),
    st.binary(),
)
leaves = st.one_of(scalars, st.lists(st.integers(-9, 9)), st.lists(st.floats()), st.tuples(st.floats(), st.integers()))
anything = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=6
)


@st.composite
def uniform_records(draw):
    """Records of one structure: each key has its own strategy, as a column has its own type."""
    kinds = [
        st.integers(-(2**70), 2**70),
        st.integers(-120, 120),
        st.floats(),
        st.floats(width=32),
        st.booleans(),
        st.text(),
        st.binary(),
        st.just("constant"),
        st.lists(st.integers(0, 70000)),
        st.lists(st.floats(), min_size=2, max_size=2),
        st.tuples(st.integers(), st.integers()),
        st.lists(st.text()),
        st.lists(st.lists(st.integers(0, 9)), max_size=3),
        st.lists(
            st.fixed_dictionaries({"box": st.lists(st.floats(), min_size=4, max_size=4), "label": st.integers(0, 80)})
        ),
        st.fixed_dictionaries({"x": st.integers(), "y": st.lists(st.booleans())}),
        anything,
    ]
    chosen = draw(st.dictionaries(st.text(), st.sampled_from(kinds), max_size=5))
    return draw(st.lists(st.fixed_dictionaries(chosen), max_size=8))


@given(uniform_records())
def test_columns_give_back_equal_records(records):
    stored = store_records(records, "columnar")
    assert [repr(stored[i]) for i in range(len(stored))] == [repr(one) for one in records]


@given(st.lists(anything, max_size=8))
def test_columns_give_back_whatever_they_got(records):
    stored = store_records(records, "columnar")
    assert [repr(stored[i]) for i in range(len(stored))] == [repr(one) for one in records]


class Color(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("layout", ["pickle", "columnar"])
@pytest.mark.parametrize(
    "values",
    [
        [1, True, 1.0],
        [Color.RED, Color.RED],
        [np.float64(1), np.float64(2)],
        [np.arange(3), np.arange(2)],
        [OrderedDict(a=1), OrderedDict(a=2)],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
        [{1: "x"}, {1: "y"}],
        [{}, {}],
        [[], []],
        [[], [1]],
        [(), (1, 2)],
        ["\ud800", "x"],
        [0.1, float("nan"), float("inf"), -0.0],
        [2**31, -(2**31), 2**63 - 1],
        [2**63, 1],
        [None, 1],
    ],
)
def test_types_survive(layout, values):
    stored = store_records([{"value": value} for value in values], layout)
    for i, value in enumerate(values):
        found = stored[i]["value"]
        assert type(found) is type(value)
        assert repr(found) == repr(value)


@pytest.mark.parametrize("layout", ["pickle", "columnar"])
@pytest.mark.parametrize("num_records", [0, 1, 1025, 16_385])
def test_any_number_of_records(layout, num_records):
    stored = store_records((record(i) for i in range(num_records)), layout)
    assert len(stored) == num_records
    assert [stored[i] for i in range(num_records)] == [record(i) for i in range(num_records)]
    again = pickle.loads(pickle.dumps(stored))
    assert [again[i] for i in range(num_records)] == [record(i) for i in range(num_records)]
    assert copy.deepcopy(stored.buffer) is stored.buffer


def test_columns_take_less_room():
    records = [record(i) for i in range(2000)]
    assert store_records(records, "columnar").buffer.num_bytes < 0.5 * store_records(records, "pickle").buffer.num_bytes


def run_rank(size, connection):
    dataset = Boxes(size=size, serialize_data="columnar")
    connection.send((file_ids(dataset), dataset[size - 1]))
    connection.recv()


def test_ranks_of_a_host_share_one_copy_and_leave_nothing(tmp_path, monkeypatch):
    """Ranks that store the same records use one file; one that is killed leaves a name, which the next run removes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    context = multiprocessing.get_context("fork")

    def start(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=run_rank, args=(size, theirs))
        process.start()
        return process, ours

    ranks = [start(size) for size in (50, 50, 51)]
    found = [connection.recv() for _, connection in ranks]
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 2
    ranks[2][0].kill()
    for _, connection in ranks[:2]:
        connection.send("leave")
    for process, _ in ranks:
        process.join()
    assert [process.exitcode for process, _ in ranks] == [0, 0, -9]
    process, connection = start(52)
    connection.recv()
    connection.send("leave")
    process.join()
    assert list(folder.iterdir()) == []


def test_a_full_disk_says_where(monkeypatch):
    from lazyengine.dataset.buffer import BufferWriter

    class FullDisk:
        def write(self, data):
            raise OSError(28, "No space left on device")

    writer = BufferWriter()
    writer._file.close()
    monkeypatch.setattr(writer, "_file", FullDisk())
    with pytest.raises(OSError, match="No space left") as caught:
        writer.write(b"x")
    assert "TMPDIR" in caught.value.__notes__[0]


@pytest.mark.parametrize("layout", ["pickle", "columnar"])
def test_an_error_while_records_are_loaded_leaves_no_open_file(layout, recwarn):
    def broken():
        yield {"a": 1}
        raise KeyError("label")

    with pytest.raises(KeyError, match="label"):
        store_records(broken(), layout)
    gc.collect()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]

import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyengine.logging import HistoryBuffer
from lazyengine.logging.message_hub import MAX_PENDING, SAVED_ENTRIES

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mmengine.json").read_text())


def filled(values, counts=None, **kwargs):
    buffer = HistoryBuffer(**kwargs)
    for i, value in enumerate(values):
        buffer.update(value, counts[i] if counts else 1)
    return buffer


def through_file(buffer):
    """The buffer after a checkpoint."""
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    new = HistoryBuffer()
    new.load_state_dict(torch.load(file, weights_only=True))
    return new


@pytest.mark.parametrize("case", GOLDEN["statistics"], ids=lambda c: f"{len(c['log'])} of {c['max_length']}")
@pytest.mark.parametrize("resumed", [False, True])
def test_statistics_equal_mmengine(case, resumed):
    buffer = filled(case["log"], case["count"], max_length=case["max_length"])
    if resumed:
        buffer = through_file(buffer)
    assert len(buffer) == len(buffer.data[0]) == case["length"]
    assert buffer.current() == case["current"]
    for window, (mean, low, high) in case["results"].items():
        size = None if window == "None" else int(window)
        assert buffer.statistics("mean", size) == pytest.approx(mean, rel=1e-12, abs=0)
        assert (buffer.statistics("min", size), buffer.statistics("max", size)) == (low, high)


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 5)), min_size=1, max_size=120),
    st.integers(1, 150),
    st.integers(1, 60),
    st.integers(0, 120),
)
@settings(max_examples=150, deadline=None)
def test_any_history_any_window_any_point_of_resume(entries, window, max_length, resume_at):
    buffer = HistoryBuffer(max_length=max_length)
    for i, (value, count) in enumerate(entries):
        if i == resume_at:
            buffer = through_file(buffer)
        buffer.update(value, count)
    values = np.array([value for value, _ in entries[-max_length:]])
    counts = np.array([count for _, count in entries[-max_length:]])
    assert np.array_equal(buffer.data[0], values)
    assert np.array_equal(buffer.data[1], counts)
    expected = values[-window:].sum() / counts[-window:].sum()
    assert buffer.mean(window) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert buffer.max(window) == values[-window:].max()
    assert buffer.min() == values.min()


def test_ints_stay_ints_until_a_float_comes():
    buffer = filled([1, 5, 3])
    assert buffer.data[0].dtype == np.int64
    assert [type(x) for x in (buffer.current(), buffer.max(), buffer.mean())] == [int, int, float]
    buffer.update(2.0)
    assert buffer.data[0].dtype == np.float64
    assert isinstance(buffer.max(), float)


def test_memory_is_bounded():
    buffer = HistoryBuffer(max_length=1000)
    for i in range(10_000):
        buffer.update(float(i))
    assert len(buffer) == 1000
    assert len(buffer._values) <= 1250
    assert buffer.min() == 9000


def test_long_histories_have_a_short_state_and_the_same_statistics():
    num = 5 * SAVED_ENTRIES
    values = np.random.default_rng(0).normal(size=num).tolist()
    buffer = filled(values)
    resumed = through_file(buffer)
    assert buffer.state_dict()["values"].numel() == SAVED_ENTRIES
    for value in (0.5, 7.0, -9.0):
        for window in (1, 10, SAVED_ENTRIES - 3, None, num + 10):
            assert resumed.mean(window) == pytest.approx(buffer.mean(window), rel=1e-12)
            assert (resumed.min(window), resumed.max(window)) == (buffer.min(window), buffer.max(window))
        buffer.update(value)
        resumed.update(value)
    twice = through_file(resumed)
    assert twice.mean() == pytest.approx(buffer.mean(), rel=1e-12)
    assert (twice.min(), twice.max()) == (buffer.min(), buffer.max())


def test_windows_that_are_read_survive_a_resume_however_long():
    buffer = filled(np.random.default_rng(0).normal(size=60_000).tolist())
    buffer.mean(25_000)
    resumed = through_file(buffer)
    for _ in range(10_000):
        buffer.update(0.25)
        resumed.update(0.25)
    assert resumed.mean(25_000) == pytest.approx(buffer.mean(25_000), rel=1e-12)
    assert resumed.max(25_000) == buffer.max(25_000)


def test_what_lies_beyond_max_length_is_forgotten_after_a_resume_too():
    buffer = through_file(filled([100.0] * 15_000, max_length=20_000))
    for _ in range(20_000):
        buffer.update(1.0)
    assert buffer.mean() == buffer.max() == 1.0


def test_loading_keeps_references_valid():
    buffer = filled([1.0, 2.0])
    update = buffer.update
    buffer.load_state_dict(filled([5.0], [2]).state_dict())
    update(7.0)
    assert buffer.data[0].tolist() == [5.0, 7.0]
    assert buffer.data[1].tolist() == [2, 1]


def test_numpy_numbers_and_bools():
    buffer = filled([np.float64(1.5), np.float32(0.5), np.int64(2), np.array([3.0]), np.array(4), True])
    assert buffer.data[0].tolist() == [1.5, 0.5, 2, 3, 4, 1]


@pytest.mark.parametrize("value", ["1", None, [1.0], np.ones(2), torch.ones(2), 1j])
def test_values_that_are_no_scalars(value):
    with pytest.raises(TypeError, match=r"HistoryBuffer\.update"):
        HistoryBuffer().update(value)


def test_counts_are_numbers():
    with pytest.raises(TypeError, match="count must be"):
        HistoryBuffer().update(1.0, "2")  # type: ignore[arg-type]
    assert filled([1.0, 4.0], [np.int64(2), 0.5]).mean() == 2.0


@pytest.mark.parametrize("what", ["mean", "min", "max", "current"])
def test_an_empty_history_has_no_statistics(what):
    with pytest.raises(ValueError, match=f"{what}: nothing was recorded"):
        HistoryBuffer().statistics(what)


@pytest.mark.parametrize("window", [0, -3, 1.5, "all", True])
def test_windows_are_positive_ints(window):
    with pytest.raises(ValueError, match="window_size must be an int of at least 1"):
        filled([1.0]).mean(window)


def test_constructor():
    buffer = HistoryBuffer([1, 2, 3], [1, 1, 2])
    assert buffer.mean() == 1.5
    with pytest.raises(ValueError, match="3 entries and count_history 1"):
        HistoryBuffer([1, 2, 3], [1])
    with pytest.raises(ValueError, match="max_length must be an int of at least 1, got 0"):
        HistoryBuffer(max_length=0)
    assert HistoryBuffer([1, 2, 3], [1, 1, 1], max_length=2).data[0].tolist() == [2, 3]


@pytest.mark.parametrize("size", [10, 1000])
def test_nan_and_infinity(size):
    buffer = filled([1.0] * size + [float("inf"), 2.0])
    assert (buffer.max(), buffer.min()) == (float("inf"), 1.0)
    assert buffer.mean(size) == float("inf")
    buffer.update(float("nan"))
    assert np.isnan([buffer.max(), buffer.min(), buffer.mean(), buffer.current()]).all()
    buffer.update(-float("inf"))
    assert (buffer.max(1), buffer.min(1)) == (-float("inf"), -float("inf"))


def test_registered_statistics(monkeypatch):
    monkeypatch.setattr(HistoryBuffer, "_statistics_methods", dict(HistoryBuffer._statistics_methods))

    @HistoryBuffer.register_statistics
    def weighted(self, window_size, weight):
        return (self._log_history[-window_size:] * np.array(weight)).sum() / self._count_history[-window_size:].sum()

    assert filled([1.0, 2.0, 4.0]).statistics("weighted", window_size=2, weight=[2, 1]) == 4.0
    assert HistoryBuffer.register_statistics(weighted) is weighted

    def mean(self):
        return 0

    with pytest.raises(ValueError, match="'mean' is registered already"):
        HistoryBuffer.register_statistics(mean)
    with pytest.raises(KeyError, match=r"no statistic 'median'; there are current, max, mean, min"):
        HistoryBuffer().statistics("median")


# ---------------------------------------------------------------- tensors


@pytest.fixture(params=["host", "device"])
def place(request, monkeypatch):
    """Tensors of the host, which are read at once; and the same treated like those of a device, which wait."""
    if request.param == "device":
        monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    return request.param


def test_tensors_keep_their_order(place):
    buffer = HistoryBuffer()
    weight = torch.tensor(2.0, requires_grad=True)
    buffer.update(1.0)
    buffer.update(weight * 3)
    buffer.update(torch.tensor([4], dtype=torch.int64), 2)
    buffer.update(0.5)
    buffer.update(torch.tensor(0.1, dtype=torch.float64))
    buffer.update(torch.tensor(1.5, dtype=torch.bfloat16))
    assert len(buffer._pending) == (5 if place == "device" else 0)
    assert len(buffer) == 6
    assert buffer.data[0].tolist() == [1.0, 6.0, 4.0, 0.5, 0.1, 1.5]
    assert buffer.data[1].tolist() == [1, 1, 2, 1, 1, 1]
    assert not buffer._pending


def test_pending_tensors_hold_no_graph(place):
    buffer = HistoryBuffer()
    weight = torch.tensor(2.0, requires_grad=True)
    buffer.update(weight * 3)
    assert [value.requires_grad for value, _ in buffer._pending] == ([False] if place == "device" else [])


def test_a_buffer_of_the_model_may_change_in_place(place):
    buffer = HistoryBuffer()
    running = torch.zeros(())
    parameter = torch.nn.Parameter(torch.tensor(1.0))
    for _ in range(3):
        running.add_(1)
        buffer.update(running)
        buffer.update(parameter)
        parameter.data.mul_(10)
    assert buffer.data[0].tolist() == [1, 1, 2, 10, 3, 100]


def test_tensors_of_inference_mode(place):
    buffer = HistoryBuffer()
    with torch.inference_mode():
        loss = torch.ones(())
        buffer.update(loss)
        loss.add_(1)
        buffer.update(loss)
    assert buffer.data[0].tolist() == [1, 2]


def test_the_number_of_pending_tensors_is_bounded(place):
    buffer = HistoryBuffer()
    for i in range(3 * MAX_PENDING + 5):
        buffer.update(torch.tensor(float(i)))
        assert len(buffer._pending) < MAX_PENDING
    assert buffer.data[0].tolist() == list(range(3 * MAX_PENDING + 5))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_are_independent(clone, place):
    buffer = filled([1.0, torch.tensor(2.0)])
    other = clone(buffer)
    buffer.update(3.0)
    other.update(4.0)
    assert other.data[0].tolist() == [1, 2, 4]
    assert buffer.data[0].tolist() == [1, 2, 3]

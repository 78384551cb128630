"""Averaged weights against mmengine's values."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lazyengine.model import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())["averaged"]
CASES = {
    "ema": (ExponentialMovingAverage, {"momentum": 0.0002}),
    "ema_interval": (ExponentialMovingAverage, {"momentum": 0.1, "interval": 3}),
    "ema_buffers": (ExponentialMovingAverage, {"momentum": 0.3, "update_buffers": True}),
    "annealing": (MomentumAnnealingEMA, {"momentum": 0.01, "gamma": 5}),
    "annealing_interval": (MomentumAnnealingEMA, {"momentum": 0.01, "gamma": 5, "interval": 2}),
    "swa": (StochasticWeightAverage, {}),
    "swa_interval": (StochasticWeightAverage, {"interval": 4}),
}


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()


def change(source):
    with torch.no_grad():
        for value in [*source.parameters(), source[1].running_mean, source[1].running_var]:
            value.add_(torch.randn(value.shape, dtype=torch.double))


@pytest.mark.parametrize("name", CASES)
def test_averages_are_those_of_mmengine(name):
    kind, arguments = CASES[name]
    source = model()
    average = kind(source, **arguments)
    for expected in GOLDEN[name]:
        change(source)
        average.update_parameters(source)
        state = average.state_dict()
        assert set(state) == {*expected, "module.1.num_batches_tracked"}
        for key, values in expected.items():
            assert state[key].flatten().tolist() == pytest.approx(values, rel=1e-12, abs=1e-15), key


def test_integer_buffers_are_copied_also_when_buffers_are_averaged():
    source = model()
    average = ExponentialMovingAverage(source, momentum=0.5, update_buffers=True)
    for count in (3, 4):
        source[1].num_batches_tracked.fill_(count)
        average.update_parameters(source)
        assert average.module[1].num_batches_tracked == count


def test_tied_parameters_move_once():
    source = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    source["b"].weight = source["a"].weight
    nn.init.zeros_(source["a"].weight)
    average = ExponentialMovingAverage(source, momentum=0.25, update_buffers=True)
    average.update_parameters(source)
    nn.init.ones_(source["a"].weight)
    average.update_parameters(source)
    assert (average.module["b"].weight == 0.25).all()


def test_swap_exchanges_weights_in_place_and_undoes_itself():
    source = model()
    average = ExponentialMovingAverage(source, momentum=0.5, update_buffers=True)
    average.update_parameters(source)
    change(source)
    places = [value.data_ptr() for value in source.parameters()]
    own, averaged = copy.deepcopy(source.state_dict()), copy.deepcopy(average.module.state_dict())
    average.swap(source)
    assert all(torch.equal(value, averaged[key]) for key, value in source.state_dict().items())
    assert all(torch.equal(value, own[key]) for key, value in average.module.state_dict().items())
    average.swap(source)
    assert all(torch.equal(value, own[key]) for key, value in source.state_dict().items())
    assert [value.data_ptr() for value in source.parameters()] == places


def test_a_restored_average_goes_on_as_the_original():
    source = model()
    average = MomentumAnnealingEMA(source, momentum=0.01, gamma=5)
    for _ in range(3):
        change(source)
        average.update_parameters(source)
    restored = MomentumAnnealingEMA(model(), momentum=0.01, gamma=5)
    restored.load_state_dict(average.state_dict())
    change(source)
    average.update_parameters(source)
    restored.update_parameters(source)
    assert restored.steps == 4
    for key, value in average.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


def test_a_state_without_steps_is_not_loaded_silently():
    average = ExponentialMovingAverage(model())
    state = average.state_dict()
    del state["steps"]
    with pytest.raises(RuntimeError, match="steps"):
        average.load_state_dict(state)


def test_it_is_called_as_the_model_and_takes_wrappers_off():
    source = model()
    average = StochasticWeightAverage(nn.DataParallel(source))
    x = torch.randn(3, 2, dtype=torch.double)
    assert torch.equal(average.eval()(x), source.eval()(x))
    assert not any(parameter.requires_grad for parameter in average.parameters())
    average.update_parameters(nn.DataParallel(source))
    assert "steps=1" in repr(average)


def test_a_strategy_of_ones_own_writes_avg_func():
    class Largest(BaseAveragedModel):
        def avg_func(self, averaged_param, source_param, steps):
            torch.maximum(averaged_param, source_param, out=averaged_param)

    source = nn.Linear(1, 1, bias=False)
    average = Largest(source)
    for value in (2.0, 5.0, 1.0):
        nn.init.constant_(source.weight, value)
        average.update_parameters(source)
    assert average.module.weight.item() == 5


def test_a_changed_model_is_refused():
    average = ExponentialMovingAverage(model())
    with pytest.raises(ValueError, match="make the average after everything that changes the model"):
        average.update_parameters(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ExponentialMovingAverage, {"momentum": 0.0}, "momentum must be between 0 and 1, got 0.0"),
        (ExponentialMovingAverage, {"interval": 0}, "interval of ExponentialMovingAverage must be at least 1, got 0"),
        (MomentumAnnealingEMA, {"gamma": 0}, "gamma must be positive, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(nn.Linear(1, 1), **arguments)


def test_a_large_momentum_is_questioned(capsys):
    ExponentialMovingAverage(nn.Linear(1, 1), momentum=0.9)
    assert "momentum=0.9" in capsys.readouterr().out


# ---------------------------------------------------------------------- narrow types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [ExponentialMovingAverage, StochasticWeightAverage])
def test_the_average_of_narrow_weights_moves_as_that_of_float32(kind, dtype):
    """Steps of the average are smaller than what the weights' type can tell apart."""
    arguments = {"momentum": 0.001} if kind is ExponentialMovingAverage else {}
    narrow, wide = nn.Linear(4, 4).to(dtype), nn.Linear(4, 4)
    wide.load_state_dict(narrow.state_dict())
    averages = [kind(model, **arguments) for model in (narrow, wide)]
    for step in range(400):
        with torch.no_grad():
            for parameter in narrow.parameters():
                parameter.fill_(1 + step % 3)
        wide.load_state_dict(narrow.state_dict())
        for average, model in zip(averages, (narrow, wide), strict=True):
            average.update_parameters(model)
    expected = {name: value.to(dtype) for name, value in averages[1].module.state_dict().items()}
    assert {name: value.dtype for name, value in averages[0].module.state_dict().items()}["weight"] == dtype
    assert all(torch.equal(value, expected[name]) for name, value in averages[0].module.state_dict().items())
    assert averages[0].module(torch.ones(1, 4, dtype=dtype)).dtype == dtype  # can be called as the model is
    averages[0].swap(narrow)
    averages[0].swap(narrow)  # loses nothing of the average
    restored = kind(nn.Linear(4, 4).to(dtype), **arguments)
    restored.load_state_dict(copy.deepcopy(averages[0].state_dict()))
    for each in (averages[0], restored):
        each.update_parameters(narrow)
    for name, value in averages[0].state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_only_narrow_weights_are_kept_twice():
    source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16(), nn.BatchNorm1d(2).bfloat16())
    keys = set(ExponentialMovingAverage(source).state_dict()) - {f"module.{key}" for key in source.state_dict()}
    assert keys == {"steps", "wide.1.weight", "wide.1.bias", "wide.2.weight", "wide.2.bias"}
    averaged_buffers = set(ExponentialMovingAverage(source, update_buffers=True).state_dict())
    assert "wide.2.running_mean" in averaged_buffers
    assert "wide.2.num_batches_tracked" not in averaged_buffers


def test_tied_narrow_weights_move_once():
    source = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)}).bfloat16()
    source["b"].weight = source["a"].weight
    nn.init.zeros_(source["a"].weight)
    average = ExponentialMovingAverage(source, momentum=0.25)
    average.update_parameters(source)
    nn.init.ones_(source["a"].weight)
    average.update_parameters(source)
    assert (average.module["b"].weight == 0.25).all()
    assert average.module["a"].weight is average.module["b"].weight


def test_complex_parameters_are_averaged():
    source = nn.Module()
    source.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    average = ExponentialMovingAverage(source, momentum=0.25)
    average.update_parameters(source)
    nn.init.ones_(source.weight)
    average.update_parameters(source)
    assert (average.module.weight == 0.25).all()


# ---------------------------------------------------------------------- buffers


@pytest.mark.parametrize("update_buffers", [False, True])
def test_what_is_not_averaged_is_the_models_own_when_it_is_exchanged(update_buffers):
    """Also where buffers move and no update follows: in the micro-batches of an accumulation, and behind a skip."""
    source = model()
    average = ExponentialMovingAverage(source, momentum=0.5, update_buffers=update_buffers)
    average.update_parameters(source)
    change(source)
    average.update_parameters(source)
    kept = average.module[1].running_mean.clone()
    source(torch.randn(4, 2, dtype=torch.double))
    own = copy.deepcopy(source.state_dict())
    average.swap(source)
    assert torch.equal(source[1].running_mean, kept if update_buffers else own["1.running_mean"])
    assert source[1].num_batches_tracked == 1
    beside = average.module.state_dict()
    assert all(torch.equal(beside[key], value) for key, value in own.items())
    average.swap(source)
    assert all(torch.equal(source.state_dict()[key], value) for key, value in own.items())


def test_a_buffer_that_grows_is_followed():
    """As the tables of rotary embeddings do when a longer text comes."""

    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(1, 1)
            self.register_buffer("table", torch.zeros(1), persistent=False)
            self.register_buffer("late", None)

    for update_buffers in (False, True):
        source = Grows()
        average = ExponentialMovingAverage(source, momentum=0.5, update_buffers=update_buffers)
        average.update_parameters(source)
        source.table, source.late = torch.ones(3), torch.ones(2)
        average.update_parameters(source)
        assert torch.equal(average.module.table, torch.ones(3))
        assert torch.equal(average.module.late, torch.ones(2))
        average.swap(source)
        assert torch.equal(source.table, torch.ones(3))

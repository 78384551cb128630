"""Steps of `BaseModel` and of any module."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lazyengine.model import BaseModel, parse_losses, run_forward, train_step, val_step
from lazyengine.model import test_step as step_of_test

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())


class Updates:
    """An optimizer wrapper that only writes down what it got."""

    def __init__(self):
        self.losses = []
        self.contexts = []

    def optim_context(self, model):
        self.contexts.append(model)
        return nullcontext()

    def update_params(self, loss):
        self.losses.append(loss)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, inputs, labels=None, mode="tensor"):
        output = self.fc(inputs)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(output, labels), "acc": torch.tensor([0.0, 1.0])}
        return {"scores": output, "mode": mode}


class Bare(nn.Module):
    """Returns losses in training and predictions otherwise, as torchvision's detectors do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, x, y=None):
        output = self.fc(x)
        return {"loss_fit": (output - y).square()} if self.training else output


def batch():
    return {"inputs": torch.ones(4, 3), "labels": torch.zeros(4, dtype=torch.long)}


def test_train_step_returns_detached_log_values_and_updates_with_the_total():
    model, updates = Model(), Updates()
    log_vars = model.train_step(batch(), updates)
    (loss,) = updates.losses
    assert loss.requires_grad
    assert list(log_vars) == ["loss", "acc"]
    assert log_vars["loss"] == loss.detach()
    assert log_vars["acc"] == 0.5
    assert not any(value.requires_grad for value in log_vars.values())


def test_forward_replaces_the_model_in_the_training_step_only():
    model, updates = Model(), Updates()
    seen = []

    def forward(**data):
        seen.append(data["mode"])
        return model(**data)

    model.train_step(batch(), updates, forward=forward)
    train_step(model, batch(), updates, forward)
    assert seen == ["loss", "loss"]
    assert updates.contexts == [forward, forward]
    assert model.val_step(batch())["mode"] == "predict"
    assert model.test_step(batch())["mode"] == "predict"


def test_a_train_step_of_the_users_own_without_a_forward_parameter_still_works():
    class Own(nn.Module):
        def train_step(self, data, optim_wrapper):
            return {"loss": data}

    model = Own()
    assert train_step(model, 3, Updates()) == {"loss": 3}
    assert train_step(model, 3, Updates(), forward=model) == {"loss": 3}


@pytest.mark.parametrize("data", [[torch.ones(4, 3), torch.ones(4, 1)], {"x": torch.ones(4, 3), "y": torch.ones(4, 1)}])
def test_any_module_with_a_dict_of_losses_can_be_trained(data):
    model, updates = Bare(), Updates()
    log_vars = train_step(model, data, updates)
    expected = (model.fc(torch.ones(4, 3)) - 1).square().mean()
    assert updates.losses[0] == expected
    assert log_vars == {"loss": expected.detach(), "loss_fit": expected.detach()}
    model.eval()
    assert val_step(model, data).shape == (4, 1)
    assert step_of_test(model, data).shape == (4, 1)


def test_a_bare_module_gets_a_mode_only_if_it_has_that_parameter():
    class WithMode(nn.Module):
        def forward(self, x, mode):
            return {"loss": x, "mode": 0.0} if mode == "loss" else mode

    class AnyKeyword(nn.Module):
        def forward(self, x, **kwargs):
            return {"loss": x, **{key: torch.tensor(1.0) for key in kwargs}}

    assert val_step(WithMode(), [torch.ones(2)]) == "predict"
    assert step_of_test(WithMode(), [torch.ones(2)]) == "predict"
    assert list(train_step(AnyKeyword(), [torch.ones(2)], Updates())) == ["loss"]


@pytest.mark.parametrize("view", [lambda p: p, lambda p: p.detach(), lambda p: p[:1].squeeze(0), lambda p: p * 1])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_log_keeps_what_it_was_given_when_weights_change_in_place(view, shape):
    weight = torch.nn.Parameter(torch.full(shape, 2.0))
    value = view(weight) if weight.dim() else view(weight.reshape(1)).squeeze()
    total, log_vars = parse_losses({"loss": weight.sum() * 3, "scale": value, "loss_reg": weight.squeeze()})
    total.backward()
    with torch.no_grad():
        weight.fill_(7.0)
    assert {name: float(each) for name, each in log_vars.items()} == {
        "loss": 8,
        "loss_part": 6,
        "scale": 2,
        "loss_reg": 2,
    }
    assert weight.grad == torch.full(shape, 4.0)


def test_data_of_a_bare_module_goes_to_the_device_of_its_parameters():
    model = Bare().to("meta")
    x, y = torch.ones(4, 3), torch.ones(4, 1)
    model.eval()
    assert val_step(model, {"x": x, "y": y}).device.type == "meta"
    model.to_empty(device="cpu")  # replaces the parameters
    assert val_step(model, {"x": x, "y": y}).device.type == "cpu"


def test_batches_are_unpacked_by_their_kind():
    @dataclass
    class Packed:
        value: int

    def forward(*args, **kwargs):
        return args, kwargs

    assert run_forward(forward, {"a": 1}, "loss") == ((), {"a": 1, "mode": "loss"})
    assert run_forward(forward, [1, 2], "loss") == ((1, 2), {"mode": "loss"})
    assert run_forward(forward, (1, 2), None) == ((1, 2), {})
    assert run_forward(forward, Packed(3), "tensor") == ((Packed(3),), {"mode": "tensor"})


@pytest.mark.parametrize("name", GOLDEN["parsed"])
def test_losses_add_up_as_in_mmengine(name):
    losses, total, logged = GOLDEN["parsed"][name]

    def tensors(value):
        nested = isinstance(value, list) and isinstance(value[0], list)
        return [torch.tensor(item) for item in value] if nested else torch.tensor(value)

    parsed, log_vars = parse_losses({key: tensors(value) for key, value in losses.items()})
    assert parsed.item() == total
    assert {key: value.item() for key, value in log_vars.items()} == logged
    assert next(iter(log_vars)) == "loss"


def test_nested_lists_of_losses_are_summed_by_their_means():
    total, log_vars = parse_losses(
        {"loss": [torch.tensor([1.0, 3.0]), [torch.tensor(4.0), (torch.tensor(5.0),)]], "num": 3, "loss_none": []}
    )
    assert total == 11
    assert log_vars == {"loss": 11, "loss_part": 11, "num": 3, "loss_none": 0}


def test_an_entry_called_loss_does_not_hide_the_total():
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    total, log_vars = parse_losses({"loss": one, "aux_loss": two})
    assert total == 3
    assert log_vars == {"loss": 3, "loss_part": 1, "aux_loss": 2}
    assert parse_losses({"acc": two, "loss": one})[1] == {"loss": 1, "acc": 2}
    with pytest.raises(ValueError, match="rename one of them"):
        parse_losses({"loss": one, "loss_part": two})


def test_a_loss_tensor_and_an_output_with_a_loss_are_accepted():
    loss = torch.tensor(2.0)
    assert parse_losses(loss)[1] == {"loss": 2}
    assert parse_losses(SimpleNamespace(loss=loss, logits=torch.zeros(3)))[1] == {"loss": 2}


def test_what_is_no_loss_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"the model returned \['acc'\].*contains 'loss'"):
        parse_losses({"acc": torch.tensor(1.0)})
    with pytest.raises(TypeError, match="the model's 'loss_a' is float"):
        parse_losses({"loss_a": 1.0})
    with pytest.raises(TypeError, match=r"returned tuple in training.*LossAdapter"):
        parse_losses((torch.tensor(1.0),))


def test_a_model_without_a_forward_or_with_a_wrong_preprocessor_is_refused_when_made():
    class Empty(BaseModel):
        pass

    with pytest.raises(TypeError, match="Empty has no forward"):
        Empty()
    with pytest.raises(TypeError, match=r"data_preprocessor of Other is dict"):
        type("Other", (BaseModel,), {"forward": lambda self: None})(data_preprocessor={"type": "BaseDataPreprocessor"})


def test_the_preprocessor_is_visible_in_the_printed_model():
    assert "(data_preprocessor): BaseDataPreprocessor(device=cpu" in repr(Model())


def test_a_part_of_the_loss_without_a_gradient_is_named(caplog):
    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        parse_losses({"loss_fit": x.sum(), "loss_shown": x.detach().sum(), "acc": x.detach().mean()})
    assert caplog.text.count("loss_shown of the losses came without a gradient") == 1
    parse_losses({"loss_fit": x.sum(), "loss_other": x.mean()})
    with torch.no_grad():
        parse_losses({"loss_fit": x.sum(), "loss_none": x.sum()})
    assert "loss_none" not in caplog.text
    assert "loss_other" not in caplog.text

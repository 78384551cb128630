"""Models whose layers change after the first step: the module is asked each time, nothing of it is remembered."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lazyengine.model import (
    BaseModel,
    ExponentialMovingAverage,
    LossAdapter,
    checkpoint_activations,
    train_step,
    val_step,
)
from lazyengine.optim.amp import autocast_modules


class Updates:
    def __init__(self, model):
        self.model = model

    def optim_context(self, model):
        return nullcontext()

    def update_params(self, loss):
        loss.backward()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x, y=None):
        output = self.head(self.fc(x))
        return {"loss": (output - y).square().mean()} if self.training else output


class Scaled(nn.Module):
    def forward(self, weight):
        return 2 * weight


CHANGES = {
    "pruned": lambda model: prune.l1_unstructured(model.fc, "weight", amount=0.5),
    "weight norm": lambda model: parametrizations.weight_norm(model.fc),
    "spectral norm": lambda model: parametrizations.spectral_norm(model.fc),
    "parametrized": lambda model: parametrize.register_parametrization(model.fc, "weight", Scaled()),
    "replaced": lambda model: setattr(model, "fc", nn.Linear(3, 3)),
    "without parameters": lambda model: setattr(model, "fc", nn.Identity()),
    "parameter replaced": lambda model: setattr(model.fc, "weight", nn.Parameter(torch.ones(3, 3))),
}


@pytest.mark.seam(11, "pruning", "weight norm", "parametrization", "replaced layer")
@pytest.mark.parametrize("name", CHANGES)
def test_a_layer_may_change_after_the_first_step(name):
    model = Net()
    data = [torch.ones(2, 3), torch.ones(2, 1)]
    train_step(model, data, Updates(model))
    CHANGES[name](model)
    assert train_step(model, data, Updates(model))["loss"].isfinite()
    model.eval()
    assert val_step(model, data).shape == (2, 1)


def test_the_data_goes_where_the_model_is_now():
    model = Net().eval()
    assert val_step(model, [torch.ones(2, 3)]).device.type == "cpu"
    model.fc = nn.Linear(3, 3, device="meta")
    model.head = nn.Linear(3, 1, device="meta")
    assert val_step(model, [torch.ones(2, 3)]).device.type == "meta"


@pytest.mark.seam(11, "replaced forward")
def test_a_forward_replaced_on_the_object_or_its_class_is_asked_for_its_mode():
    def with_mode(x, mode):
        return mode

    model = Net().eval()
    val_step(model, [torch.ones(2, 3)])
    model.forward = with_mode
    assert val_step(model, [torch.ones(2, 3)]) == "predict"
    del model.forward

    class Other(Net):
        pass

    val_step(Other().eval(), [torch.ones(2, 3)])
    Other.forward = lambda self, x, mode="tensor": mode
    assert val_step(Other().eval(), [torch.ones(2, 3)]) == "predict"


def test_a_base_model_runs_its_forward_by_mmengines_name():
    class Model(BaseModel):
        def forward(self, x, mode="tensor"):
            return x, mode

    assert Model()._run_forward([torch.ones(1)], mode="predict")[1] == "predict"
    assert Model()._run_forward({"x": torch.ones(1)}, "loss")[1] == "loss"


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "parameter replaced"])
def test_an_average_refuses_a_model_whose_layers_are_not_its_own(name):
    model = Net()
    average = ExponentialMovingAverage(model)
    average.update_parameters(model)
    before = {key: value.clone() for key, value in average.module.state_dict().items()}
    model.fc = nn.Linear(3, 4) if name == "replaced" else model.fc
    CHANGES[name](model) if name != "replaced" else None
    with pytest.raises(ValueError, match=r"fc.*make the average after everything that changes the model"):
        average.update_parameters(model)
    assert all(torch.equal(before[key], value) for key, value in average.module.state_dict().items())


@pytest.mark.seam(11, "average")
def test_an_average_follows_parameters_by_name_not_by_order():
    model = Net()
    average = ExponentialMovingAverage(model, momentum=0.5)
    average.update_parameters(model)
    weight = model.fc.weight
    del model.fc.weight
    model.fc.register_parameter("weight", nn.Parameter(weight.detach() + 1))  # now behind the bias
    average.update_parameters(model)
    torch.testing.assert_close(average.module.fc.weight, weight + 0.5)


@pytest.mark.parametrize("name", ["pruned", "weight norm", "parametrized"])
def test_an_average_of_a_model_with_computed_weights(name):
    model = Net()
    CHANGES[name](model)
    average = ExponentialMovingAverage(model, momentum=0.5)
    average.update_parameters(model)
    first = {key: value.clone() for key, value in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update_parameters(model)
    average.swap(model)
    for key, value in model.named_parameters():
        torch.testing.assert_close(value, first[key] + 0.5)
    assert model.eval()(torch.ones(1, 3)).isfinite().all()


def test_a_loss_adapter_asks_the_network_that_it_has_now():
    class Named(nn.Module):
        def forward(self, image):
            return image

    class Anything(nn.Module):
        def forward(self, **batch):
            return batch["x"]

    model = LossAdapter(nn.Identity(), nn.MSELoss())
    x, y = torch.ones(2), torch.zeros(2)
    assert model.val_step({"x": x, "target": y})["scores"] is x  # by position: Identity calls it input
    model.network = Anything()
    assert model.val_step({"x": x, "target": y})["scores"] is x
    model.network = Named()
    with pytest.raises(ValueError, match=r"Named.forward has no parameter \['x'\]"):
        model.val_step({"image": x, "x": x, "target": y})
    model.network.forward = lambda x, image: image
    assert model.val_step({"image": y, "x": x, "target": y})["scores"] is y


@pytest.mark.parametrize("stand_in", [lambda m: checkpoint_activations(m, "network"),
                                      lambda m: autocast_modules(m, ["network"], "bfloat16"),
                                      lambda m: m.network.compile(backend="eager")])  # fmt: skip
def test_what_stands_in_for_a_forward_has_its_parameters(stand_in):
    model = LossAdapter(nn.Linear(2, 2), nn.MSELoss())
    stand_in(model)
    assert model.val_step({"x": torch.ones(1, 2), "target": torch.ones(1, 2)})["scores"].shape == (1, 2)
    network = Mode()
    model = nn.Sequential()
    model.network = network
    stand_in(model)
    assert val_step(network, [torch.ones(2, 2)]) == "predict"


class Mode(nn.Module):
    def forward(self, x, mode="tensor"):
        return mode

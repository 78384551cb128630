"""Every optimizer of torch: resumed after 20 steps it ends, after 20 more, with weights equal to the bit."""

import inspect
import io

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from lazyengine.optim import OptimWrapper, param_groups

OPTIMIZERS = {
    name: value
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
}
OPTIONS = {
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adam": {"amsgrad": True},
    "LBFGS": {"lr": 0.1, "max_iter": 3, "history_size": 4},
}


def build(name: str) -> tuple[nn.Module, OptimWrapper]:
    torch.manual_seed(0)
    if name == "SparseAdam":
        model: nn.Module = nn.Embedding(12, 5, sparse=True)
    else:
        # Muon takes matrices only.
        model = nn.Sequential(nn.Linear(5, 8, bias=name != "Muon"), nn.Tanh(), nn.Linear(8, 3, bias=name != "Muon"))
    groups = param_groups(model) if name == "LBFGS" else param_groups(model, custom_keys=custom_keys(name))
    return model, OptimWrapper(OPTIMIZERS[name](groups, **OPTIONS.get(name, {})))


def custom_keys(name: str) -> dict:
    return {} if name == "SparseAdam" else {"2.": {"lr_mult": 0.5}}


def train(model: nn.Module, wrapper: OptimWrapper, begin: int, end: int) -> None:
    for iteration in range(begin, end):
        generator = torch.Generator().manual_seed(iteration)
        if isinstance(model, nn.Embedding):
            x = torch.randint(0, 12, (6,), generator=generator)
        else:
            x = torch.randn(6, 5, generator=generator)

        def loss(x: torch.Tensor = x) -> torch.Tensor:
            return (model(x) - 1).square().mean()

        def closure(loss=loss) -> torch.Tensor:
            wrapper.zero_grad()
            value = loss()
            value.backward()
            return value

        needs_closure = isinstance(wrapper.optimizer, torch.optim.LBFGS)
        wrapper.update_params(loss(), step_kwargs={"closure": closure} if needs_closure else None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_equals_going_on(name: str) -> None:
    model, wrapper = build(name)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, wrapper, 0, 20)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": wrapper.state_dict()}, buffer)
    train(model, wrapper, 20, 40)
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), start))

    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other, resumed = build(name)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, 20, 40)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert resumed.num_optimizer_steps == wrapper.num_optimizer_steps == 40


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("LBFGS", "SparseAdam")])
def test_a_learning_rate_multiplier_reaches_every_optimizer_also_without_the_wrapper(name: str) -> None:
    model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Linear(8, 3, bias=False))
    optimizer = OPTIMIZERS[name](param_groups(model, custom_keys={"1.": {"lr_mult": 0.25}}), lr=0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1]


def test_lbfgs_without_a_closure_says_what_it_needs() -> None:
    model, wrapper = build("LBFGS")
    with pytest.raises(TypeError, match=r"LBFGS\.step needs a closure.*step_kwargs=dict\(closure=closure\)"):
        wrapper.update_params(model(torch.ones(1, 5)).sum())
    with pytest.raises(ValueError, match="clip_grad has no effect with LBFGS"):
        OptimWrapper(wrapper.optimizer, clip_grad={"max_norm": 1.0})

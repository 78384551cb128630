"""The public ways beside torch's private parts do the same; see `lazyengine._torch`."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from lazyengine import _torch
from lazyengine.logging import MessageHub
from lazyengine.optim import AmpOptimWrapper, NonFiniteError, OptimWrapper, OptimWrapperDict


@pytest.fixture(autouse=True)
def own_hub(own_instances: None) -> None:
    MessageHub.get_instance("test")


def train(factory: Any, optimizer: Any, bad: tuple[int, ...], **options: Any) -> tuple[list[torch.Tensor], Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    wrapper = factory(optimizer(model.parameters()), nonfinite="skip", **options)
    wrapper.initialize_count_status(model, 0, -1)
    for iteration in range(8):
        wrapper.begin_iteration()
        with wrapper.optim_context(model):
            loss = model(torch.cos(torch.arange(24.0) + iteration).reshape(6, 4)).float().square().mean()
        handle = model[2].weight.register_hook(lambda grad, i=iteration: grad * (math.inf if i in bad else 1.0))
        wrapper.update_params(loss)
        handle.remove()
    wrapper.flush()
    return list(model.state_dict().values()), wrapper


@pytest.mark.parametrize(
    ("factory", "options", "fused"),
    [
        (OptimWrapper, {}, False),
        (OptimWrapper, {"clip_grad": {"max_norm": 0.1}}, False),
        (OptimWrapper, {"clip_grad": {"type": "value", "clip_value": 0.01}}, False),
        (AmpOptimWrapper, {"dtype": "float16", "loss_scale": {"init_scale": 16.0, "growth_interval": 3}}, False),
        (OptimWrapper, {}, True),
    ],
)
def test_the_same_result_without_private_parts(
    factory: Any, options: dict[str, Any], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=fused)

    private, first = train(factory, optimizer, (2, 5), **options)
    monkeypatch.setattr(_torch, "PRIVATE", False)
    public, second = train(factory, optimizer, (2, 5), **options)
    for a, b in zip(private, public):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert first.num_optimizer_steps == second.num_optimizer_steps == 6
    scaler = getattr(first, "loss_scaler", None)
    if scaler is not None:
        assert scaler.state_dict() == second.loss_scaler.state_dict()


def test_a_check_that_cannot_be_deferred_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch, "PRIVATE", False)
    model = nn.Linear(2, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, fused=True))
    wrapper._is_as_on_accelerator = True
    wrapper.update_params(model(torch.ones(1, 2)).sum())
    with pytest.raises(NonFiniteError):
        wrapper.update_params(model(torch.ones(1, 2)).sum() * math.nan)


def test_one_loss_for_several_without_private_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch, "PRIVATE", False)
    model = nn.Linear(2, 1)
    wrappers = OptimWrapperDict(
        a=OptimWrapper(torch.optim.SGD([model.weight], lr=0.1, fused=True)),
        b=OptimWrapper(torch.optim.SGD([model.bias], lr=0.1, fused=True)),
    )
    wrappers.update_params(model(torch.ones(1, 2)).sum())
    assert wrappers.num_optimizer_steps == 2

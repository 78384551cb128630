"""Norm layers and group options of other libraries: recognized, applied or refused, never carried in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lazyengine.errors import UsageValueError
from lazyengine.optim import OptimWrapper, param_groups


class LlamaRMSNorm(nn.Module):
    """As in transformers: no class of torch's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class RMSNorm(nn.Module):
    """As in x-transformers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(size))


class LayerNorm2d(nn.Module):
    """Of maps, with parameters that broadcast."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.ones(1, size, 1, 1)) for _ in range(2))


class NormMLP(nn.Module):
    """Called so, and no norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, size))


class NormedScale(nn.Module):
    """No norm either."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


def decays(model: nn.Module, **options: Any) -> dict[str, float]:
    optimizer = torch.optim.AdamW(param_groups(model, **options), lr=0.1, weight_decay=0.5)
    return {name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]}


def test_norms_are_known_by_name_and_shape():
    layers = [LlamaRMSNorm(4), RMSNorm(4), LayerNorm2d(4), NormMLP(4), NormedScale(4), nn.LayerNorm(4), nn.Linear(4, 4)]
    found = decays(nn.Sequential(*layers), norm_decay_mult=0.0)
    spared = ["0.weight", "1.g", "2.weight", "2.bias", "5.weight", "5.bias"]
    assert found == {name: 0.0 if name in spared else 0.5 for name in found}


def test_norms_of_transformers():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=5, num_key_value_heads=2, **sizes))
    found = decays(model, norm_decay_mult=0.0)
    assert found == {name: 0.0 if "norm" in name else 0.5 for name in found}
    assert sum(value == 0.0 for value in found.values()) == 3


@pytest.mark.parametrize(
    "name", ["norm_decay_mult", "bias_lr_mult", "bias_decay_mult", "dwconv_decay_mult", "flat_decay_mult"]
)
def test_a_multiplier_that_matches_nothing_is_an_error(name):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), NormMLP(4))
    with pytest.raises(UsageValueError, match=rf"{name}=0.0: Sequential has no such .* layers are Linear, NormMLP"):
        decays(model, **{name: 0.0})
    frozen = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=4))
    frozen[0].requires_grad_(False)
    assert decays(frozen, **{name: 0.0})  # what is frozen counts as matched


def test_options_that_an_optimizer_does_not_know_are_refused_in_every_group():
    def groups(**more: Any) -> list[dict[str, Any]]:
        return [{"params": [nn.Parameter(torch.ones(1))], **more}]

    match = r"group 0 sets 'lr_scale', but AdamW has no such option; .*lr_mult or layer_decay"
    with pytest.raises(UsageValueError, match=match):
        OptimWrapper(torch.optim.AdamW(groups(lr_scale=0.5)))  # as timm's param_groups_layer_decay gives them
    with pytest.raises(UsageValueError, match=r"sets 'momentun', but SGD .*Did you mean 'momentum'"):
        OptimWrapper(torch.optim.SGD(groups(momentun=0.5)))
    OptimWrapper(torch.optim.SGD(groups(name="head", tag="a label")))

    class Reads(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            scales = [group.get("lr_scale", 1.0) for group in self.param_groups]
            return super().step(closure) if scales else None

    OptimWrapper(Reads(groups(lr_scale=0.5)))

"""Networks, losses and options shared by the generator of the golden values and the tests that read them."""

import torch
from torch import nn


class Network(nn.Module):
    """Convolution, batch norm, depthwise convolution, layer norm, linear layers, and parameters of the root."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(3, 8, 3, padding=1),
                "bn1": nn.BatchNorm2d(8),
                "dwconv": nn.Conv2d(8, 8, 3, padding=1, groups=8),
                "in1": nn.InstanceNorm2d(8, affine=True),
                "layer1": nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.GroupNorm(4, 16)),
                "layer2": nn.Sequential(nn.Conv2d(16, 16, 3, groups=4), nn.BatchNorm2d(16)),
            }
        )
        self.neck = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
        self.head = nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.query = nn.Parameter(torch.ones(2, 16))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


PARAMWISE = {
    "nothing": {},
    "norm": {"norm_decay_mult": 0.0},
    "bias": {"bias_lr_mult": 2.0, "bias_decay_mult": 0.5},
    "dwconv": {"dwconv_decay_mult": 0.25, "norm_decay_mult": 0.1, "bias_decay_mult": 0.5},
    "flat": {"flat_decay_mult": 0.0},
    "all": {
        "bias_lr_mult": 2.0,
        "bias_decay_mult": 0.5,
        "norm_decay_mult": 0.1,
        "dwconv_decay_mult": 0.25,
        "flat_decay_mult": 0.3,
        "dcn_offset_lr_mult": 0.1,
    },
    "keys": {
        "custom_keys": {
            "backbone": {"lr_mult": 0.1, "decay_mult": 0.9},
            "backbone.layer1": {"lr_mult": 0.3},
            "backbone.layer2": {"decay_mult": 0.7},
            ".scale": {"lr_mult": 5.0, "decay_mult": 0.0},
            "head.bias": {"lr_mult": 7.0},
            "query": {"decay_mult": 0.0, "momentum": 0.5},
        },
        "norm_decay_mult": 0.0,
        "bias_lr_mult": 2.0,
    },
    "ties": {"custom_keys": {"conv1": {"lr_mult": 0.2}, "onv1.": {"lr_mult": 0.4}, "weight": {"decay_mult": 0.0}}},
}

ACCUMULATION = {  # name: (accumulative_counts, iterations, announced max_counts, init_counts)
    "every step": (1, 7, 7, 0),
    "whole": (3, 9, 9, 0),
    "remainder of one": (3, 10, 10, 0),
    "remainder of three": (4, 11, 11, 0),
    "no announcement": (3, 7, None, 0),
    "no end": (3, 7, -1, 0),
    "resumed at a boundary": (4, 7, 15, 8),
    "resumed inside": (4, 8, 15, 6),
}

CLIPPING = {
    "none": None,
    "norm not reached": {"max_norm": 1e3},
    "norm": {"max_norm": 0.2},
    "norm named": {"type": "norm", "max_norm": 0.5, "norm_type": 1},
    "infinity norm": {"max_norm": 0.05, "norm_type": float("inf")},
    "value": {"type": "value", "clip_value": 0.03},
}


def small_network() -> nn.Module:
    """Return a two-layer network in float64 whose weights are written down by a formula, not drawn."""
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_(torch.sin(values * 0.7 + index).reshape(parameter.shape) * 0.5)
    return network


def small_loss(network: nn.Module, iteration: int) -> torch.Tensor:
    """Return the loss of a batch that depends on the iteration alone, shape `()`, float64."""
    x = torch.cos(torch.arange(24, dtype=torch.float64) * (0.3 + 0.1 * iteration)).reshape(6, 4)
    target = torch.sin(torch.arange(18, dtype=torch.float64) * (0.2 + 0.05 * iteration)).reshape(6, 3)
    return ((network(x) - target) ** 2).mean() * (1 + iteration % 3)


def weights(network: nn.Module) -> list[float]:
    """Return all weights as one list."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()]).tolist()

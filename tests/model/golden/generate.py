"""Write golden.json with what mmengine 0.10.7 computes. Run it in an environment that has mmengine and torch 2.13."""

import json
import logging
from pathlib import Path

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.logging import MMLogger
from mmengine.model import (
    BaseModel,
    BaseModule,
    ExponentialMovingAverage,
    ImgDataPreprocessor,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
    bias_init_with_prob,
    initialize,
    stack_batch,
)
from torch import nn

INIT_CFGS = {
    "constant": [dict(type="Constant", val=1.5, bias=0.25, layer="Conv2d")],
    "constant_two": [
        dict(type="Constant", val=1, layer=["Conv2d", "Linear"]),
        dict(type="Constant", val=3, bias_prob=0.01, layer="Linear"),
    ],
    "base_class_name": [dict(type="Constant", val=2, layer="_ConvNd")],
    "xavier": [dict(type="Xavier", gain=0.7, layer=["Conv2d", "Linear"])],
    "xavier_uniform": [dict(type="Xavier", distribution="uniform", bias=1, layer=["Conv2d", "Linear"])],
    "normal": [dict(type="Normal", mean=0.1, std=0.02, layer=["Conv2d", "Linear"])],
    "uniform": [dict(type="Uniform", a=-0.3, b=0.4, layer=["Conv2d", "Linear"])],
    "kaiming": [dict(type="Kaiming", layer="Conv2d")],
    "kaiming_uniform": [
        dict(type="Kaiming", a=0.1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform", layer="Conv2d")
    ],
    "caffe2_xavier": [dict(type="Caffe2Xavier", layer=["Conv2d", "Linear"])],
    "override": [
        dict(
            type="Normal",
            std=0.01,
            layer="Conv2d",
            override=[dict(type="Constant", name="head", val=3, bias=4), dict(name="norm")],
        )
    ],
}


def net():
    torch.manual_seed(7)
    return nn.ModuleDict(dict(conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), head=nn.Linear(4, 2)))


class Inner(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(1, 2, 1)


class Outer(BaseModule):
    def __init__(self):
        super().__init__([dict(type="Normal", std=0.5, layer="Conv2d"), dict(type="Constant", val=7, layer="Linear")])
        self.first = Inner()
        self.second = Inner(dict(type="Uniform", a=1, b=2, layer="Conv2d"))
        self.fc = nn.Linear(2, 1)


def values(module):
    return {name: value.flatten().tolist() for name, value in module.state_dict().items()}


def initialized():
    result = {}
    for name, cfgs in INIT_CFGS.items():
        module = net()
        initialize(module, cfgs)
        result[name] = values(module)
    torch.manual_seed(7)
    outer = Outer()
    outer.init_weights()
    result["nested"] = values(outer)
    return result


def averaged():
    cases = {
        "ema": (ExponentialMovingAverage, dict(momentum=0.0002)),
        "ema_interval": (ExponentialMovingAverage, dict(momentum=0.1, interval=3)),
        "ema_buffers": (ExponentialMovingAverage, dict(momentum=0.3, update_buffers=True)),
        "annealing": (MomentumAnnealingEMA, dict(momentum=0.01, gamma=5)),
        "annealing_interval": (MomentumAnnealingEMA, dict(momentum=0.01, gamma=5, interval=2)),
        "swa": (StochasticWeightAverage, {}),
        "swa_interval": (StochasticWeightAverage, dict(interval=4)),
    }
    result = {}
    for name, (kind, kwargs) in cases.items():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
        average = kind(model, **kwargs)
        states = []
        for _ in range(12):
            with torch.no_grad():
                for value in [*model.parameters(), model[1].running_mean, model[1].running_var]:
                    value.add_(torch.randn(value.shape, dtype=torch.double))
            average.update_parameters(model)
            states.append({k: v for k, v in values(average).items() if "num_batches_tracked" not in k})
        result[name] = states
    return result


class Losses(BaseModel):
    def forward(self, *args, **kwargs):
        pass


def parsed():
    model = Losses()
    cases = {
        "one": {"loss": 1.5},
        "two": {"loss_cls": [1.0, 3.0], "loss_box": 0.5, "acc": [0.25, 0.75]},
        "list": {"loss_levels": [[1.0, 2.0], [5.0]], "aux_loss": 2.0},
    }
    result = {}
    for name, losses in cases.items():
        tensors = {
            key: [torch.tensor(item) for item in value]
            if isinstance(value, list) and isinstance(value[0], list)
            else torch.tensor(value)
            for key, value in losses.items()
        }
        total, log_vars = model.parse_losses(tensors)
        result[name] = [losses, total.item(), {key: value.item() for key, value in log_vars.items()}]
    return result


def preprocessed():
    torch.manual_seed(5)
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for height, width in ((4, 5), (6, 3))]
    batch = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    options = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_size_divisor=4, pad_value=0.5)
    result = dict(images=[image.tolist() for image in images], batch=batch.tolist(), options=options, outputs={})
    for name, extra in {"plain": {}, "swap": dict(bgr_to_rgb=True)}.items():
        preprocessor = ImgDataPreprocessor(**options, **extra)
        result["outputs"][name] = dict(
            images=preprocessor(dict(inputs=images))["inputs"].tolist(),
            batch=preprocessor(dict(inputs=batch))["inputs"].tolist(),
        )
    gray = ImgDataPreprocessor(mean=[127.5], std=[63.0])
    result["outputs"]["gray"] = dict(batch=gray(dict(inputs=batch))["inputs"].tolist())
    result["stacked"] = stack_batch([image.float() for image in images], pad_size_divisor=3, pad_value=-1).tolist()
    return result


def complexity():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    info = get_model_complexity_info(model, (3, 16, 16), show_table=False, show_arch=False)
    return {key: info[key] for key in ("flops", "flops_str", "activations", "activations_str", "params", "params_str")}


if __name__ == "__main__":
    MMLogger.get_instance("golden", log_level=logging.ERROR)
    golden = dict(
        init=initialized(),
        bias_init_with_prob={str(p): bias_init_with_prob(p) for p in (0.01, 0.3, 0.99)},
        averaged=averaged(),
        parsed=parsed(),
        preprocessed=preprocessed(),
        complexity=complexity(),
    )
    Path(__file__).with_name("golden.json").write_text(json.dumps(golden) + "\n")

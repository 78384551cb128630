"""Weight initialization against mmengine's values, its order, and the record of it."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from lazyengine.logging import MMLogger
from lazyengine.model import (
    BaseModule,
    Caffe2XavierInit,
    ConstantInit,
    KaimingInit,
    ModuleDict,
    ModuleList,
    NormalInit,
    PretrainedInit,
    Sequential,
    TruncNormalInit,
    UniformInit,
    XavierInit,
    bias_init_with_prob,
    init_weights,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
BOTH = ["Conv2d", "Linear"]
INITIALIZERS = {
    "constant": [ConstantInit(1.5, bias=0.25, layer="Conv2d")],
    "constant_two": [ConstantInit(1, layer=BOTH), ConstantInit(3, bias_prob=0.01, layer=nn.Linear)],
    "base_class_name": [ConstantInit(2, layer="_ConvNd")],
    "xavier": [XavierInit(gain=0.7, layer=BOTH)],
    "xavier_uniform": [XavierInit(distribution="uniform", bias=1, layer=BOTH)],
    "normal": [NormalInit(mean=0.1, std=0.02, layer=BOTH)],
    "uniform": [UniformInit(a=-0.3, b=0.4, layer=BOTH)],
    "kaiming": [KaimingInit(layer="Conv2d")],
    "kaiming_uniform": [
        KaimingInit(a=0.1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform", layer="Conv2d")
    ],
    "caffe2_xavier": [Caffe2XavierInit(layer=BOTH)],
    "override": [NormalInit(std=0.01, layer="Conv2d", override={"head": ConstantInit(3, bias=4), "norm": None})],
}


@pytest.fixture(autouse=True)
def records():
    """Collect what is logged while a test runs."""
    logger = MMLogger.get_current_instance()
    collected = []

    class Collect(logging.Handler):
        def emit(self, record):
            collected.append(record)

    handler = Collect()
    logger.addHandler(handler)
    yield collected
    logger.removeHandler(handler)


class Net(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        torch.manual_seed(7)
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(4, 2)


class Inner(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(1, 2, 1)


class Outer(BaseModule):
    def __init__(self):
        super().__init__([NormalInit(std=0.5, layer="Conv2d"), ConstantInit(7, layer="Linear")])
        self.first = Inner()
        self.second = Inner(UniformInit(1, 2, layer="Conv2d"))
        self.fc = nn.Linear(2, 1)


def values(module):
    return {name: value.flatten().tolist() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_values_are_those_of_mmengine(name):
    net = Net(INITIALIZERS[name])
    net.init_weights()
    assert values(net) == GOLDEN["init"][name]


def test_an_inner_module_wins_over_an_outer_one():
    torch.manual_seed(7)
    outer = Outer()
    outer.init_weights()
    assert values(outer) == GOLDEN["init"]["nested"]


def test_a_truncated_normal_has_the_moments_of_one():
    # not mmengine's numbers: its inverse of the distribution function turns a draw of exactly -1 into the cutoff -2
    layer = nn.Linear(1000, 1000)
    torch.manual_seed(0)
    TruncNormalInit(std=1.0, a=-1, b=1, bias=2, layer="Linear")(layer)
    assert -1 <= layer.weight.min() < -0.99
    assert 0.99 < layer.weight.max() <= 1
    assert layer.weight.std().item() == pytest.approx(0.5396, abs=0.001)  # sqrt(1 - 2 phi(1) / (2 Phi(1) - 1))
    assert (layer.bias == 2).all()


@pytest.mark.parametrize("probability", GOLDEN["bias_init_with_prob"])
def test_bias_init_with_prob(probability):
    assert bias_init_with_prob(float(probability)) == GOLDEN["bias_init_with_prob"][probability]
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        bias_init_with_prob(1)


def test_weights_are_initialized_once_with_a_warning(records):
    net = Net(NormalInit(layer="Conv2d"))
    net.init_weights()
    before = values(net)
    net.init_weights()
    assert values(net) == before
    assert [record.levelname for record in records if "more than once" in record.getMessage()] == ["WARNING"]


def test_the_initializer_of_each_parameter_is_reported(tmp_path, records):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2))

        def init_weights(self):
            self.scale.data.fill_(5)  # does not touch the version counter

    class Model(BaseModule):
        def __init__(self):
            super().__init__(KaimingInit(layer="Conv2d"))
            self.inner = Inner(ConstantInit(2, layer="Conv2d"))
            self.conv = nn.Conv2d(1, 1, 1)
            self.own = Own()
            self.fc = nn.Linear(1, 1)

    file = tmp_path / "log.txt"
    handler = logging.FileHandler(file)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    model = Model()
    try:
        model.init_weights()
    finally:
        logger.removeHandler(handler)
        handler.close()
    info = model.init_info
    assert info["inner.conv.weight"].startswith("ConstantInit(bias=0, layer=['Conv2d'], val=2)")
    assert info["conv.bias"].startswith("KaimingInit(")
    assert info["own.scale"] == "init_weights of Own"
    assert info["fc.weight"].startswith("not touched")
    assert list(info) == [name for name, _ in model.named_parameters()]
    written = file.read_text()
    assert "own.scale          (2,)          init_weights of Own" in written
    (summary,) = [record.getMessage() for record in records if "init_weights: 7 parameters" in record.getMessage()]
    assert "2 as their constructors left them" in summary


def test_containers_initialize_what_they_hold():
    def conv():
        return nn.Conv2d(1, 1, 1)

    ones, twos = ConstantInit(1, layer="Conv2d"), ConstantInit(2, layer="Conv2d")
    for container in (
        Sequential(conv(), conv(), init_cfg=twos),
        ModuleList([conv(), conv()], init_cfg=twos),
        ModuleDict({"a": conv(), "b": conv()}, init_cfg=twos),
    ):
        outer = BaseModule(ones)
        outer.conv, outer.container = conv(), container
        outer.init_weights()
        assert [parameter.item() for name, parameter in outer.named_parameters() if "weight" in name] == [1, 2, 2]
    sliced = Sequential(conv(), conv(), conv())[:2]
    assert isinstance(sliced, Sequential)
    assert len(sliced) == 2
    assert isinstance(ModuleList([conv(), conv()])[:1], ModuleList)


def test_modules_inside_plain_modules_are_reached():
    model = nn.Sequential(nn.ModuleList([Inner(ConstantInit(4, layer="Conv2d"))]))
    info = init_weights(model)
    assert model[0][0].conv.weight.flatten().tolist() == [4, 4]
    assert info["0.0.conv.weight"].startswith("ConstantInit")


def test_pretrained_weights_come_last_and_reach_children_with_an_init_of_their_own(tmp_path):
    source = Outer()
    for parameter in source.parameters():
        nn.init.constant_(parameter, 9)
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    model = Outer()
    model.init_cfg.insert(0, PretrainedInit(str(path)))
    model.init_weights()
    assert all((parameter == 9).all() for parameter in model.parameters())
    assert set(model.init_info.values()) == {f"PretrainedInit('{path}')"}


def test_a_part_of_a_checkpoint_is_loaded_by_prefix_with_revised_keys(tmp_path):
    path = tmp_path / "weights.pth"
    state = {"model.backbone.conv.weight": torch.full((2, 1, 1, 1), 3.0), "model.head.x": torch.ones(1)}
    torch.save({"state_dict": {**state, "model.backbone.conv.bias": torch.ones(2)}}, path)
    inner = Inner(PretrainedInit(str(path), prefix="backbone", revise_keys=[(r"^model\.", "")], strict=True))
    inner.init_weights()
    assert inner.conv.weight.flatten().tolist() == [3, 3]
    strict = Inner(PretrainedInit(str(path), strict=True))
    with pytest.raises(RuntimeError, match=r"conv\.weight") as raised:
        strict.init_weights()
    assert "while initializing Inner with PretrainedInit" in "".join(raised.value.__notes__)


def test_replacing_a_parameter_while_initializing_is_an_error():
    class Replaces(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2))

        def init_weights(self):
            self.scale = nn.Parameter(torch.ones(2))

    model = Sequential(Replaces())
    with pytest.raises(RuntimeError, match=r"replaced or added the parameter 'scale' of Replaces"):
        model.init_weights()


def test_an_initializer_that_finds_nothing_says_so(records):
    Net(ConstantInit(1, layer="Conv3d")).init_weights()
    assert any("holds no such layer" in record.getMessage() for record in records)
    with pytest.raises(ValueError, match="names no layer"):
        Net(ConstantInit(1)).init_weights()
    with pytest.raises(ValueError, match=r"names 'haed'.*did you mean 'head'"):
        Net(ConstantInit(1, override={"haed": None})).init_weights()


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"write ConstantInit\(\.\.\.\) instead of dict\(type='Constant', \.\.\.\)"):
        Net({"type": "Constant", "val": 1})
    with pytest.raises(TypeError, match="init_cfg of Net holds <class"):
        Net(ConstantInit)
    with pytest.raises(TypeError, match="bias of ConstantInit must be a number"):
        ConstantInit(1, bias="0")
    with pytest.raises(TypeError, match="layer of NormalInit takes class names"):
        NormalInit(layer=[3])
    with pytest.raises(TypeError, match="override of NormalInit is list"):
        NormalInit(override=[{"name": "head"}])
    with pytest.raises(ValueError, match="distribution must be"):
        XavierInit(distribution="gauss")
    with pytest.raises(ValueError, match="mode must be"):
        KaimingInit(mode="fan")
    with pytest.raises(ValueError, match="needs a < b"):
        TruncNormalInit(a=1, b=1)


def test_an_initializer_of_ones_own_is_a_callable():
    def halves(module):
        nn.init.constant_(module.head.weight, 0.5)

    net = Net(halves)
    net.init_weights()
    assert (net.head.weight == 0.5).all()
    assert "halves" in net.init_info["head.weight"]
    assert "init_cfg=[" in repr(net)

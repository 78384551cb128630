"""Counts of operations, activations and parameters, and the summary of a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lazyengine.analysis import (
    ActivationAnalyzer,
    FlopAnalyzer,
    activation_count,
    flop_count,
    get_model_complexity_info,
    parameter_count,
    parameter_count_table,
    summary,
)
from lazyengine.model import BaseModel, ImgDataPreprocessor

GOLDEN = json.loads((Path(__file__).parents[1] / "model" / "golden" / "golden.json").read_text())["complexity"]


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def test_counts_are_those_of_mmengine_and_the_model_is_left_as_it_was():
    model = net()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected_draw = torch.rand(1)
    torch.manual_seed(0)
    info = get_model_complexity_info(model, (3, 16, 16))
    assert torch.rand(1) == expected_draw
    assert {key: info[key] for key in GOLDEN} == GOLDEN
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert "#parameters or shape" in info["out_table"]
    assert "#params: 45, #flops: 40" in info["out_arch"]


def test_tables_are_left_out_on_request_and_inputs_may_be_given():
    info = get_model_complexity_info(net(), inputs=torch.ones(2, 3, 16, 16), show_table=False, show_arch=False)
    assert info["out_table"] == info["out_arch"] == ""
    assert info["flops"] == 2 * GOLDEN["flops"]


def test_several_inputs():
    class Bilinear(nn.Module):
        def forward(self, a, b):
            return a @ b.transpose(1, 2)

    info = get_model_complexity_info(Bilinear(), ((3, 4), (5, 4)))
    assert (info["flops"], info["params"]) == (60, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of input_shape and inputs"),
        ({"input_shape": (3,), "inputs": torch.ones(1)}, "exactly one of input_shape and inputs"),
        ({"input_shape": "3x4"}, "must be a tuple of ints"),
        ({"input_shape": ((3, 4), 5)}, "must be a tuple of ints"),
        ({"input_shape": ()}, "must be a tuple of ints"),
    ],
)
def test_wrong_inputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_model_complexity_info(net(), **arguments)


def test_analyzers_and_counts_agree():
    model, x = net(), torch.ones(1, 3, 16, 16)
    flops, activations = FlopAnalyzer(model, x), ActivationAnalyzer(model, (x,))
    assert flops.total() == GOLDEN["flops"]
    assert flops.by_module()["0"] == 3 * 9 * 8 * 256
    by_operator, skipped = flop_count(model, x)
    assert by_operator["conv"] == flops.by_operator()["conv"] / 1e9
    assert "aten::relu" not in by_operator
    assert isinstance(skipped, dict)
    assert activation_count(model, x)[0] == {"conv": 2048 / 1e6, "linear": 5 / 1e6}
    assert activations.total() == 2053
    assert parameter_count(model)["5"] == 45
    assert "5.weight" in parameter_count_table(model)


def test_importing_the_package_does_not_import_what_is_heavy():
    code = (
        "import sys, lazyengine.analysis as a; print([m for m in ('fvcore', 'matplotlib') if m in sys.modules], "
        "'summary' in dir(a))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] True"


def test_an_unknown_name_is_an_attribute_error():
    import lazyengine.analysis

    with pytest.raises(AttributeError, match="no attribute 'flops'"):
        _ = lazyengine.analysis.flops


def test_the_summary_shows_parameters_by_child_and_the_preprocessor():
    class Model(BaseModel):
        def __init__(self):
            super().__init__(ImgDataPreprocessor(mean=[0.5], std=[0.2]))
            self.backbone = nn.Linear(1000, 2, bias=False)
            self.head = nn.Linear(2, 2)
            self.tied = nn.Linear(2, 2)
            self.tied.weight = self.head.weight
            self.scale = nn.Parameter(torch.ones(3))
            self.drop = nn.Dropout()

        def forward(self, x, mode="tensor"):
            return x

    model = Model()
    model.backbone.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    lines = summary(model).splitlines()
    assert lines[0] == "Model: 2,011 parameters, 9 trained, 2,002 frozen"
    assert lines[1].startswith("  data_preprocessor: ImgDataPreprocessor(mean=(0.5,), std=(0.2,)")
    assert [line.split() for line in lines[2:]] == [
        ["backbone", "Linear", "2,000", "frozen"],
        ["head", "Linear", "6", "2", "frozen"],
        ["tied", "Linear", "2"],
        ["(its", "own)", "3"],
    ]
    assert summary(nn.ReLU()) == "ReLU: 0 parameters, 0 trained, 0 frozen"

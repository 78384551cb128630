"""tools/show_schedule.py: the schedule of a config file."""

import pytest

from lazyengine.cli.schedule import main

CONFIG = """
import torch
from lazyengine.config import LazyCall as L
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from {module} import Loop, Net, Runner, parameters

model = L(Net)()
optimizer = L(torch.optim.SGD)(params=L(parameters)(model=model), lr=0.4, momentum=0.9)
train_loop = L(Loop)(dataset="data", max_epochs=10)
runner = L(Runner)(
    model=model,
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer),
    train_loop=train_loop,
    param_schedulers=[
        L(LinearLR)(optimizer=optimizer, start_factor=0.25, end=2, convert_to_iter_based=True),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=2, convert_to_iter_based=True),
    ],
)
"""

PARTS = """
import torch

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def parameters(model):
    return model.parameters()

class Loop:
    def __init__(self, dataset, max_epochs):
        if dataset == "none":
            raise FileNotFoundError("the dataset was built")
        self.max_epochs, self.epoch_length, self.max_iters = max_epochs, 5, 5 * max_epochs

class Runner:
    def __init__(self, model, optim_wrapper=None, train_loop=None, param_schedulers=None):
        raise AssertionError("nothing is trained")
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    module = f"parts_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(module=module))
    return str(path)


def test_draws_without_building_the_dataset_when_the_length_is_given(config, capsys, tmp_path):
    picture = str(tmp_path / "lr.png")
    assert main(["--config", config, "--epoch-length", "20", "--output", picture, "train_loop.dataset=none"]) == 0
    out = capsys.readouterr().out
    assert "0.4 ┤" in out
    assert "200 iterations (10 epochs)" in out
    assert f"written: {picture}" in out
    with open(picture, "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_asks_the_loop_for_the_length(config, capsys):
    assert main(["--config", config, "optimizer.lr=0.8", "train_loop.max_epochs=4"]) == 0
    out = capsys.readouterr().out
    assert "0.8 ┤" in out
    assert "20 iterations (4 epochs)" in out


def test_mistakes_end_with_code_2(config, capsys):
    assert main(["--config", config, "optimizer.lrr=0.8"]) == 2
    assert "lrr" in capsys.readouterr().err
    assert main(["--config", config, "~runner.train_loop"]) == 2
    assert "missing: train_loop" in capsys.readouterr().err

"""What looks as if it set a value and does not; and what is no mistake although it looks so."""

import functools
from typing import Any

import pytest
from torch import nn

from lazyengine.config import (
    Config,
    ConfigFileError,
    ConfigWarning,
    LazyCall,
    LazyConfig,
    LazyPartial,
    check_config,
    instantiate,
)

BASE = (
    "net = L(Net)(width=4)\nopt = L(Opt)(net=net, lr=0.1)\nrunner = L(Run)(opt=opt, net=net, seed=1, load_from=None)\n"
)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("net.width: 8", "net.width = 8"),
        ("net.inner: net", "net.inner = net"),
        ("lr: 0.1", "lr = 0.1"),
        ("opt.lr == 0.2", "opt.lr = 0.2"),
        ("if True:\n    net.width: 8", "net.width = 8"),
    ],
)
def test_a_statement_that_sets_nothing(project, written, instead):
    line = 4 + written.count("\n")
    with pytest.raises(ConfigFileError, match=rf"main\.py:{line}: .* sets nothing\. Write {instead}\."):
        project.load(f"from .base import *\n{written}\n", base=BASE)


@pytest.mark.parametrize(
    "text",
    [
        "lr: float\nlr = 0.2",
        "flag: None",
        "lr: 'float'",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    lr: float\n    name: str = 3\n",
        "class A:\n    def __init__(self):\n        self.x: int\n",
        "table = {\n    Net: 3,\n    Opt: 4,\n}",
        "def f(\n    lr: float,\n    net: Net,\n): return lr",
        "assert net.width == 4\nsame = net.width == 4",
        "try: x = 1\nfinally: pass",
    ],
)
def test_annotations_and_comparisons_that_are_meant(project, strict, text):
    project.load(f"from .base import *\n{text}\n", base=BASE)


@pytest.fixture
def strict(recwarn):
    yield
    assert not [w for w in recwarn if issubclass(w.category, ConfigWarning)]


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("lr = 0.5", r"runner\.opt\.lr"),
        ("width = 9", r"runner\.opt\.net\.width"),
        ("load_from = 'a.pth'", r"runner\.load_from"),
    ],
)
def test_a_new_value_that_the_runner_takes_and_nothing_reads(project, written, path):
    name = written.split()[0]
    with pytest.warns(ConfigWarning, match=rf"main\.py:4: nothing reads '{name}'\. Write {path} = {name} too"):
        project.load(f"from .base import *\n{written}\n", base=BASE)


@pytest.mark.parametrize(
    "written",
    ["lr = 0.1", "lr = 0.5\nopt.lr = lr", "lr = 0.5\nopt.lr = ref('lr')", "width = 'wide'", "steps = 4", "_lr = 3"],
)
def test_a_new_value_that_counts_or_is_another(project, strict, written):
    project.load(f"from .base import *\n{written}\n", base=BASE)


def test_a_config_loaded_in_a_config_is_no_value_of_it(project, tmp_path):
    project.write(base=BASE)
    cfg = project.load("from lazyengine.config import LazyConfig\nb = LazyConfig.load('base.py')\nrunner = b.runner\n")
    assert not hasattr(cfg, "b")
    LazyConfig.save(cfg, tmp_path / "saved.py")
    assert instantiate(LazyConfig.load(tmp_path / "saved.py").runner).parts["net"].width == 4


class Wrapped(nn.Module):
    def __init__(
        self,
        body: nn.Module,
        norm: nn.Module = nn.LayerNorm,  # type: ignore[assignment]  # as many write it
        act: type[nn.Module] = nn.ReLU,
        make: Any = None,
    ):
        super().__init__()


@pytest.mark.parametrize("body", [nn.ReLU, functools.partial(nn.Linear, 2), LazyPartial(nn.Linear)(2)])
def test_what_only_would_make_an_object(body):
    (problem,) = check_config(Config({"x": LazyCall(Wrapped)(body=body)}))
    assert problem.startswith("x.body accepts Module, got ")


@pytest.mark.parametrize("given", [{"norm": nn.BatchNorm1d}, {"act": nn.GELU}, {"make": nn.GELU}])
def test_classes_where_classes_are_meant(given):
    assert check_config(Config({"x": LazyCall(Wrapped)(body=LazyCall(nn.Identity)(), **given)})) == []

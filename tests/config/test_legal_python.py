"""Legal Python in config files, and values of all kinds that are saved."""

import dataclasses
import enum
import functools
import re
from typing import Any

import pytest

from lazyengine.config import Config, LazyCall, LazyConfig, SaveError, arguments_of, check_config, instantiate


class Flags(enum.Flag):
    A = 1
    B = 2
    C = 4


class IntFlags(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int = 0
    y: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    p: Point


def keep(x=None, inner=None):
    return x if inner is None else inner


def back(value, tmp_path):
    cfg = Config({"a": LazyCall(keep)(x=value)})
    assert LazyConfig.save(cfg, tmp_path / "config.py") == []
    again = LazyConfig.load(tmp_path / "config.py")
    assert again == cfg
    return (tmp_path / "config.py").read_text(), again.a.x


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Flags.A | Flags.C, "Flags"),
        (Flags(0), "Flags"),
        (IntFlags.A | IntFlags.B, "IntFlags"),
        (functools.partial(keep, 1, inner=[2]), "partial(keep, 1, inner=[2])"),
        (functools.partial(keep, functools.partial(keep)), "partial(keep, partial(keep))"),
        (Point(1, [2]), "Point(x=1, y=[2])"),
        (Frozen(Point(3)), "Frozen(p=Point(x=3, y=None))"),
        (re.compile("a+", re.IGNORECASE), "compile('a+', "),
        (re.compile(rb"\d"), "compile("),
        (range(1, 9, 2), "range(1, 9, 2)"),
        (slice(1, None), "slice(1, None, None)"),
    ],
)
def test_values_are_written_as_calls(value, shown, tmp_path):
    text, again = back(value, tmp_path)
    assert shown in text
    assert "unpickle" not in text
    assert type(again) is type(value)


def test_a_chain_of_200_nodes_is_saved_and_built(tmp_path):
    node = LazyCall(keep)(x=1)
    for _ in range(200):
        node = LazyCall(keep)(inner=node)
    cfg = Config({"a": node})
    LazyConfig.save(cfg, tmp_path / "config.py")
    LazyConfig.save(cfg, tmp_path / "config.json")
    again = LazyConfig.load(tmp_path / "config.py")
    assert again == cfg
    assert instantiate(again.a) == 1


@pytest.mark.parametrize(
    "text",
    [
        "with open(__file__) as f:\n    text = f.read(1)\n",
        "import threading\nlock = threading.Lock()\n",
        "file = open(__file__)\n",
        "import threading\nlocks = {'a': [threading.Lock()]}\n",
        "gen = (i for i in range(3))\n",
    ],
)
def test_what_nothing_uses_and_does_not_pickle_is_left_out_of_what_is_saved(project, text, tmp_path):
    cfg = project.load(f"{text}net = L(Net)(width=2)\n")
    LazyConfig.save(cfg, tmp_path / "saved.py")
    again = LazyConfig.load(tmp_path / "saved.py")
    assert again.net.width == 2
    assert {"f", "lock", "gen", "file", "locks"}.isdisjoint(arguments_of(again))
    for value in arguments_of(cfg).values():
        getattr(value, "close", int)()


@pytest.mark.parametrize("use", ["inner=lock", "inner=[lock]", "inner=ref('lock')"])
def test_what_a_node_uses_must_be_saved_and_checks_say_so(project, use, tmp_path):
    cfg = project.load(f"import threading\nlock = threading.Lock()\nnet = L(Net)({use})\n")
    with pytest.raises(SaveError, match="cannot be saved"):
        LazyConfig.save(cfg, tmp_path / "saved.py")
    assert check_config(cfg) == []


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nwidth = 3\nnet = L(Net)(width=getattr(sys.modules[__name__], 'width'))\n",
        "import importlib\nparts = importlib.import_module('.parts', __package__)\nnet = L(parts.Net)(width=3)\n",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: 'int' = 3\nnet = L(Net)(width=P().x)\n",
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int = 3\nnet = L(Net)(width=P().x)\n",
        "import inspect, sys\nnet = L(Net)(width=3 if inspect.getmodule(L) else 0)\n",
    ],
)
def test_the_module_is_registered_while_it_runs(project, text):
    import sys

    before = set(sys.modules)
    assert project.load(text).net.width == 3
    assert not any(name.endswith("main") for name in set(sys.modules) - before)


def test_postponed_annotations_of_a_dataclass_in_a_config(project):
    (project.folder / "post.py").write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n"
        "from lazyengine.config import LazyCall as L\n@dataclasses.dataclass\nclass P:\n    x: int = 3\n"
        "    y: ClassVar[int] = 4\np = L(P)(x=5)\n"
    )
    assert instantiate(LazyConfig.load(project.folder / "post.py").p).x == 5


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize(
    "value",
    [
        "REGISTRY = {}\n",
        "MISSING = object()\n",
        "from collections import namedtuple\nREGISTRY = namedtuple('P', 'x')\n",
    ],
)
def test_a_file_that_other_code_imports_too_is_a_real_module(project, order, value):
    name = value.split(" =")[0].split("\n")[-1]
    (project.folder / "shared.py").write_text(value)
    (project.folder / "code.py").write_text(f"from .shared import {name}\nclass User:\n    value = {name}\n")
    imports = [f"from .shared import {name} as VALUE", "from .code import User"]
    text = "\n".join(imports if order == "first" else reversed(imports))
    cfg = project.load(f"{text}\nsame = VALUE is User.value\n")
    assert cfg.same


def test_plain_values_are_read_afresh_as_long_as_only_configs_import_them(project):
    (project.folder / "values.py").write_text("items = [1]\n")
    project.load("from .values import items\n").items.append(2)
    assert project.load("from .values import items\n").items == [1]
    (project.folder / "values.py").write_text("items = [1, 2, 3]\n")
    assert project.load("from .values import items\n").items == [1, 2, 3]


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_config_that_needs_the_objects_of_real_code_while_it_runs(project, order):
    (project.folder / "shared.py").write_text("MISSING = object()\n")
    (project.folder / "code.py").write_text("from .shared import MISSING\ndef test(x):\n    return x is MISSING\n")
    imports = ["from .shared import MISSING", "from .code import test"]
    text = "\n".join(imports if order == "first" else reversed(imports))
    assert "MISSING" in project.load(f"{text}\nassert test(MISSING)\n")


def test_a_config_runs_once_where_real_code_came_first(project):
    (project.folder / "shared.py").write_text("NAMES = []\n")
    (project.folder / "code.py").write_text("from .shared import NAMES\ndef add():\n    NAMES.append(1)\n")
    cfg = project.load("from .code import add\nfrom .shared import NAMES\nadd()\n")
    assert cfg.NAMES == [1]

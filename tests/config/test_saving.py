"""Configs as Python, equal when read back, and as JSON, for other programs."""

import dataclasses
import enum
import json
import os
import pathlib
import subprocess
import sys
from collections import OrderedDict, namedtuple
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest

from lazyengine.config import (
    REQUIRED,
    Config,
    ConfigWarning,
    LazyConfig,
    LazyPartial,
    SaveError,
    arguments_of,
    clone,
    diff,
    instantiate,
    ref,
    target_of,
)
from lazyengine.config import LazyCall as L
from lazyengine.config.flat import flat_config

Point = namedtuple("Point", "x y")
Outer = namedtuple("Outer", "point name")


class Mode(enum.Enum):
    FAST = 1


class Thing:
    class Inner:
        pass

    def __init__(self, *args: Any, x: Any = None, y: Any = None, **kwargs: Any):
        self.args, self.x, self.y = args, x, y

    @classmethod
    def make(cls, x: Any = None):
        return cls(x=x)


Odd = enum.Enum("Odd", ["2d", "class", "a b"])


@dataclasses.dataclass(frozen=True)
class Place:
    path: str = ""
    name: str = ""
    indent: int = 0
    arguments: tuple = ()


@dataclasses.dataclass
class Options:
    scale: float
    mean: Any = None
    cache: Any = dataclasses.field(default=None, compare=False)


class Noise:
    def __init__(self, std):
        self.std = std


def double(x):
    return 2 * x


def by_name(**named):
    return named


def both(x, y):
    return [x, y]


def a_config() -> Any:
    shared = L(Thing)(x=1)
    options = {"a": shared, 2: "two", "a b": None, "$call": "os:system"}
    return Config(
        {
            "first": L(Thing)(shared, 5, x=shared, y=[shared, (1, shared)], **{"from": 1, "a-b": 2}),
            "options": options,
            "second": L(Thing)(x=options, y=REQUIRED),
            "part": LazyPartial(double)(x=3),
            "late": L(f"{__name__}:Thing")(x=1),
            "made": L(Thing.make)(x=ref("numbers", len)),
            "two": ref("second", "numbers", both),
            "numbers": [1, -2.5, 1e300, float("inf"), float("-inf"), float("nan"), 10**5000, 1 + 2j, True, None, -0.0],
            "texts": ["", "ü 数", "a\nb", "\ud800", '"quotes"', "true", b"\x00\xff"],
            "containers": [
                (),
                (1,),
                (1, (2,)),
                set(),
                {3, 1, 2},
                frozenset({"a"}),
                frozenset(),
                {},
                [],
                OrderedDict(b=1, a=[2]),
            ],
            "points": [Point(1, (2, 3)), Outer(Point(0, 0), "n")],
            "objects": [Mode.FAST, Thing, Thing.Inner, double, len, Thing.make, dict, np.float32, np.zeros],
            "paths": [pathlib.Path("a/b"), pathlib.PurePosixPath("/c"), pathlib.PureWindowsPath("c:\\d")],
            "arrays": [
                np.arange(6, dtype=np.int16).reshape(2, 3),
                np.array([1.5, np.nan, np.inf], dtype=np.float32),
                np.zeros((0, 3)),
                np.array(["a", "bcdef"]),
                np.array(3.0),
                np.float32(0.1),
                np.int64(7),
                np.bool_(True),
                np.linspace(0, 1, 2000),
                np.array([1 + 2j]),
            ],
        }
    )


def test_every_kind_of_value_comes_back_equal_with_its_type(tmp_path):
    cfg = a_config()
    path = tmp_path / "config.py"
    assert LazyConfig.save(cfg, path) == []
    again = LazyConfig.load(path)
    assert diff(cfg, again) == []
    assert again == cfg
    assert os.listdir(tmp_path) == [path.name]
    for name in ("numbers", "texts", "containers", "points", "paths", "arrays"):
        for old, new in zip(arguments_of(cfg)[name], arguments_of(again)[name], strict=True):
            assert type(old) is type(new), name
            assert isinstance(old, int | set | frozenset) or repr(old) == repr(new), name
    for old, new in zip(cfg.arrays, again.arrays, strict=True):
        assert (old.dtype, old.shape, old.tobytes()) == (new.dtype, new.shape, new.tobytes())
    for old, new in zip(cfg.objects, again.objects, strict=True):
        assert old == new
    assert isinstance(instantiate(again.part), partial)
    assert target_of(again.late) == f"{__name__}:Thing"
    assert again.first.x is again.options["a"] is arguments_of(again.first)[0] is again.first.y[1][1]
    assert again.second.x is again.options


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (partial(by_name, path=1, name=2, indent=3, self=4), "partial(by_name, path=1, name=2, indent=3, self=4)"),
        (partial(by_name, **{"a-b": 1, "class": [2]}), "partial(by_name, **{'a-b': 1, 'class': [2]})"),
        (Place("p", "n", 1, (2,)), "Place(path='p', name='n', indent=1, arguments=(2,))"),
        (Odd["2d"], "Odd['2d']"),
        (Odd["class"], "Odd['class']"),
        (Mode.FAST, "Mode.FAST"),
    ],
)
def test_what_a_call_or_an_enum_holds_may_have_any_name(tmp_path, value, written):
    cfg = Config({"a": L(Thing)(x=value)})
    assert LazyConfig.save(cfg, tmp_path / "config.py") == []
    assert f"x={written}" in (tmp_path / "config.py").read_text()
    again = LazyConfig.load(tmp_path / "config.py")
    assert again == cfg
    made = instantiate(again.a).x
    assert (made() if isinstance(made, partial) else made) == (value() if isinstance(value, partial) else value)


@pytest.mark.parametrize(
    "options",
    [Options(float("nan")), Options(0.5, np.array([0.1, 0.2])), Options(0.5, [float("nan"), np.ones((2, 2))], 3)],
)
def test_a_dataclass_that_holds_nan_or_an_array_is_saved(options, tmp_path):
    cfg = Config({"node": L(Thing)(x=options)})
    assert LazyConfig.save(cfg, tmp_path / "a.py") == []
    assert LazyConfig.load(tmp_path / "a.py") == cfg
    changed = clone(cfg)
    changed.node.x.mean = np.array([0.1, 0.3])
    assert [str(each).partition(":")[0] for each in diff(cfg, changed)] == ["~ node.x"]


def test_saving_twice_writes_the_same_bytes(tmp_path):
    LazyConfig.save(a_config(), tmp_path / "a.py")
    LazyConfig.save(LazyConfig.load(tmp_path / "a.py"), tmp_path / "b.py")
    a, b = ((tmp_path / f"{name}.py").read_text(errors="replace") for name in "ab")
    assert a.replace("memory", "a.py") == b
    for name in ("a", "b"):
        LazyConfig.save(a_config(), tmp_path / f"{name}.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_json_holds_every_value_for_other_programs(tmp_path):
    assert LazyConfig.save(a_config(), tmp_path / "a.json") == []
    values = json.loads((tmp_path / "a.json").read_text())["values"]
    assert list(values) == list(arguments_of(a_config()))
    first = values["first"]
    assert first["$call"] == f"{__name__}:Thing"
    assert first["$with"]["a-b"] == 2
    assert first["$args"][0] == {"$call": f"{__name__}:Thing", "$with": {"x": 1}}
    assert first["$with"]["x"] == {"$same": "first[0]"}
    assert values["second"]["$with"] == {"x": {"$same": "options"}, "y": {"$object": "lazyengine.config:REQUIRED"}}
    assert values["part"] == {"$partial": f"{__name__}:double", "$with": {"x": 3}}
    assert values["made"]["$with"]["x"] == {"$ref": ["numbers", {"$object": "builtins:len"}]}
    assert values["numbers"][:3] == [1, -2.5, 1e300]
    assert values["numbers"][3] == {"$text": "inf"}
    assert values["texts"][1] == "ü 数"
    assert values["texts"][3] == "\ud800"
    assert values["containers"][2] == {"$tuple": [1, {"$tuple": [2]}]}
    assert values["containers"][4] == {"$set": [1, 2, 3]}
    assert values["options"]["$dict"][1] == [2, "two"]
    assert values["objects"][0] == {"$text": "Mode.FAST"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(double, x=0.2), partial(double, x=0.3)),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x, k={"a", "b"}: x in k, lambda x, k={"a", "c"}: x in k),
        (np.array([0.1000000001, 1.0]), np.array([0.1000000002, 1.0])),
        (np.arange(3000), np.arange(3000) ** 2),
        (np.float32([1.0]), np.float64([1.0])),
        (Noise(0.2), Noise(0.3)),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (Options(0.5, np.array([0.1000000001])), Options(0.5, np.array([0.1000000002]))),
        (b"a" * 2000, b"a" * 1999 + b"b"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*pickled:lazyengine.config.ConfigWarning")
def test_json_tells_apart_what_one_line_does_not(one, other, tmp_path):
    """`compare`, `table`, a sweep and a resume ask it whether two runs have the same config."""
    LazyConfig.save(Config({"node": L(Thing)(x=one)}), tmp_path / "one.py")
    configs = [LazyConfig.load(tmp_path / "one.py"), *(Config({"node": L(Thing)(x=x)}) for x in (one, other))]
    for name, cfg in zip("abc", configs):
        LazyConfig.save(cfg, tmp_path / f"{name}.json")
    again, ones, others = (flat_config((tmp_path / f"{name}.json").read_text()) for name in "abc")
    assert again == ones != others


def late_names() -> list[Any]:
    part, options = L(Thing)(x=1), {"a": [1]}
    outer = L(Thing)(x=part, y=L(Thing)(x=options))
    return [
        {"model": L(Thing)(x=part), "part": part},
        {"first": outer, "second": [part, options], "options": options, "outer": outer, "part": part},
        {"a": {"k": options["a"]}, "b": L(Thing)(options), "options": options, "inner": options["a"], "again": options},
    ]


@pytest.mark.parametrize("values", late_names())
def test_json_of_a_saved_config_is_that_of_the_config_whatever_the_order_of_its_names(values, tmp_path):
    """A child names what it gives a node of its base; in the saved file the part has to stand before it."""
    LazyConfig.save(Config(values), tmp_path / "a.py")
    LazyConfig.save(Config(values), tmp_path / "a.json")
    LazyConfig.save(LazyConfig.load(tmp_path / "a.py"), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_what_contains_itself_has_a_json_form(tmp_path):
    one: dict[str, Any] = {}
    other = {"one": one}
    one["other"] = other
    LazyConfig.save(Config({"one": one, "other": other}), tmp_path / "a.json")
    values = json.loads((tmp_path / "a.json").read_text())["values"]
    assert values == {"other": {"one": {"other": {"$same": "other"}}}, "one": {"$same": "other.one"}}


def test_an_empty_dict_is_not_the_same_as_none_given(tmp_path):
    configs = [Config({"node": L(Thing)(x=1, **more)}) for more in ({}, {"y": {}}, {"y": {"a": {}}})]
    for name, cfg in zip("abc", configs):
        LazyConfig.save(cfg, tmp_path / f"{name}.json")
    a, b, c = (flat_config((tmp_path / f"{name}.json").read_text()) for name in "abc")
    assert (b.items() - a.items(), c.items() - a.items()) == ({("node.y", "{}")}, {("node.y.a", "{}")})


def test_json_has_one_value_a_line(tmp_path):
    LazyConfig.save(Config({"a": L(Thing)(x=1, y=[2, 3])}), tmp_path / "a.json")
    LazyConfig.save(Config({"a": L(Thing)(x=1, y=[2, 4])}), tmp_path / "b.json")
    a, b = ((tmp_path / f"{name}.json").read_text().splitlines() for name in "ab")
    assert len(a) == len(b)
    assert [(x.strip(), y.strip()) for x, y in zip(a, b) if x != y] == [("3", "4")]


def test_python_names_never_collide(tmp_path):
    cfg = Config(
        {
            "LazyCall": 1,
            "Thing": L(Thing)(),
            "float": float("inf"),
            "set": set(),
            "ref": ref("LazyCall"),
            "Mode": Mode.FAST,
        }
    )
    LazyConfig.save(cfg, tmp_path / "config.py")
    assert LazyConfig.load(tmp_path / "config.py") == cfg


def test_constants_that_name_themselves_and_calls_are_written_as_code(tmp_path):
    import torch

    cfg = Config({"a": L(Thing)(x=torch.float32, y=[torch.device("cpu"), range(3), slice(1, 2), Fraction(1, 3)])})
    assert LazyConfig.save(cfg, tmp_path / "config.py") == []
    text = (tmp_path / "config.py").read_text()
    assert "float32" in text
    assert "device('cpu')" in text
    again = LazyConfig.load(tmp_path / "config.py")
    assert again == cfg
    assert list(arguments_of(again)) == ["a"]
    assert again.a.x is torch.float32


def test_python_runs_outside_the_repository_in_a_fresh_process(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").touch()
    (project / "net_of_project.py").write_text(
        "class Net:\n    def __init__(self, width=1):\n        self.width = width\n"
    )
    (project / "config.py").write_text(
        "from lazyengine.config import LazyCall as L\nfrom .net_of_project import Net\n"
        "net = L(Net)(width=3)\nsame = [net]\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cfg = LazyConfig.load(project / "config.py")
    LazyConfig.save(cfg, elsewhere / "config.py")
    code = (
        "from lazyengine.config import LazyConfig, instantiate\n"
        f"cfg = LazyConfig.load({str(elsewhere / 'config.py')!r})\n"
        "built = instantiate(cfg)\n"
        "print(built['net'].width, built['same'][0] is built['net'], cfg.same[0] is cfg.net)\n"
    )
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "3 True True", result.stderr


def test_a_value_that_contains_itself_is_named(tmp_path):
    loop: list[Any] = [1]
    loop.append(loop)
    node = L(Thing)()
    node.x = [node]
    for value in (L(Thing)(x=loop), node):
        with pytest.raises(SaveError, match=r"a\S* contains itself"):
            LazyConfig.save(Config({"a": value}), tmp_path / "x.py")
    assert os.listdir(tmp_path) == []


def test_what_no_import_gives_is_pickled_and_listed(tmp_path):
    class Local:
        def __init__(self, x: int = 1):
            self.x = x

    cfg = Config(
        {
            "a": L(Thing)(x=lambda v: v + 1, y={"p": partial(double, 4)}),
            "b": L(Local)(x=2),
            "c": ref("b.x", lambda x: x),
        }
    )
    assert LazyConfig.save(cfg, tmp_path / "config.json") == []
    with pytest.warns(ConfigWarning) as caught:
        pickled = LazyConfig.save(cfg, tmp_path / "config.py")
    assert sorted(pickled) == ["a.x", "b._target_", "c[1]"]
    assert all(path in str(caught[0].message) for path in pickled)
    again = LazyConfig.load(tmp_path / "config.py")
    assert again.a.x(1) == 2
    assert instantiate(again.b).x == 2


def test_saving_leaves_the_classes_of_a_config_file_as_they_are(tmp_path):
    """What is read back to compare it gave their methods copies, with globals of their own, without file and line."""
    file = tmp_path / "own.py"
    file.write_text(
        "from lazyengine.config import LazyCall\n"
        "seen = []\n"
        "class Net:\n    def see(self, x):\n        seen.append(x)\n        return seen\n"
        "class Wide(Net):\n    pass\n"
        "net = LazyCall(Wide)()\nother = LazyCall(Net)()\n"
    )
    cfg = LazyConfig.load(file)
    with pytest.warns(ConfigWarning, match="pickled"):
        LazyConfig.save(cfg, tmp_path / "saved.py")
    one, other = instantiate(cfg.net), instantiate(cfg.other)
    one.see(1)
    assert other.see(2) == [1, 2]
    assert type(other).see.__code__.co_filename == str(file)
    code = (
        "import sys; from lazyengine.config import LazyConfig, instantiate\n"
        "cfg = LazyConfig.load(sys.argv[1]); instantiate(cfg.net).see(1); print(instantiate(cfg.net).see(2))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "saved.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout == "[1, 2]\n"


def test_what_cannot_be_pickled_is_named(tmp_path):
    import threading

    with pytest.raises(SaveError, match=r"a\.x: .*lock.* cannot be saved"):
        LazyConfig.save(Config({"a": L(Thing)(x=threading.Lock())}), tmp_path / "config.py")


def test_names_that_cannot_be_saved_to(tmp_path):
    for ending in ("yaml", "pkl"):
        with pytest.raises(SaveError, match=r"\.py or \.json"):
            LazyConfig.save(a_config(), tmp_path / f"config.{ending}")


def test_a_config_that_would_not_come_back_equal_is_not_written(tmp_path):
    class Odd:
        def __reduce__(self):
            return dict, ()

    with pytest.raises(SaveError, match=r"does not give an equal config: ~ a\.x"):
        LazyConfig.save(Config({"a": L(Thing)(x=Odd())}), tmp_path / "config.py")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("imports", ["from .base import *", "from . import base\nrunner = base.runner"])
@pytest.mark.parametrize(
    "made", ["functools.partial(len)", "functools.partial(dict, a=1)", "functools.partial(functools.partial, len)"]
)
def test_a_partial_of_a_base_is_saved(project, imports, made):
    project.write(base=f"import functools\nx = {made}\nrunner = L(Run)(x=x)\n")
    cfg = project.load(f"{imports}\n")
    LazyConfig.save(cfg, project.folder / "saved.py")
    assert LazyConfig.load(project.folder / "saved.py") == cfg

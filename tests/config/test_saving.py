"""Configs as Python and as JSON: equal when read back, and nothing runs that is not allowed."""

import base64
import enum
import json
import os
import pathlib
import pickle
import subprocess
import sys
import warnings
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
    clone,
    diff,
    freeze,
    instantiate,
    ref,
)
from lazyengine.config import LazyCall as L
from lazyengine.config.node import arguments_of, is_partial, target_of

HERE = __name__.partition(".")[0]
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


def double(x):
    return 2 * x


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
            "two": ref("second", "numbers", double),
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


@pytest.mark.parametrize("ending", ["py", "json", "pkl"])
def test_every_kind_of_value_comes_back_equal_with_its_type(ending, tmp_path):
    cfg = a_config()
    path = tmp_path / f"config.{ending}"
    assert LazyConfig.save(cfg, path) == []
    options = {"py": {}, "json": {"allow": (HERE,)}, "pkl": {"trusted": True}}[ending]
    again = LazyConfig.load(path, **options)
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
    assert is_partial(again.part)
    assert target_of(again.late) == f"{__name__}:Thing"
    assert again.first.x is again.options["a"] is arguments_of(again.first)[0] is again.first.y[1][1]
    assert again.second.x is again.options


@pytest.mark.parametrize("ending", ["py", "json"])
def test_saving_twice_writes_the_same_bytes(ending, tmp_path):
    LazyConfig.save(a_config(), tmp_path / f"a.{ending}")
    again = LazyConfig.load(tmp_path / f"a.{ending}", **({"allow": (HERE,)} if ending == "json" else {}))
    LazyConfig.save(again, tmp_path / f"b.{ending}")
    a, b = ((tmp_path / f"{name}.{ending}").read_text(errors="replace") for name in "ab")
    assert a.replace("memory", f"a.{ending}") == b


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


def test_a_frozen_config_is_saved_and_a_clone_keeps_what_is_shared(tmp_path):
    cfg = freeze(a_config())
    LazyConfig.save(cfg, tmp_path / "config.py")
    LazyConfig.save(clone(cfg), tmp_path / "config.json")
    assert LazyConfig.load(tmp_path / "config.json", allow=(HERE,)) == LazyConfig.load(tmp_path / "config.py") == cfg


def test_a_value_that_contains_itself_is_named(tmp_path):
    loop: list[Any] = [1]
    loop.append(loop)
    node = L(Thing)()
    node.x = [node]
    for value in (loop, node):
        for ending in ("py", "json"):
            with pytest.raises(SaveError, match=r"a\S* contains itself"):
                LazyConfig.save(Config({"a": value}), tmp_path / f"x.{ending}")
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
    paths = ["a.x", "a.y.p", "b._target_", "c function"]
    for ending in ("json", "py"):
        with pytest.warns(ConfigWarning) as caught:
            pickled = LazyConfig.save(cfg, tmp_path / f"config.{ending}")
        if ending == "py":  # functools.partial is written as the call that makes it where that is possible
            paths = [p for p in paths if p in pickled]
        assert sorted(pickled) == sorted(paths)
        assert all(path in str(caught[0].message) for path in paths)
    again = LazyConfig.load(tmp_path / "config.py")
    assert again.a.x(1) == 2
    assert instantiate(again.b).x == 2
    with pytest.raises(SaveError) as error:
        LazyConfig.load(tmp_path / "config.json", allow=(HERE,))
    assert "a.x, a.y.p, b._target_, c function" in str(error.value)
    assert "trusted=True" in str(error.value)
    assert LazyConfig.load(tmp_path / "config.json", trusted=True).a.x(1) == 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LazyConfig.save(cfg, tmp_path / "config.pkl")
    with pytest.raises(SaveError, match="trusted=True"):
        LazyConfig.load(tmp_path / "config.pkl")
    with pytest.raises(SaveError, match="trusted=True"):
        LazyConfig.load(tmp_path / "config.pkl")
    assert LazyConfig.load(tmp_path / "config.pkl", trusted=True).a.x(1) == 2


def test_what_cannot_be_pickled_is_named(tmp_path):
    import threading

    with pytest.raises(SaveError, match=r"a\.x: .*lock.* cannot be saved"):
        LazyConfig.save(Config({"a": L(Thing)(x=threading.Lock())}), tmp_path / "config.json")


class _Sentinel:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def document(**values: Any) -> bytes:
    return json.dumps({"lazyengine_config": 1, "values": values}).encode()


def test_a_malicious_file_runs_nothing(tmp_path):
    sentinel = tmp_path / "sentinel"
    evil = tmp_path / "evil_module.py"
    evil.write_text(f"open({str(sentinel)!r}, 'w').close()\n")
    sys.path.insert(0, str(tmp_path))
    payload = base64.b64encode(pickle.dumps(_Sentinel(str(sentinel)))).decode()
    touch = {"command": f"touch {sentinel}"}
    attacks = [
        {"$call": "os:system", "$with": touch},
        {"$call": "posix:system", "$args": [touch["command"]]},
        {"$call": "torch:os.system", "$with": touch},  # re-exported by a module that is allowed
        {"$call": "lazyengine.config.sources:os.system", "$with": touch},
        {"$call": "lazyengine.seeding:__loader__.exec_module"},
        {"$call": "numpy:os.system", "$with": touch},
        {"$call": "builtins:eval", "$args": ["1"]},
        {"$call": "builtins:open", "$args": [str(sentinel), "w"]},
        {"$call": "torch.hub:load", "$args": ["x", "y"]},
        {"$call": "torch:load", "$args": ["x"]},
        {"$call": "lazyengine.config:LazyConfig.load", "$args": [str(evil)]},
        {"$call": "evil_module:x"},
        {"$call": "torch.evil_module:x"},
        {"$call": "os:system", "$deferred": True, "$with": touch},
        {"$call": "torch.os.system", "$deferred": True, "$with": touch},
        {"$call": "evil_module.x", "$deferred": True},
        {"$partial": "subprocess:run", "$with": {}},
        {"$object": "os:system"},
        {"$object": "evil_module:x"},
        {"$enum": "evil_module:X", "$name": "A"},
        {"$namedtuple": "evil_module:X", "$items": []},
        {"$namedtuple": "torch:nn.Module", "$items": []},
        {"$pickle": payload},
        {"$call": {"$pickle": payload}},
        {"$ref": ["a"], "$function": {"$object": "os:system"}},
        {"$npy": base64.b64encode(b"\x93NUMPY\x01\x00" + pickle.dumps(_Sentinel(str(sentinel)))).decode()},
        {"$array": [], "$dtype": "object", "$shape": [0]},
        [{"$tuple": [{"$dict": [["a", {"$call": "os:system"}]]}]}],
    ]
    try:
        for attack in attacks:
            path = tmp_path / "config.json"
            path.write_bytes(document(a=attack))
            with pytest.raises(SaveError):
                LazyConfig.load(path)
            assert not sentinel.exists(), attack
            assert "evil_module" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


def test_keys_of_a_value_may_come_in_any_order(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(document(a={"$kind": "Path", "$path": "x"}, b={"$with": {"a": 1}, "$call": "builtins:dict"}))
    assert LazyConfig.load(path) == Config({"a": pathlib.Path("x"), "b": L(dict)(a=1)})


def test_a_refusal_says_what_to_allow(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(document(net={"$call": f"{__name__}:Thing"}))
    with pytest.raises(SaveError) as caught:
        LazyConfig.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "net: " in message
    assert f"pass allow=(..., {HERE!r})" in message
    assert isinstance(instantiate(LazyConfig.load(path, allow=[HERE]).net), Thing)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
        (b"[]", "'lazyengine_config': 1"),
        (b'{"lazyengine_config": 2}', "'lazyengine_config': 1"),
        (b'{"lazyengine_config": 1}', "'values' must be an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"lazyengine_config": 1, "values": {"a": ' + b"9" * 5000 + b"}}", "not a JSON file"),
        (document(**{"a b": 1}), "not a name"),
        (document(a={"$what": 1}), "not a value that this version writes"),
        (document(a={"$tuple": [1], "more": 1}), "not a value that this version writes"),
        (document(a={"$tuple": 1}), "a: list is expected, got 1"),
        (document(a={"$same": "b"}), "'b', which does not come before it"),
        (document(a={"$same": 1}), "a: str is expected"),
        (document(a={"$set": [[1]]}), "unhashable"),
        (document(a={"$dict": [[1]]}), "[key, value] is expected"),
        (document(a={"$dict": [[[], 1]]}), "unhashable"),
        (document(a={"$call": 1}), "a: str is expected"),
        (document(a={"$call": "torch"}), "not a name of the form"),
        (document(a={"$call": "torch:no_such"}), "cannot import 'torch:no_such'"),
        (document(a={"$call": "torch.no_such:x"}), "cannot import"),
        (document(a={"$call": "torch:float32"}), "cannot be called"),
        (
            document(a={"$call": "torch.optim:SGD", "$with": {"lrr": 1}}),
            "SGD does not accept lrr. It accepts: params, lr",
        ),
        (document(a={"$call": "torch.optim:SGD", "$with": [1]}), "dict is expected"),
        (document(a={"$ref": []}), "a ref takes paths"),
        (document(a={"$ref": ["a", "b"]}), "a ref takes paths"),
        (document(a={"$int": "x"}), "invalid literal"),
        (document(a={"$float": []}), "str is expected"),
        (document(a={"$complex": [1]}), "a: "),
        (document(a={"$bytes": "@"}), "a: "),
        (document(a={"$path": "x", "$kind": "Evil"}), "$kind must be one of"),
        (document(a={"$array": ["x"], "$dtype": "<f4", "$shape": [1]}), "array of numbers"),
        (document(a={"$array": [1], "$dtype": "<f4", "$shape": [7]}), "cannot be read"),
        (document(a={"$array": [1], "$dtype": "nonsense", "$shape": [1]}), "cannot be read"),
        (document(a={"$array": [1e300], "$dtype": "<f4", "$shape": [1]}), "cannot be read"),
        (document(a={"$npy": "AAAA"}), "cannot be read"),
    ],
)
def test_what_is_no_saved_config_is_a_documented_error(data, says, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(SaveError) as caught:
        LazyConfig.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_names_that_cannot_be_saved_to(tmp_path):
    with pytest.raises(SaveError, match=r"\.py, \.json or \.pkl"):
        LazyConfig.save(a_config(), tmp_path / "config.yaml")
    with pytest.raises(FileNotFoundError):
        LazyConfig.load(tmp_path / "none.json")


def test_a_config_that_would_not_come_back_equal_is_not_written(tmp_path):
    class Odd:
        def __reduce__(self):
            return dict, ()

    with pytest.raises(SaveError, match=r"does not give an equal config: ~ a\.x"):
        LazyConfig.save(Config({"a": L(Thing)(x=Odd())}), tmp_path / "config.py")
    assert os.listdir(tmp_path) == []

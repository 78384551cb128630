"""Overrides given as text: grammar in place, conversion, all or none, errors that help."""

import copy
import enum
import os
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyengine.config import (
    Config,
    ConfigWarning,
    LazyConfig,
    OverrideError,
    arguments_of,
    clone,
    is_node,
    ref,
    sources_of,
    target_of,
)
from lazyengine.config import LazyCall as L

Point = namedtuple("Point", "x y")
CALLS: list[str] = []
apply_overrides = LazyConfig.apply_overrides


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


class Sgd:
    def __init__(self, params: Any = None, lr: float = 0.1, momentum: float = 0.0, nesterov: bool = False):
        CALLS.append("Sgd")


class Adam:
    def __init__(
        self, params: Any = None, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), amsgrad: bool = False
    ):
        CALLS.append("Adam")


class Hook:
    def __init__(self, interval: int = 1, names: list[str] = [], out: Path | None = None, mode: Mode = Mode.FAST):  # noqa: B006
        pass


class Open:
    def __init__(self, x: int = 0, **kwargs: Any):
        pass


class Run:
    def __init__(
        self,
        optimizer=None,
        hooks=None,
        version="1.0",
        max_iters: int = 10,
        clip_grad=None,
        seed: int = None,  # noqa: RUF013
        rate=0.5,
        opts: dict[str, float] = {},  # noqa: B006
    ):
        pass


def config(**values: Any) -> Any:
    return Config(values)


def experiment() -> Any:
    optimizer = L(Adam)(lr=1e-3, betas=(0.9, 0.999))
    hooks = [L(Hook)(interval=1), L(Hook)(interval=2, names=["a"])]
    runner = L(Run)(optimizer=optimizer, hooks=hooks, version="1.0", clip_grad={"max_norm": 1.0})
    return config(optimizer=optimizer, hooks=hooks, runner=runner, name="run")


def exactly(a, b):
    return type(a) is type(b) and a == b and repr(a) == repr(b)


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("optimizer.lr=1", lambda c: c.optimizer.lr, 1.0),
        ("optimizer.lr=3e-4", lambda c: c.runner.optimizer.lr, 3e-4),
        ("optimizer.amsgrad=true", lambda c: c.optimizer.amsgrad, True),
        ("optimizer.betas=[0.8, 1]", lambda c: c.optimizer.betas, (0.8, 1.0)),
        ("optimizer.betas[0]=0.8", lambda c: c.optimizer.betas, (0.8, 0.999)),
        ("optimizer.betas.1=1", lambda c: c.optimizer.betas, (0.9, 1.0)),
        ("optimizer.betas[-1]=1", lambda c: c.optimizer.betas, (0.9, 1.0)),
        ("hooks[0].interval=5", lambda c: c.hooks[0].interval, 5),
        ("hooks.0.interval=5", lambda c: c.runner.hooks[0].interval, 5),
        ("runner.hooks[1].names[0]=1.10", lambda c: c.hooks[1].names, ["1.10"]),
        ("runner.hooks[1].names=[x, 1]", lambda c: c.hooks[1].names, ["x", "1"]),
        ("+hooks[1].names[1]=b", lambda c: c.hooks[1].names, ["a", "b"]),
        ("hooks[0].out=/tmp/x y", lambda c: c.hooks[0].out, Path("/tmp/x y")),
        ("hooks[0].mode=SLOW", lambda c: c.hooks[0].mode, Mode.SLOW),
        ("runner.version=1.10", lambda c: c.runner.version, "1.10"),
        ("runner.max_iters=1e5", lambda c: c.runner.max_iters, 100000),
        ("runner.seed=null", lambda c: c.runner.seed, None),
        ("runner.seed=-3", lambda c: c.runner.seed, -3),
        ("runner.rate=1", lambda c: c.runner.rate, 1.0),
        ("runner.opts={a: 1}", lambda c: c.runner.opts, {"a": 1.0}),
        ("+runner.seed=4", lambda c: c.runner.seed, 4),
        ("runner.clip_grad.max_norm=2", lambda c: c.runner.clip_grad, {"max_norm": 2.0}),
        ("+runner.clip_grad.norm_type=2", lambda c: c.runner.clip_grad, {"max_norm": 1.0, "norm_type": 2}),
        ("+runner.clip_grad['a.b']=inf", lambda c: c.runner.clip_grad["a.b"], float("inf")),
        ("~runner.clip_grad.max_norm", lambda c: c.runner.clip_grad, {}),
        ("runner.clip_grad=null", lambda c: c.runner.clip_grad, None),
        ("name=a=b", lambda c: c.name, "a=b"),
        ("name='x y '", lambda c: c.name, "x y "),
        ("name=https://h/p?q=[1]", lambda c: c.name, "https://h/p?q=[1]"),
        ("name=实验", lambda c: c.name, "实验"),
        ("name=", lambda c: c.name, ""),
        ("name=null", lambda c: c.name, None),
        ("name=os.getcwd", lambda c: c.name, "os.getcwd"),
        ("name=__import__('os').getcwd()", lambda c: c.name, "__import__('os').getcwd()"),
        ("+新=[a, 1]", lambda c: arguments_of(c)["新"], ["a", 1]),
        ("~name", lambda c: "name" in c, False),
        ("~hooks[0]", lambda c: len(c.runner.hooks), 1),
    ],
)
def test_overrides_reach_their_place_as_the_type_expected_there(override, read, value):
    cfg = experiment()
    assert apply_overrides(cfg, [override]) is cfg
    assert exactly(read(cfg), value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "optimizer.lrr=1",
            ["optimizer is Adam (defined at ", "'lrr'", "Did you mean 'lr'?", "params, lr, betas, amsgrad"],
        ),
        ("optimizer.lr=abc", ["optimizer.lr (now 0.5)", "accepts float", "got 'abc'"]),
        ("optimizer.lr=null", ["accepts float"]),
        ("optimizer.amsgrad=1", ["true or false"]),
        ("optimizer.betas=[1]", ["tuple[float, float]"]),
        ("optimizer.betas[0]=x", ["optimizer.betas[0]", "float"]),
        ("optimizer.betas[2]=1", ["optimizer.betas is a tuple of 2", "0 to 1"]),
        ("optimizer.lr.x=1", ["optimizer.lr is 0.5", "have parts"]),
        ("optimizer.amsgrad.x=1", ["optimizer.amsgrad is not set", "default is False"]),
        ("optimizr.lr=1", ["no 'optimizr'", "Did you mean 'optimizer'?", "runner"]),
        ("hooks[2].interval=1", ["hooks is a list of 2", "+hooks[2]=... to append"]),
        ("hooks.x.interval=1", ["hooks is a list of 2"]),
        ("hooks[0]=5", ["hooks[0] (now Hook", "_target_"]),
        ("hooks[0].mode=MEDIUM", ["FAST, SLOW"]),
        ("runner.max_iters=1.5", ["runner.max_iters", "int", "1.5"]),
        ("runner.clip_grad.max_nrm=1", ["Did you mean 'max_norm'?", "+runner.clip_grad.max_nrm=... to add"]),
        ("runner.opts=[1]", ["dict[str, float]"]),
        ("+runner.version=2", ["set already", "without '+'"]),
        ("+runner.new=2", ["Run", "'new'"]),
        ("+name=2", ["exists already"]),
        ("new=2", ["+new=... to add"]),
        ("~runner.seed", ["runner.seed is not set"]),
        ("~optimizer", ["used by runner.optimizer", "optimizer=null"]),
        ("optimizer=5", ["optimizer (now Adam", "null"]),
        ("optimizer._target_=", ["_target_=package.module.Class"]),
        ("optimizer._target_=no.such.module", ["no.such.module"]),
        ("optimizer._target_=os.path", ["not callable"]),
        ("optimizer._target_=.5", ["'.5' is not the name of a target"]),
        ("hooks._target_=os.getcwd", ["hooks is a list of 2"]),
        ("optimizer", ["no '='"]),
        ("optimizer.lr=[1", ["is expected"]),
    ],
)
def test_errors_name_the_argument_the_path_and_what_is_accepted_and_nothing_changes(override, says):
    cfg = experiment()
    before = copy.deepcopy(cfg)
    with pytest.raises(OverrideError) as caught:
        apply_overrides(cfg, ["name=other", "optimizer.lr=0.5", "runner.hooks[1].names[0]=q", override])
    message = str(caught.value)
    assert message.startswith(f"override #4 {override!r}: ")
    for part in says:
        assert part in message
    assert "Nothing was changed." in message
    assert cfg == before
    assert list(arguments_of(cfg.runner)) == list(arguments_of(before.runner))
    assert sources_of(cfg.optimizer, "lr") == sources_of(before.optimizer, "lr")
    assert sources_of(cfg, "name") == sources_of(before, "name")


def test_a_change_seen_through_every_path():
    cfg = experiment()
    apply_overrides(cfg, ["runner.optimizer.lr=0.5", "runner.hooks[0].interval=7", "+hooks[0].names=[z]"])
    assert cfg.optimizer is cfg.runner.optimizer
    assert cfg.optimizer.lr == 0.5
    assert cfg.hooks is cfg.runner.hooks
    assert cfg.hooks[0].interval == 7
    assert cfg.hooks[0].names == ["z"]


def test_replacing_a_top_level_value_replaces_it_everywhere():
    cfg = experiment()
    apply_overrides(cfg, ["optimizer=null", "hooks=[]"])
    assert cfg.runner.optimizer is None
    assert cfg.runner.hooks == []
    assert cfg.runner.hooks is cfg.hooks

    inner = L(Hook)()
    cfg = config(hook=inner, runner=L(Run)(hooks=[L(Hook)(), inner], clip_grad={"h": (inner, 1)}))
    apply_overrides(cfg, ["hook=null"])
    assert cfg.runner.hooks[1] is None
    assert is_node(cfg.runner.hooks[0])
    assert cfg.runner.clip_grad == {"h": (None, 1)}


def test_lists_and_dicts_of_a_library_are_not_changed():
    library, options = [1, 2], {"a": 1.0}
    cfg = config(a=L(Run)(hooks=library, clip_grad=options), b=L(Run)(hooks=library))
    apply_overrides(cfg, ["a.hooks[0]=5", "a.clip_grad.a=2"])
    assert library == [1, 2]
    assert options == {"a": 1.0}
    assert cfg.a.hooks == [5, 2]
    assert cfg.b.hooks is cfg.a.hooks


def test_a_target_is_swapped_and_what_no_longer_fits_is_reported():
    cfg = experiment()
    with pytest.raises(OverrideError) as caught:
        apply_overrides(cfg, ["name=x", f"optimizer._target_={__name__}.Sgd", "runner.max_iters=3"])
    message = str(caught.value)
    assert message.startswith("override #2 'optimizer._target_=")
    assert "Sgd does not accept optimizer.betas" in message
    assert "~optimizer.betas" in message
    assert "params, lr, momentum, nesterov" in message
    assert target_of(cfg.optimizer) is Adam
    assert cfg.name == "run"

    apply_overrides(cfg, ["optimizer.momentum=1", "~optimizer.betas", f"optimizer._target_={__name__}.Sgd"])
    assert target_of(cfg.optimizer) is Sgd
    assert arguments_of(cfg.runner.optimizer) == {"lr": 1e-3, "momentum": 1.0}
    assert sources_of(cfg.optimizer, "_target_")[-1] == f"cli:#3 optimizer._target_={__name__}.Sgd"


def test_a_targets_own_import_error_keeps_its_type(tmp_path, monkeypatch):
    (tmp_path / "broken_target.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = experiment()
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        apply_overrides(cfg, ["name=x", "optimizer._target_=broken_target.Cls"])
    assert "override #2" in caught.value.__notes__[0]
    assert cfg.name == "run"


def test_nothing_is_called():
    CALLS.clear()
    cfg = experiment()
    apply_overrides(cfg, [f"optimizer._target_={__name__}.Sgd", "~optimizer.betas", "name=os.abort()"])
    assert CALLS == []
    assert os.getcwd()


def test_kwargs_take_a_plus_and_a_near_match_warns():
    cfg = config(o=L(Open)())
    with pytest.raises(OverrideError, match=r"\+o\.depth=\.\.\. to add one"):
        apply_overrides(cfg, ["o.depth=3"])
    apply_overrides(cfg, ["+o.depth=3"])
    assert cfg.o.depth == 3
    apply_overrides(cfg, ["o.depth=4"])
    assert cfg.o.depth == 4
    cfg = config(o=L(Run)(), p=L(Open)())
    with pytest.warns(ConfigWarning, match="xx"):
        apply_overrides(cfg, ["+p.xx=1"])


def test_extra_positional_arguments_are_overridden_by_position():
    cfg = config(p=L(os.path.join)("a", "b", "c"))
    apply_overrides(cfg, ["p[1]=x"])
    assert list(arguments_of(cfg.p).values()) == ["a", "b", "x"]


def test_containers_stay_what_they_are():
    cfg = config(
        run=L(Run)(
            hooks=OrderedDict(a=1, b=2), version=Point(1, 2), clip_grad={1: "x"}, rate=np.zeros(2, dtype=np.float32)
        )
    )
    apply_overrides(cfg, ["run.hooks.a=3", "run.version.y=5", "run.clip_grad.1=y", "run.rate=[1, 2]"])
    assert exactly(cfg.run.hooks, OrderedDict(a=3, b=2))
    assert exactly(cfg.run.version, Point(1, 5))
    assert cfg.run.clip_grad == {1: "y"}
    assert cfg.run.rate.dtype == np.float32
    assert cfg.run.rate.tolist() == [1.0, 2.0]


def test_blame_has_the_number_and_the_text():
    cfg = experiment()
    apply_overrides(cfg, ["name=x", "optimizer.lr=1"])
    assert sources_of(cfg.optimizer, "lr")[1:] == ["cli:#2 optimizer.lr=1"]
    assert sources_of(cfg, "name")[-1] == "cli:#1 name=x"


def test_an_override_of_a_plain_value_that_a_ref_reads_is_followed():
    cfg = config(lr=0.1, optimizer=L(Adam)(lr=ref("lr")))
    apply_overrides(cfg, ["lr=1"])
    assert cfg.lr == 1.0
    apply_overrides(cfg, ["optimizer.lr=2"])  # a ref can be overridden by a value
    assert cfg.optimizer.lr == 2.0


def test_an_override_of_a_plain_value_that_python_has_copied_is_an_error():
    lr = 0.1
    cfg = config(lr=lr, betas=(0.9, 0.9), optimizer=L(Adam)(lr=lr), flag=1)
    with pytest.raises(OverrideError) as caught:
        apply_overrides(cfg, ["flag=2", "lr=0.2", "optimizer.amsgrad=true"])
    message = str(caught.value)
    assert message.startswith("override #2 'lr=0.2': ")
    assert "optimizer.lr" in message
    assert "ref('lr')" in message
    assert (cfg.lr, cfg.flag) == (0.1, 1)
    apply_overrides(cfg, ["flag=2"])
    apply_overrides(cfg, ["lr=0.2", "optimizer.lr=0.2"])  # both changed: nothing is left behind
    assert cfg.optimizer.lr == cfg.lr == 0.2


def test_what_a_loaded_file_computed_with_is_refused_and_what_it_only_holds_is_set(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "base.py").write_text(
        "from lazyengine.config import LazyCall as L\nlr = 0.1\nopt = L(dict)(lr=lr)\nfree = 3\n"
    )
    (tmp_path / "config.py").write_text(
        "from .base import *\nfrom lazyengine.config import ref\nopt.x = ref('free')\nseed = 0\nn = 5\nm = n * 2\n"
    )
    cfg = LazyConfig.load(tmp_path / "config.py")
    apply_overrides(cfg, ["free=4", "seed=1", "m=3"])
    assert (cfg.free, cfg.seed, cfg.m) == (4, 1, 3)
    with pytest.raises(OverrideError, match=r"already at .*base.py:3.* Override opt\.lr=\.\.\. instead"):
        apply_overrides(cfg, ["lr=1"])
    with pytest.raises(OverrideError, match=r"already at .*config.py:6.* Change the file"):
        apply_overrides(cfg, ["n=6"])
    assert (cfg.lr, cfg.n) == (0.1, 5)


def test_deleting_what_a_ref_reads_is_an_error():
    cfg = config(opts={"lr": 0.1}, optimizer=L(Adam)(lr=ref("opts.lr")))
    for override in ("~opts.lr", "~opts"):
        with pytest.raises(OverrideError, match=r"ref\('opts.lr'\): there is no"):
            apply_overrides(cfg, [override])
    assert cfg.opts == {"lr": 0.1}


def test_twenty_overrides_of_a_clone_leave_the_original_alone():
    cfg = experiment()
    copy_of = clone(cfg)
    apply_overrides(copy_of, ["runner.clip_grad.max_norm=5", "hooks[0].interval=3", "optimizer.lr=1"])
    assert cfg == experiment()


@pytest.mark.parametrize(
    ("old", "text", "new"),
    [
        ("float16", "torch.float32", "float32"),
        ("float16", "torch:bfloat16", "bfloat16"),
        ("int64", "torch.uint8", "uint8"),
    ],
)
def test_a_constant_takes_the_place_of_another_where_no_annotation_asks_for_it(old, text, new):
    """Keywords of other libraries have none: `torch_dtype=torch.float16` of a `from_pretrained`."""
    import torch

    cfg = Config({"model": L(dict)(value=getattr(torch, old)), "values": [getattr(torch, old)]})
    LazyConfig.apply_overrides(cfg, [f"model.value={text}", f"values[0]={text}"])
    assert cfg.model.value is cfg.values[0] is getattr(torch, new)
    LazyConfig.apply_overrides(cfg, ["model.value=null"])
    assert cfg.model.value is None
    for wrong in ("torch.float17", "float32", "7"):
        with pytest.raises(OverrideError):
            LazyConfig.apply_overrides(cfg, [f"values[0]={wrong}"])

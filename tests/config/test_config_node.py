"""Nodes: what `LazyCall` and `LazyPartial` accept, keep and refuse."""

import copy
import enum
import functools
import inspect
import pathlib
import pickle
import subprocess
import sys
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

from lazyengine.config import (
    REQUIRED,
    Config,
    ConfigError,
    ConfigWarning,
    LazyCall,
    LazyConfig,
    LazyPartial,
    OverrideError,
    TargetError,
    UnknownNameError,
    UnsetError,
    arguments_of,
    instantiate,
    is_node,
    set_argument,
    sources_of,
)

DEFAULT = {"eps": 1}


class SGD:
    def __init__(self, params, lr, momentum=0.0, options=DEFAULT):
        self.params, self.lr, self.momentum, self.options = params, lr, momentum, options


class Nesterov(SGD):
    def __init__(self, *, steps=1, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps


class Odd:
    def __init__(self, keys, items=1, copy=2, _target=3, self_=4, _args=5, name=6):
        self.given = (keys, items, copy, _target, self_, _args, name)


def gather(a, b=2, *rest, c=3):
    return a, b, rest, c


def positional_only(a, b=2, /, c=3):
    return a, b, c


def line() -> int:
    return inspect.currentframe().f_back.f_lineno


def here(number: int) -> str:
    return f"test_config_node.py:{number}"


def test_wrong_name_names_line_match_and_choice():
    with pytest.raises(UnknownNameError) as caught:
        LazyCall(SGD)(lrr=1)
    message = str(caught.value)
    assert here(line() - 2) in message
    for part in ("SGD", "'lrr'", "Did you mean 'lr'?", "params, lr, momentum, options"):
        assert part in message


def test_wrong_name_in_an_edit_names_the_line_of_the_edit():
    node = LazyCall(SGD)(lr=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'momentum'") as caught:
        node.momentun = 0.9
    assert here(line() - 1) in str(caught.value)
    assert arguments_of(node) == {"lr": 1}
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, AttributeError)


def test_near_match_through_kwargs_is_a_warning():
    with pytest.warns(ConfigWarning, match="'momentun'.*Did you mean 'momentum'") as caught:
        node = LazyCall(Nesterov)(momentun=0.9)
    assert caught[0].filename == __file__
    assert node.momentun == 0.9
    with pytest.warns(ConfigWarning, match="Did you mean 'params'") as caught:
        node.parms = 1
    assert caught[0].filename == __file__
    node.something_else = 1  # nothing is near: silent


def test_edit_and_delete_keep_sources():
    node = LazyCall(SGD)(params=[], lr=1)
    first = line() - 1
    node.lr = 2
    set_argument(node, "lr", 3, source="cli:#1 lr=3")
    assert [s.rsplit("/")[-1] for s in sources_of(node, "lr")] == [here(first), here(first + 2), "cli:#1 lr=3"]
    assert sources_of(node, "_target_")[0].endswith(here(first))
    assert sources_of(node, "momentum") == []
    del node.lr
    assert "lr" not in arguments_of(node)
    with pytest.raises(UnsetError):
        del node.lr


def test_unset_argument_is_an_error_and_defaults_stay_with_the_class():
    node = LazyCall(SGD)(lr=1)
    with pytest.raises(UnsetError, match=r"does not set 'options' \(its default is \{'eps': 1\}\)"):
        _ = node.options
    with pytest.raises(UnsetError, match="it is required"):
        _ = node.params
    with pytest.raises(UnsetError, match=r"no argument 'lrr'.*Did you mean 'lr'"):
        _ = node.lrr
    assert not hasattr(node, "options")
    assert getattr(node, "options", None) is None


def test_parameters_may_have_any_name():
    node = LazyCall(Odd)(1, items=2, copy=3, _target=4, self_=5, _args=6, name=7)
    node.keys = 10
    assert (node.keys, node.items, node.copy, node._target) == (10, 2, 3, 4)
    assert instantiate(node).given == (10, 2, 3, 4, 5, 6, 7)
    assert all(name.startswith("__") for name in vars(type(node)))


def test_positional_arguments_get_names_and_extra_ones_indices():
    node = LazyCall(gather)(1, 5, 6, 7, c=8)
    assert arguments_of(node) == {"a": 1, "b": 5, 0: 6, 1: 7, "c": 8}
    node[1] = 70
    assert node[0] == 6
    assert instantiate(node) == (1, 5, (6, 70), 8)
    del node.b  # the positional default steps in, so that the others keep their places
    assert instantiate(node) == (1, 2, (6, 70), 8)
    with pytest.raises(UnknownNameError, match=r"\[7\]"):
        node[7] = 1
    with pytest.raises(OverrideError, match="only the last"):
        LazyConfig.apply_overrides(Config({"node": node}), ["~node[0]"])
    assert instantiate(LazyCall(positional_only)(1, c=4)) == (1, 2, 4)


def test_too_many_and_doubled_arguments():
    with pytest.raises(UnknownNameError, match=r"at most 3 positional arguments \(a, b, c\), got 4"):
        LazyCall(positional_only)(1, 2, 3, 4)
    with pytest.raises(UnknownNameError, match="'a' twice"):
        LazyCall(gather)(1, a=2)


def test_partial():
    made = instantiate(LazyPartial(gather)(1, c=LazyCall(dict)(x=1)))
    assert isinstance(made, functools.partial)
    assert made(b=4) == (1, 4, (), {"x": 1})
    with pytest.raises(UnknownNameError):
        LazyPartial(SGD)(lrr=1)


def test_target_by_name_is_imported_late():
    code = (
        "import sys; from lazyengine.config import LazyCall, instantiate\n"
        "from lazyengine.config import target_of\n"
        "node = LazyCall('wave:Wave_read')(f=1); assert 'wave' not in sys.modules, 1\n"
        "assert target_of(node) == 'wave:Wave_read'\n"
        "try: instantiate(node)\n"
        "except AttributeError: pass\n"
        "assert 'wave' in sys.modules; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    root = str(pathlib.Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": root})


def test_target_by_name_is_checked_when_resolved():
    node = LazyCall("fractions:Fraction")(3, denominatr=4)
    with pytest.raises(UnknownNameError, match="Did you mean 'denominator'") as caught:
        instantiate(node)
    assert here(line() - 3) in str(caught.value)
    node = LazyCall("fractions.Fraction")(3, 4)
    assert str(instantiate(node)) == "3/4"
    assert set(arguments_of(node)) == {"numerator", "denominator"}
    with pytest.raises(TargetError, match="Did you mean 'Fraction'"):
        instantiate(LazyCall("fractions:Fractoin")())
    with pytest.raises(TargetError, match="no_such_module"):
        instantiate(LazyCall("no_such_module:Thing")())
    with pytest.raises(TargetError, match="not callable"):
        instantiate(LazyCall("math:pi")())


def test_target_must_be_callable():
    for wrong in (3, None, LazyCall(SGD)(lr=1)):
        with pytest.raises(TargetError, match="class or another callable"):
            LazyCall(wrong)()  # type: ignore[call-overload]


class Color(enum.Enum):
    RED = 1


Point = namedtuple("Point", "x y")


def test_values_stay_what_they_are():
    array, function = np.arange(3), lambda x: x + 1
    values = {
        "tuple": (1, (2, 3)),
        "named": Point(1, LazyCall(dict)(a=1)),
        "set": {1, 2},
        "ordered": OrderedDict(b=1, a=2),
        "array": array,
        "function": function,
        "enum": Color.RED,
        "path": pathlib.Path("a/b"),
        "nested": [{"x": (LazyCall(dict)(a=1),)}],
    }
    node = LazyCall(dict)(**values)
    for name, value in values.items():
        assert getattr(node, name) is value
    built = instantiate(node)
    assert built["named"] == Point(1, {"a": 1})
    assert type(built["named"]) is Point
    assert built["array"] is array
    assert built["function"] is function
    assert built["nested"] == [{"x": ({"a": 1},)}]
    for name in ("tuple", "set", "ordered", "enum", "path"):
        assert built[name] == values[name]
        assert type(built[name]) is type(values[name])
    built["set"].add(3)
    built["ordered"]["c"] = 3
    built["nested"].append(1)
    assert (len(node.set), len(node.ordered), len(node.nested)) == (2, 2, 1)  # the config's own were not handed out


def test_nodes_have_no_hash_and_are_not_iterable():
    node = LazyCall(gather)(1, 2, 3)
    with pytest.raises(TypeError):
        hash(node)
    with pytest.raises(TypeError):
        list(node)
    assert is_node(node)
    assert not is_node(SGD)


def test_required_has_no_truth_value_and_survives_copies():
    assert copy.deepcopy(REQUIRED) is REQUIRED
    assert pickle.loads(pickle.dumps(REQUIRED)) is REQUIRED
    with pytest.raises(ConfigError):
        bool(REQUIRED)


def test_pickle_keeps_everything():
    node = LazyCall(SGD)(params=[LazyCall(gather)(1)], lr=1)
    node.lr = 2
    again = pickle.loads(pickle.dumps(node))
    assert again == node
    assert sources_of(again, "_target_") == sources_of(node, "_target_")
    assert sources_of(again, "lr") == sources_of(node, "lr")


def test_repr_is_short():
    node = LazyCall(SGD)(params=LazyCall(gather)(1), lr=list(range(100)))
    assert repr(node) == "LazyCall(SGD)(params=gather(...), lr=<list of 100>)"

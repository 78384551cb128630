"""`**kwargs: Unpack[T]`: the keys of a TypedDict are arguments like others."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NotRequired, Required, TypedDict, Unpack
from typing import Unpack as Opened

import pytest

from lazyengine.cli.keys import format_keys
from lazyengine.config import (
    Config,
    ConfigWarning,
    Lazy,
    LazyCall,
    LazyConfig,
    LazyPartial,
    MissingArgumentError,
    OverrideError,
    UnknownNameError,
    check_config,
    format_tree,
    instantiate,
)

if TYPE_CHECKING:
    from nowhere import Unknown


class Base(TypedDict, total=False):
    lr: float
    betas: tuple[float, float]


class Options(Base):
    steps: int
    name: NotRequired[str]


class Loose(TypedDict, total=False):
    part: dict | Lazy[dict]
    must: Required[int]


class Closed:
    def __init__(self, width: int = 1, **kwargs: Unpack[Options]):
        self.width, self.kwargs = width, kwargs


class Child(Closed):
    def __init__(self, depth: int = 2, **kwargs):
        super().__init__(**kwargs)


class Inherits(Closed):
    pass


def function(*args: Any, **options: Unpack[Loose]):
    return options


@functools.wraps(function)
def wrapped(*args, **kwargs):
    return function(*args, **kwargs)


def unreadable(a=1, **kwargs: Unpack[Unknown]):  # type: ignore[name-defined]
    return kwargs


def opened(**kwargs: Opened[Options]):
    return kwargs


class Callable_:
    def __call__(self, **kwargs: Unpack[Options]):
        return kwargs


KINDS = [Closed, Inherits, functools.partial(Closed, width=3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", [LazyCall, LazyPartial])
def test_a_misspelt_keyword_is_an_error_at_its_line(kind, maker):
    with pytest.raises(UnknownNameError, match=r"test_unpack\.py:\d+: .*'lrr'.*Did you mean 'lr'.*steps") as caught:
        maker(kind)(lrr=1)
    assert "width" in str(caught.value)
    node = maker(kind)(lr=1, steps=2)
    with pytest.raises(UnknownNameError, match="'nothing_like_it'"):
        node.nothing_like_it = 1
    with pytest.raises(OverrideError, match="Did you mean 'name'"):
        LazyConfig.apply_overrides(Config({"a": node}), ["+a.nam=x"])


def test_functions_and_wrapped_functions_are_read_too():
    for target in (function, wrapped):
        with pytest.raises(UnknownNameError, match="Did you mean 'must'"):
            LazyCall(target)(musst=1)
        assert instantiate(LazyCall(target)(must=1)) == {"must": 1}
        with pytest.raises(MissingArgumentError, match="must"):
            instantiate(LazyCall(target)())
        assert isinstance(instantiate(LazyCall(target)(must=1, part=LazyCall(dict)(a=1)))["part"], Lazy)
    with pytest.raises(UnknownNameError, match="Did you mean 'betas'"):
        LazyCall(opened)(bettas=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'betas'"):
        LazyCall(Callable_())(bettas=1)


def test_its_types_count_for_overrides_and_checks():
    cfg: Any = Config({"a": LazyCall(Closed)(steps=1)})
    LazyConfig.apply_overrides(cfg, ["a.lr=1", "a.betas=[1, 2]", "a.steps=1e3", "a.name=1.10"])
    assert (cfg.a.lr, cfg.a.betas, cfg.a.steps, cfg.a.name) == (1.0, (1.0, 2.0), 1000, "1.10")
    assert type(cfg.a.lr) is float
    with pytest.raises(OverrideError, match="accepts float"):
        LazyConfig.apply_overrides(cfg, ["a.lr=fast"])
    assert check_config(cfg) == []
    cfg.a.betas = 3
    assert "a.betas accepts tuple[float, float], got 3" in check_config(cfg)[0]


def test_a_required_key_must_be_set_and_others_may_be_left_out():
    node = LazyCall(Closed)(width=2)
    with pytest.raises(MissingArgumentError, match=r"^steps: required by Closed"):
        instantiate(node)
    assert "'steps' is not set" in check_config(Config({"a": node}))[0]
    node.steps = 5
    assert instantiate(node).kwargs == {"steps": 5}
    tree, keys = format_tree(node), format_keys(Config({"a": node}))
    assert "lr: float" in tree
    assert "a.betas" in keys
    with pytest.raises(AttributeError, match="left out"):
        _ = node.lr


def test_a_child_that_passes_kwargs_on_knows_the_keys():
    assert instantiate(LazyCall(Child)(steps=1, lr=2)).kwargs == {"steps": 1, "lr": 2}
    with pytest.warns(ConfigWarning, match="Did you mean 'betas'"):  # the child may take names of its own
        LazyCall(Child)(bettas=1, steps=1)


def test_what_cannot_be_read_stays_open():
    assert instantiate(LazyCall(unreadable)(whatever=1)) == {"whatever": 1}

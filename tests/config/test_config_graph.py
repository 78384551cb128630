"""Graphs of nodes: copies, sharing, replacement, equality."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyengine.config import (
    LazyCall,
    LazyPartial,
    TargetError,
    clone,
    instantiate,
    ref,
    repeat,
    replace,
)


class Thing:
    def __init__(self, *parts, **named):
        self.parts, self.named = parts, named


def thing(*parts, **named):
    return LazyCall(Thing)(*parts, **named)


def test_one_node_is_one_instance_and_a_clone_another():
    part = thing()
    built = instantiate(thing(part, [part], {"k": (part,)}, other=clone(part)))
    one, (two,), mapping = built.parts
    assert one is two is mapping["k"][0]
    assert built.named["other"] is not one
    again = instantiate(part)
    assert again is not one  # per build


@pytest.mark.parametrize("duplicate", [copy.deepcopy, clone, lambda x: pickle.loads(pickle.dumps(x))])
def test_sharing_survives_copies(duplicate):
    part, items = thing(x=1), [1, 2]
    root = duplicate(thing(part, part, items, items))
    assert root[0] is root[1]
    assert root[0] is not part
    assert root[2] is root[3]
    root[0].x = 2
    assert root[1].x == 2
    assert part.x == 1


def test_clone_can_keep_parts():
    model = thing(x=1)
    optimizer = thing(model=model, lr=0.1)
    assert clone(optimizer).model is not model
    assert clone(optimizer, keep=model).model is model
    assert clone(optimizer, keep=[model]).model is model


def test_repeat_makes_independent_copies():
    layers = repeat(thing(width=1), 3)
    layers[0].width = 2
    assert [layer.width for layer in layers] == [2, 1, 1]
    assert repeat(thing(), 0) == []
    with pytest.raises(ValueError, match="-1"):
        repeat(thing(), -1)


def test_replace_swaps_everywhere():
    old = thing(lr=1)
    holder = thing(a=old, b=[old], c={"k": (old,)})
    new = replace(old, LazyCall(dict)(x=5))
    assert new is old
    assert instantiate(holder).named["a"] == {"x": 5}
    built = instantiate(holder).named
    assert built["a"] is built["b"][0] is built["c"]["k"][0]


def test_replace_by_a_wrapper_of_the_old_one():
    old = thing(lr=1)
    holder = thing(a=old, b=old)
    replace(old, thing(inner=old, more=[(old,)]))
    built = instantiate(holder).named
    assert built["a"] is built["b"]
    inner = built["a"].named["inner"]
    assert inner.named == {"lr": 1}
    assert built["a"].named["more"][0][0] is inner


def test_replace_refuses_what_is_no_node():
    with pytest.raises(TargetError, match="Thing"):
        replace(thing(), Thing())
    with pytest.raises(TargetError, match="NoneType"):
        replace(None, thing())


def test_equality_is_structural():
    assert thing(x=np.arange(4), y=float("nan")) == thing(x=np.arange(4), y=float("nan"))
    assert thing(x=np.arange(4)) != thing(x=np.arange(5))
    assert thing(x=np.array([1.0, np.nan])) == thing(x=np.array([1.0, np.nan]))
    assert thing(x=np.array([1.0])) != thing(x=np.array([1]))
    for a, b in [(1, 1.0), (1, True), ((1,), [1]), ({"a": 1}, {"a": 2}), (None, 0), ("1", 1)]:
        assert thing(x=a) != thing(x=b)
    assert thing(x=1) != LazyCall(dict)(x=1)
    assert LazyPartial(Thing)(x=1) != thing(x=1)
    assert thing(x=1) != 1
    assert thing(f=lambda x: x) != thing(f=lambda x: x + 1)
    assert thing(r=ref("a.b")) == thing(r=ref("a.b"))
    assert thing(r=ref("a.b")) != thing(r=ref("a.c"))


def test_equality_sees_sharing():
    part = thing()
    assert thing(part, part) != thing(thing(), thing())
    assert thing(part, part) == clone(thing(part, part))


def test_equality_of_equal_functions_and_plain_objects():
    made = [thing(f=lambda x, n=n: x + n, o=Thing(1, k=[2])) for n in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert thing(o=Thing(1)) != thing(o=Thing(2))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(lambda parts, x: thing(*parts, x=x), st.lists(inner, max_size=2), inner)
    ),
    max_leaves=12,
)


@given(values)
def test_copies_of_any_tree_are_equal_and_build_equal(value):
    node = thing(value=value)
    for again in (copy.deepcopy(node), pickle.loads(pickle.dumps(node)), clone(node)):
        assert again == node
    assert thing(x=instantiate(node)) == thing(x=instantiate(copy.deepcopy(node)))

"""The one walk over nested values."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

from lazyengine.nesting import children, iter_leaves, map_leaves


class Pair(NamedTuple):
    a: Any
    b: Any


class Several(list):
    """A list of somebody's own."""


@dataclasses.dataclass
class Box:
    value: Any
    name: str = "box"


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Any


def double(leaf: Any) -> Any:
    return leaf * 2


def test_everything_inside_is_mapped_and_nothing_given_is_changed():
    given = {"a": [1, (2, Pair(3, {"b": 4}))], "c": Several([5]), "d": Box(6), "e": Frozen(7), "f": []}
    mapped = map_leaves(double, given)
    assert mapped["a"] == [2, (4, Pair(6, {"b": 8}))]
    assert type(mapped["a"][1][1]) is Pair
    assert (type(mapped["c"]), mapped["c"]) == (Several, [10])
    assert (mapped["d"], mapped["e"], mapped["f"]) == (Box(12, "boxbox"), Frozen(14), [])
    assert given["d"] == Box(6)
    assert given["a"][0] == 1


def test_mappings_become_dicts():
    ordered = collections.OrderedDict(b=1, a=2)
    counted = collections.defaultdict(int, c=3)
    assert type(map_leaves(double, ordered)) is dict
    assert map_leaves(double, [ordered, counted]) == [{"b": 2, "a": 4}, {"c": 6}]
    assert list(map_leaves(double, ordered)) == ["b", "a"]


def test_a_leaf_alone():
    assert map_leaves(double, 4) == 8
    assert children("text") is None
    assert list(iter_leaves(4)) == [("", 4)]


def test_leaves_come_with_how_they_are_reached():
    given = {"a": [1, Pair(2, None)], "d": Box({"x": 3}), "e": {}}
    found = dict(iter_leaves(given, "data"))
    assert found == {
        "data['a'][0]": 1,
        "data['a'][1].a": 2,
        "data['a'][1].b": None,
        "data['d'].value['x']": 3,
        "data['d'].name": "box",
    }


def test_a_dataclass_whose_field_was_never_set():
    box = Box(1)
    del box.__dict__["value"]
    assert dict(iter_leaves(box)) == {".name": "box"}
    assert map_leaves(double, box).name == "boxbox"

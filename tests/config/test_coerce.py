"""What a value written as text becomes where it is put."""

import enum
import functools
import operator
import pathlib
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence

# ruff: noqa: UP007, UP045  old spellings are tested too
from typing import Annotated, Any, Literal, NewType, Optional, TypeVar, Union

import numpy as np
import pytest

from lazyengine.config import Config, LazyCall, LazyConfig, OverrideError, format_tree


class Color(enum.Enum):
    RED = "red"
    GREEN = 2


Point = namedtuple("Point", "x y")
Rate = NewType("Rate", float)
T = TypeVar("T", bound=float)


class Thing:
    pass


def node(annotation, *old):
    """A node of a function whose parameter `x` has this annotation, and perhaps a value."""

    def target(x):
        return x

    target.__annotations__ = {"x": annotation} if annotation is not Any else {}
    return LazyCall(target)(*old)


def coerce(text, annotation, *old):
    """What the text becomes in the place of `old`."""
    return LazyConfig.apply_overrides(Config({"n": node(annotation, *old)}), [f"n.x={text}"]).n.x


def exactly(a, b):
    return type(a) is type(b) and a == b and repr(a) == repr(b)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1", float, 1.0),
        ("1e5", int, 100000),
        ("2.0", int, 2),
        ("true", bool, True),
        ("1.10", str, "1.10"),
        ("true", str, "true"),
        ("(a|b)", str, "(a|b)"),
        ("[0-9]*.png", str | None, "[0-9]*.png"),
        ("'tis", str, "'tis"),
        ("'null'", str, "null"),
        ("null", Optional[float], None),
        ("1", float | None, 1.0),
        ("1", int | float, 1),
        ("1.5", int | float, 1.5),
        ("1.10", int | str, "1.10"),
        ("5", int | str, 5),
        ("'5'", int | str, "5"),
        ("auto", float | Literal["auto"], "auto"),
        ("1", Union[float, Thing], 1.0),
        ("[1, 2]", tuple[float, float], (1.0, 2.0)),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("[]", tuple[()], ()),
        ("[1, 2]", tuple[float | Thing, float | Thing], (1.0, 2.0)),
        ("(1, 2)", list[float], [1.0, 2.0]),
        ("[1.10, 2]", list[str], ["1.10", "2"]),
        ("[1, 2]", Sequence[float], [1.0, 2.0]),
        ("(1, 2)", Iterable[float], (1.0, 2.0)),
        ("[1, 1]", set[int], {1}),
        ("[a]", frozenset[str], frozenset({"a"})),
        ("[]", set, set()),
        ("{a: 1}", dict[str, float], {"a": 1.0}),
        ("{1: 2.50}", dict[str, str], {"1": "2.50"}),
        ("{a: 1}", Mapping[str, Any], {"a": 1}),
        ("{a: 1}", OrderedDict, OrderedDict(a=1)),
        ("/a/b", pathlib.Path, pathlib.Path("/a/b")),
        ("/a/b", str | pathlib.Path, "/a/b"),
        ("RED", Color, Color.RED),
        ("Color.RED", Color, Color.RED),
        ("red", Color, Color.RED),
        ("2", Color, Color.GREEN),
        ("a", Literal["a", 1], "a"),
        ("1", Literal["a", 1], 1),
        ("1", Literal["1"], "1"),
        ("[1, 2]", Point, Point(1, 2)),
        ("1", Annotated[float, []], 1.0),
        ("1", Rate, 1.0),
        ("1", T, 1.0),
        ("1", "Unresolved", 1),
        ("[a, 1]", Any, ["a", 1]),
        ("1", complex, 1 + 0j),
    ],
)
def test_values_become_what_the_annotation_says(text, annotation, value):
    assert exactly(coerce(text, annotation), value)


@pytest.mark.parametrize(
    ("text", "annotation", "accepted"),
    [
        ("abc", float, "float"),
        ("1.5", int, "int"),
        ("true", int, "int"),
        ("true", float, "float"),
        ("1", bool, "true or false"),
        ("null", float, "float"),
        ("null", str, "str"),
        ("[a]", str, "str"),
        ("abc", float | None, "float or null"),
        ("[1, a]", list[int], "int"),
        ("[1]", tuple[int, int], "tuple[int, int]"),
        ("1", list[int], "list[int]"),
        ("abc", Sequence[str], "Sequence[str]"),
        ("{1, 2}", list[int], "list[int]"),
        ("[[1]]", set[Any], "set[Any]"),
        ("[a]", dict[str, int], "dict[str, int]"),
        ("blue", Color, "one of RED, GREEN"),
        ("[1]", Literal["a", None], "one of 'a', None"),
        ("b", Literal["a", 1], "one of 'a', 1"),
        ("5", pathlib.Path | None, None),
        ("null", pathlib.Path, "a path"),
        ("[1]", Point, "Point(x, y)"),
        ("abc", Thing, "Thing"),
        ("abc", Callable[[], int], "a callable"),
        ("1" + "0" * 400, float, "float"),
    ],
)
def test_what_does_not_fit_says_what_is_accepted(text, annotation, accepted):
    if accepted is None:
        assert coerce(text, annotation) == pathlib.Path("5")
        return
    with pytest.raises(OverrideError) as caught:
        coerce(text, annotation)
    assert accepted in str(caught.value)


@pytest.mark.parametrize(
    ("text", "old", "value"),
    [
        ("1", 0.5, 1.0),
        ("1e5", 3, 100000),
        ("1.5", 3, 1.5),
        ("1.10", "1.0", "1.10"),
        ("null", "1.0", None),
        ("null", 5, None),
        ("[1, 2]", (0.9, 0.99), (1.0, 2.0)),
        ("(1, 2)", [1], [1, 2]),
        ("[1.10]", ["a"], ["1.10"]),
        ("[1]", {2}, {1}),
        ("[1]", frozenset({2}), frozenset({1})),
        ("{b: 1}", {"a": 1}, {"b": 1}),
        ("{b: 1}", OrderedDict(a=1), OrderedDict(b=1)),
        ("GREEN", Color.RED, Color.GREEN),
        ("/x", pathlib.PurePosixPath("/a"), pathlib.PurePosixPath("/x")),
        ("[1, 2]", Point(0, 0), Point(1, 2)),
        ("x", None, "x"),
        ("1", np.float32(2), np.float32(1)),
    ],
)
def test_without_an_annotation_the_old_value_decides(text, old, value):
    assert exactly(coerce(text, Any, old), value)


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("abc", 0.5),
        ("abc", 3),
        ("1", True),
        ("true", 3),
        ("5", [1]),
        ("a", {"a": 1}),
        ("[1]", {"a": 1}),
        ("x", Thing()),
    ],
)
def test_another_type_than_the_old_value_is_an_error(text, old):
    with pytest.raises(OverrideError):
        coerce(text, Any, old)


def test_an_array_stays_an_array_of_its_dtype():
    value = coerce("[[1, 2], [3, 4]]", Any, np.zeros((2, 2), dtype=np.float32))
    assert value.dtype == np.float32
    assert value.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(OverrideError):
        coerce("abc", Any, np.zeros(2))


def test_a_sequence_given_as_a_list_stays_a_tuple_where_a_tuple_was():
    assert exactly(coerce("[1, 2]", Sequence[float], (0.5, 0.5)), (1.0, 2.0))
    assert exactly(coerce("[1, 2]", list[float], (0.5, 0.5)), [1.0, 2.0])


@pytest.mark.parametrize(
    ("annotation", "old", "text", "item"),
    [
        (tuple[int, str], (1, "a"), "n.x[1]=5", "5"),
        (tuple[float, ...], (1.0, 1.0, 1.0), "n.x[2]=3", 3.0),
        (list[float] | None, [0.5], "n.x[0]=3", 3.0),
        (dict[str, float], {"a": None}, "n.x.a=3", 3.0),
        (list[float] | dict[str, str], [None], "n.x[0]=a", "a"),
        (dict[str, list[float]], {"a": [None]}, "n.x.a[0]=1", 1.0),
        (Annotated[list[float], "note"], [None], "n.x[0]=1", 1.0),
        (Any, [None], "n.x[0]=1", 1),
    ],
)
def test_the_annotation_of_an_item(annotation, old, text, item):
    cfg = LazyConfig.apply_overrides(Config({"n": node(annotation, old)}), [text])
    assert any(exactly(value, item) for value in (cfg.n.x.values() if isinstance(cfg.n.x, dict) else cfg.n.x)) or (
        cfg.n.x == {"a": [item]}
    )


@pytest.mark.parametrize("old", [functools.partial(sum, start=1), sum, lambda x: x, max])
@pytest.mark.parametrize(("text", "made"), [("builtins:sorted", sorted), ("operator.neg", operator.neg)])
def test_another_function_takes_the_place_of_any_that_has_no_annotation(old, text, made):
    cfg = LazyConfig.apply_overrides(Config({"n": node(Any, old)}), [f"n.x={text}"])
    assert cfg.n.x is made
    with pytest.raises(OverrideError, match="accepts a callable"):
        LazyConfig.apply_overrides(Config({"n": node(Any, old)}), ["n.x=3"])


def test_annotations_read_as_their_authors_write_them():
    for annotation, shown in (
        (dict[str, Optional[list[Color]]], "dict[str, list[Color (RED, GREEN)] or null]"),
        (Callable[[int], str], "a callable"),
    ):
        assert format_tree(node(annotation, None)).endswith(f"x: {shown} = None")

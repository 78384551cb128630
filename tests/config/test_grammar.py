"""The text of overrides: paths and values, as the command line gives them."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyengine.config import Config, LazyConfig, OverrideError, diff, is_node

words = st.text(max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
    | words
    | st.binary(max_size=8)
    | st.sampled_from(["true", "null", "None", "inf", "nan", "1", "1.0", "[", "(a)", "set()", "'", '"', "b''", "a=b"])
)
hashables = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
values = st.recursive(
    scalars | st.sets(hashables, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashables, inner, max_size=3)
    ),
    max_leaves=12,
)


def read(text):
    """What `+x=text` adds."""
    return LazyConfig.apply_overrides(Config({}), [f"+x={text}"]).x


def same(a, b):
    """Equality that also compares types, the sign of zero, and takes NaN as equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a, b)) and all(map(same, a.values(), b.values()))
    if isinstance(a, set):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, float):
        return (math.copysign(1, a) == math.copysign(1, b) and a == b) or (math.isnan(a) and math.isnan(b))
    return a == b


@given(values)
def test_every_python_literal_is_read_as_python_reads_it(value):
    assert same(read(repr([value])), [value])


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_documented_error(text):
    try:
        value = read(text)
    except OverrideError:
        return
    assert isinstance(value, str) or is_node(value) or same(read(repr([value])), [value])


@given(st.lists(st.integers(-99, 99) | st.text(max_size=8), min_size=1, max_size=5))
def test_every_path_that_a_difference_shows_can_be_overridden(path):
    old, new = 1, 2
    for key in reversed(path):
        old, new = {key: old}, {key: new}
    (found,) = diff(Config({"root": old}), Config({"root": new}))
    assert LazyConfig.apply_overrides(Config({"root": old}), [f"{found.path}=2"]).root == new


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("null", None),
        ("None", None),
        ("true", True),
        ("False", False),
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("1_000", 1000),
        ("0x10", 16),
        ("-0b11", -3),
        ("1e5", 1e5),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-inf", -math.inf),
        ("1+2j", 1 + 2j),
        ("007", "007"),
        ("1.10.2", "1.10.2"),
        ("2024-01-01", "2024-01-01"),
        ("٣", "٣"),
        ("a=b", "a=b"),
        ("os.getcwd", "os.getcwd"),
        ("os.getcwd()", "os.getcwd()"),
        ("https://a.b/c?d=e&f=[g]", "https://a.b/c?d=e&f=[g]"),
        ("/data/train set/x.bin", "/data/train set/x.bin"),
        ("C:\\new\\table", "C:\\new\\table"),
        ("数据", "数据"),
        ("it's", "it's"),
        ("'5'", "5"),
        ('"a b"', "a b"),
        (r"'a\nb'", "a\nb"),
        (r"r'a\nb'", r"a\nb"),
        ("b'ab'", b"ab"),
        ("'''it's'''", "it's"),
        ("[]", []),
        ("[a, b]", ["a", "b"]),
        ("[a b, c]", ["a b", "c"]),
        ("[1, 2.5, true, null, 'x, y',]", [1, 2.5, True, None, "x, y"]),
        ("[http://a:80/b, -3]", ["http://a:80/b", -3]),
        ("[0.9, [1, (2, 3)]]", [0.9, [1, (2, 3)]]),
        ("()", ()),
        ("(1,)", (1,)),
        ("(1)", 1),
        ("{}", {}),
        ("{a: 1, 'b c': [x], 2: null}", {"a": 1, "b c": ["x"], 2: None}),
        ("{url: http://a:80}", {"url": "http://a:80"}),
        ("{1, a}", {1, "a"}),
        ("set()", set()),
    ],
)
def test_values(text, value):
    assert same(read(text), value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2", "',' or ']' is expected, not the end"),
        ("[1, 2)", "not ')'"),
        ("[,]", "a value is missing before ','"),
        ("[1] 2", "' 2' follows a whole value"),
        ("'abc", "never closed"),
        ("'a' 'b'", "follows a whole value"),
        ("(a|b)", "one word in parentheses"),
        ("{a: 1, b}", "'key: value' for every item"),
        ("{a: 1, a: 2}", "given twice"),
        ("{[1]: 2}", "hashable"),
        ("[f(x)]", "is expected, not '('"),
        ("[" * 100_000, "brackets within one another"),
        ("9" * 5000, "5000 digits is too long"),
        (r"'\x'", "not a string literal"),
    ],
)
def test_bad_values_say_what_is_wrong(text, says):
    with pytest.raises(OverrideError) as caught:
        read(text)
    assert says in str(caught.value)


CONFIG = {
    "a": {"b": 0, "old": 0, "b-c": 0, 0: [0, 0]},
    "hooks": [{"interval": 0}, {"interval": 0}],
    "keys": {"a.b=c": {"lr": 0}, "backbone.norm": {"x": 0}, "0": {"x": 0}, "a=b": 0},
    "模型": {"宽": 0},
}


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=1", ["a"], 1),
        ("a.b=c=d", ["a", "b"], "c=d"),
        ("hooks[0].interval=5", ["hooks", 0, "interval"], 5),
        ("hooks.0.interval=5", ["hooks", 0, "interval"], 5),
        ("hooks[-1].interval=5", ["hooks", 1, "interval"], 5),
        ("a[0][1]=5", ["a", 0, 1], 5),
        ('keys["a.b=c"].lr=0.1', ["keys", "a.b=c", "lr"], 0.1),
        ("keys[backbone.norm].x=1", ["keys", "backbone.norm", "x"], 1),
        ("keys['0'].x=1", ["keys", "0", "x"], 1),
        (" a.b = x y ", ["a", "b"], "x y"),
        ("模型.宽=1", ["模型", "宽"], 1),
        ("a.b-c=1", ["a", "b-c"], 1),
        ("a.b=", ["a", "b"], ""),
        ("+a.new=1", ["a", "new"], 1),
        ("~a.old", ["a", "old"], None),
        ("~hooks[0].interval", ["hooks", 0, "interval"], None),
        ("~keys['a=b']", ["keys", "a=b"], None),
    ],
)
def test_overrides(text, path, value):
    expected, changed = copy.deepcopy(CONFIG), copy.deepcopy(CONFIG)
    for tree in (expected, changed):
        place = tree
        for key in path[:-1]:
            place = place[key]
        if tree is changed and text[0] not in "+~":
            place[path[-1]] = None  # of no type, so that any value fits
        elif tree is expected and text[0] == "~":
            del place[path[-1]]
        elif tree is expected:
            place[path[-1]] = value
    assert LazyConfig.apply_overrides(Config(changed), [text]) == Config(expected)


@pytest.mark.parametrize(
    "text", ["", "a", "=1", "a..b=1", ".a=1", "a.=1", "a[=1", "a[]=1", "[0]x=1", "~a=1", "+a", "~", "a b=1"]
)
def test_what_is_no_override_is_an_error(text):
    with pytest.raises(OverrideError):
        LazyConfig.apply_overrides(Config({"a": {"b": 1}}), [text])

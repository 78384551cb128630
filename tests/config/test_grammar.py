"""The text of overrides: paths and values, read and printed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyengine.config import OverrideError
from lazyengine.config.grammar import Override, format_path, format_value, parse_override, parse_path, parse_value

words = st.text(max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**5000, max_value=10**5001)
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | words
    | st.binary(max_size=8)
    | st.sampled_from(
        ["true", "null", "None", "inf", "-inf", "nan", "1", "1.0", "1e5", "[", "(a)", "set()", "'", '"', "b''", "a=b"]
    )
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
def test_every_value_printed_and_given_back_comes_back_equal(value):
    text = format_value(value)
    assert same(parse_value(text), value)
    override = parse_override(f"a.b={text}")
    assert override.path == ["a", "b"]
    assert same(parse_value(override.text), value)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_documented_error_and_prints_back(text):
    try:
        value = parse_value(text)
    except OverrideError:
        return
    assert same(parse_value(format_value(value)), value)


@given(st.lists(st.integers(-99, 99) | st.text(max_size=8), min_size=1, max_size=5))
def test_every_path_printed_and_read_comes_back_equal(path):
    assert parse_path(format_path(path)) == path


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
    assert same(parse_value(text), value)


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
        parse_value(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", Override("=", ["a"], "1")),
        ("a.b=c=d", Override("=", ["a", "b"], "c=d")),
        ("hooks[0].interval=5", Override("=", ["hooks", 0, "interval"], "5")),
        ("hooks.0.interval=5", Override("=", ["hooks", 0, "interval"], "5")),
        ("hooks[-1]=5", Override("=", ["hooks", -1], "5")),
        ("a[0][1]=5", Override("=", ["a", 0, 1], "5")),
        ('keys["a.b=c"].lr_mult=0.1', Override("=", ["keys", "a.b=c", "lr_mult"], "0.1")),
        ("keys[backbone.norm].x=1", Override("=", ["keys", "backbone.norm", "x"], "1")),
        ("keys['0'].x=1", Override("=", ["keys", "0", "x"], "1")),
        (" a.b = x y ", Override("=", ["a", "b"], "x y")),
        ("模型.宽=1", Override("=", ["模型", "宽"], "1")),
        ("a.b-c=1", Override("=", ["a", "b-c"], "1")),
        ("a=", Override("=", ["a"], "")),
        ("+a.new=1", Override("+", ["a", "new"], "1")),
        ("~a.old", Override("~", ["a", "old"], "")),
        ("~a[0].old", Override("~", ["a", 0, "old"], "")),
        ("~keys['a=b']", Override("~", ["keys", "a=b"], "")),
    ],
)
def test_overrides(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "=1", "a..b=1", ".a=1", "a.=1", "a[=1", "a[]=1", "[0]x=1", "~a=1", "+a", "~", "a b=1", "--a=1 b"]
)
def test_what_is_no_override_is_an_error(text):
    with pytest.raises(OverrideError):
        parse_override(text) if text != "--a=1 b" else parse_path(text)

"""Fuzz the override parser and the JSON reader: nothing but the documented errors may come out.

python -m tests.config.fuzz --minutes 10
"""

import argparse
import contextlib
import copy
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lazyengine.config import Config, ConfigError, ConfigWarning, OverrideError, ref
from lazyengine.config import LazyCall as L
from lazyengine.config.grammar import format_value, parse_override, parse_value
from lazyengine.config.node import walk
from lazyengine.config.overrides import apply_overrides
from lazyengine.config.saving_json import _READERS, read_json, to_json


class Target:
    """A class with many kinds of annotations; it must never be built."""

    def __init__(
        self,
        number: float = 1.0,
        count: int | None = None,
        pair: tuple[int, str] = (1, "a"),
        many: list[dict[str, float]] | None = None,
        text: str | None = None,
        anything=None,
        **more: Any,
    ):
        raise AssertionError("an override must not build anything")


def experiment() -> Any:
    inner = L(Target)(number=2, many=[{"a": 1.0}], anything={"k": [1, (2, 3)], 5: {1}})
    outer = L(Target)(text="t", anything=[inner, inner], count=ref("plain"), new=1)
    return Config({"inner": inner, "outer": outer, "plain": 3, "items": [inner, 1], "名": {"a.b": None}})


_FRAGMENTS = """inner outer plain items 名 number count pair many text anything new more _target_ k a.b ~ + = . [ ]
( ) { } , : ' " \\ 0 1 -1 5 007 1e5 1e999 0x 1_0 .5 5. inf nan null true None set() r' b' \'\'\' # * os.getcwd 🙂"""
FRAGMENTS = st.sampled_from([*_FRAGMENTS.split(), " ", "\n", "\t", "\x00", "\ud800"])
TEXTS = st.lists(FRAGMENTS | st.text(max_size=3), max_size=14).map("".join)
_NEW = """inner.text outer.more items[2] inner.many[1] inner.pair.0 outer._target_ 名.new fresh inner.pair[7]
inner.count inner.anything['k'][1][0] plain.x inner.number inner.number outer.text outer.anything"""
REAL = [*(path for path, _ in walk(experiment()) if path), *_NEW.split()]
_LITERALS = """1 -2.5 1e5 1e400 true null a text [1,a] (1,2) [1,2] {a:1} {a:{b:[1]}} {1,2} set() 'q' b'x' 1+2j
[[]] [null] inf nan builtins.dict os.getcwd collections.OrderedDict no.such [{a:1},{b:2.5}] (3,x) 0x10 1_0 {a:2}"""
LITERALS = st.sampled_from(_LITERALS.split())
OVERRIDES = (
    st.builds("{}={}".format, st.sampled_from(REAL), LITERALS)
    | st.builds("{}={}".format, st.sampled_from(REAL), LITERALS | TEXTS)
    | st.builds("{}{}={}".format, st.just("+"), st.sampled_from(REAL), LITERALS)
    | st.builds("~{}".format, st.sampled_from(REAL))
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
_NAMES = """torch:nn.Linear torch:float32 torch:os.system os:system builtins:dict builtins:eval collections:OrderedDict
lazyengine.seeding:derive_seed numpy:array a: :b torch..x:y inner x collections:abc collections.OrderedDict"""
NAMES = st.sampled_from([*_NAMES.split(), "\x00:a"])
_PARTS = "$with $args $deferred $function $name $kind $items $dtype $shape $scalar $is $new"
TAGS = st.sampled_from([*_READERS, *_PARTS.split()])


def _documents(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values that are nearly right: each tag with what it takes, or with anything."""
    items, named = (
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "x", "lr", "$a"]), inner, max_size=2),
    )
    pairs = st.lists(st.tuples(inner, inner).map(list) | inner, max_size=3)
    right: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(["$tuple", "$set", "$frozenset", "$complex"], items),
        **dict.fromkeys(["$dict", "$odict"], pairs),
        **dict.fromkeys(
            ["$int", "$float", "$bytes", "$npy"], st.sampled_from(["0x1f", "nan", "-inf", "AAAA", "", "1e999"])
        ),
        **dict.fromkeys(["$object", "$enum", "$namedtuple"], NAMES),
        "$same": st.sampled_from(["inner", "inner[0]", "x", "inner.a"]),
        "$required": st.just(True),
        "$pickle": st.just("AAAA"),
    }
    return st.one_of(
        items,
        named,
        *(st.fixed_dictionaries({tag: value}) for tag, value in right.items()),
        st.fixed_dictionaries({"$call": NAMES}, optional={"$with": named, "$args": items, "$deferred": st.booleans()}),
        st.fixed_dictionaries({"$partial": NAMES}, optional={"$with": named, "$args": items}),
        st.fixed_dictionaries({"$ref": st.lists(NAMES, max_size=2)}, optional={"$function": inner}),
        st.fixed_dictionaries(
            {"$path": st.text(max_size=4), "$kind": st.sampled_from(["Path", "PurePosixPath", "Evil"])}
        ),
        st.fixed_dictionaries(
            {
                "$array": st.lists(SCALARS | inner, max_size=4),
                "$dtype": st.sampled_from(["<f4", "<i8", "|b1", "O", "<U3", "x"]),
                "$shape": st.lists(st.integers(-1, 4), max_size=2),
            },
            optional={"$scalar": st.just(True)},
        ),
        st.dictionaries(TAGS | st.text(max_size=3), inner, max_size=3),
    )


DOCUMENTS = st.recursive(SCALARS | NAMES, _documents, max_leaves=10)


def fuzz_values(text: str) -> None:
    """Any text is a value that prints back, or an `OverrideError`."""
    try:
        value = parse_value(text)
    except OverrideError:
        return
    assert repr(parse_value(format_value(value))) == repr(value) or isinstance(value, set | dict | list | tuple)


def fuzz_grammar(text: str) -> None:
    """Any text is an override or an `OverrideError`, and changes nothing if it does not fit."""
    with contextlib.suppress(OverrideError):
        parse_override(text)
    fuzz_overrides([text])


def fuzz_overrides(texts: list[str]) -> None:
    """Any overrides are applied all or none, with documented errors only, and what is applied can be saved."""
    cfg = experiment()
    before = copy.deepcopy(cfg)
    try:
        apply_overrides(cfg, texts)
    except (ConfigError, ConfigWarning):
        assert cfg == before, texts
        return
    except ImportError:  # what an imported module raises keeps its type
        assert any("_target_" in text for text in texts)
        assert cfg == before
        return
    written, pickled = to_json(cfg)
    if not pickled:
        again = read_json(written.encode(), allow=(__name__, "tests", "os", "posix"))
        assert to_json(again)[0] == written


def fuzz_json(document: Any) -> None:
    """Any JSON is a config that is written back, or a documented error."""
    data = json.dumps({"lazyengine_config": 1, "values": {"inner": document, "x": document}}).encode()
    try:
        cfg = read_json(data)
    except ConfigError:
        return
    written = to_json(cfg)[0]
    assert to_json(read_json(written.encode()))[0] == written


def fuzz_bytes(data: bytes) -> None:
    """Any bytes, and any damage to a real file, are a config or a documented error."""
    with contextlib.suppress(ConfigError):
        read_json(data)


def _damaged() -> st.SearchStrategy[bytes]:
    whole = to_json(Config({"a": L(dict)(b=(1, {2}, 1j), c=float("inf")), "d": [b"x", {"e": ref("a")}]}))[0].encode()
    place = st.integers(0, len(whole))
    return st.builds(lambda i, j, new: whole[:i] + new + whole[j:], place, place, st.binary(max_size=4)) | st.builds(
        lambda i, new: whole[:i] + new + whole[i + 1 :], place, st.binary(max_size=2)
    )


TARGETS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "values": (fuzz_values, TEXTS),
    "grammar": (fuzz_grammar, TEXTS),
    "overrides": (fuzz_overrides, st.lists(OVERRIDES, min_size=1, max_size=3)),
    "json": (fuzz_json, DOCUMENTS),
    "bytes": (fuzz_bytes, st.binary(max_size=60) | _damaged()),
}


def run(name: str, examples: int, number: int) -> None:
    """Run one target; raises what hypothesis found, with the smallest example."""
    check, strategy = TARGETS[name]

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def test(example: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)
            check(example)

    test()


def main() -> None:
    """Run all targets in turn until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    end, number, done = time.monotonic() + 60 * args.minutes, args.seed, 0
    while time.monotonic() < end:
        for name in TARGETS:
            run(name, 500, number)
            done += 500
        number += 1
    print(f"{done} examples over {', '.join(TARGETS)}: only documented errors")


if __name__ == "__main__":
    main()

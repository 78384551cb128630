"""Fuzz overrides and saving: nothing but the documented errors may come out.

python -m tests.config.fuzz --minutes 10
"""

import argparse
import contextlib
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lazyengine.config import Config, ConfigError, ConfigWarning, LazyConfig, OverrideError, diff, ref
from lazyengine.config import LazyCall as L
from tests.config.random_configs import Writer


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
_PATHS = """inner inner.number inner.many inner.many[0] inner.many[0].a inner.anything inner.anything.k
inner.anything.k[1] inner.anything.k[1][0] inner.anything[5] outer outer.text outer.anything
outer.anything[0].number outer.count outer.new plain items items[0] items[1] 名 名['a.b']"""
REAL = [*_PATHS.split(), *_NEW.split()]
_LITERALS = """1 -2.5 1e5 1e400 true null a text [1,a] (1,2) [1,2] {a:1} {a:{b:[1]}} {1,2} set() 'q' b'x' 1+2j
[[]] [null] inf nan builtins.dict os.getcwd collections.OrderedDict no.such [{a:1},{b:2.5}] (3,x) 0x10 1_0 {a:2}"""
LITERALS = st.sampled_from(_LITERALS.split())
OVERRIDES = (
    st.builds("{}={}".format, st.sampled_from(REAL), LITERALS)
    | st.builds("{}={}".format, st.sampled_from(REAL), LITERALS | TEXTS)
    | st.builds("{}{}={}".format, st.just("+"), st.sampled_from(REAL), LITERALS)
    | st.builds("~{}".format, st.sampled_from(REAL))
)


def fuzz_values(text: str) -> None:
    """Any text is a value, or an `OverrideError`."""
    with contextlib.suppress(OverrideError):
        LazyConfig.apply_overrides(Config({}), [f"+x={text}"])


def fuzz_grammar(text: str) -> None:
    """Any text is an override or an `OverrideError`, and changes nothing if it does not fit."""
    fuzz_overrides([text])


def fuzz_overrides(texts: list[str]) -> None:
    """Any overrides are applied all or none, with documented errors only, and what is applied can be saved."""
    cfg = experiment()
    before = copy.deepcopy(cfg)
    try:
        LazyConfig.apply_overrides(cfg, texts)
    except (ConfigError, ConfigWarning):
        assert cfg == before, texts
        return
    except ImportError:  # what an imported module raises keeps its type
        assert any("_target_" in text for text in texts)
        assert cfg == before
        return
    diff(before, cfg)
    with tempfile.TemporaryDirectory() as folder:
        LazyConfig.save(cfg, f"{folder}/config.json")
        json.loads(Path(f"{folder}/config.json").read_text(encoding="utf-8"))
        LazyConfig.save(cfg, f"{folder}/config.py")  # compares what it wrote


def fuzz_configs(number: int) -> None:
    """Random configs with reads in all scopes are loaded and overridden with documented errors only."""
    writer = Writer(number)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"base": writer.base(), "main": writer.child("base") + writer.child("base")}.items():
            head = "from lazyengine.config import LazyCall as L, clone, ref, replace\nNet = Run = dict\n"
            Path(folder, f"{name}.py").write_text(head + text)
        with contextlib.suppress(ConfigError):
            cfg = LazyConfig.load(f"{folder}/main.py")
            before = copy.deepcopy(cfg)
            try:
                LazyConfig.apply_overrides(cfg, [writer.override(), writer.override()])
            except OverrideError:
                assert cfg == before
            LazyConfig.save(cfg, f"{folder}/saved.py")
            assert LazyConfig.load(f"{folder}/saved.py") == cfg


TARGETS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "values": (fuzz_values, TEXTS),
    "grammar": (fuzz_grammar, TEXTS),
    "overrides": (fuzz_overrides, st.lists(OVERRIDES, min_size=1, max_size=3)),
    "configs": (fuzz_configs, st.integers(0, 10**9)),
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

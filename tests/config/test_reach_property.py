"""Random configs and overrides: what a load accepts changes what is built, or a warning said that it would not."""

import contextlib
import copy
import warnings
from collections import Counter

import pytest

from lazyengine.config import ConfigError, ConfigWarning, LazyConfig, OverrideError, SharingError, instantiate
from tests.config.random_configs import Writer


def seen(value, known):
    """Everything that an experiment is made of, as plain values, shared objects by number."""
    if isinstance(value, dict):
        return {key: seen(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [seen(item, known) for item in value]
    if hasattr(value, "__dict__"):
        if id(value) in known:
            return known[id(value)][0]
        known[id(value)] = (f"object {len(known)}", value)
        return [known[id(value)][0], type(value).__name__, seen(vars(value), known)]
    return value


def built(cfg):
    try:
        return seen(instantiate(cfg.runner), {})
    except Exception as error:  # building fails now: that is another experiment too
        return f"{type(error).__name__}: {error}"


def attempt(project, seed, counts):
    writer = Writer(seed)
    project.write(base=writer.base())
    project.write(middle=writer.child("base"), main=writer.child("base"), mixin=writer.child("main"))
    layout = writer.random.choice(["base", "main", "middle", "mixin"])
    files = {"base": ["base"], "main": ["main"], "middle": ["middle"], "mixin": ["main", "mixin"]}[layout]
    paths = [project.folder / f"{name}.py" for name in files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        try:
            cfg = LazyConfig.load(*paths)
        except SharingError:
            counts["not loaded"] += 1
            return
        override = writer.override()
        before, former = built(cfg), copy.deepcopy(cfg)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            LazyConfig.apply_overrides(cfg, [override])
        except OverrideError as error:
            counts["refused because read" if "Python has read" in str(error) else "refused"] += 1
            return
    node, _, attribute = override.partition(".")
    sets_the_default = attribute == "inner=null" and "inner" not in getattr(former, node)
    if cfg == former or sets_the_default:  # it was so already
        return
    counts["accepted"] += 1
    if built(cfg) != before:
        counts["changed"] += 1
    else:
        assert caught, (seed, layout, override)
        counts["warned"] += 1


@pytest.mark.parametrize("start", range(0, 4000, 1000))
def test_what_is_accepted_changes_what_is_built(project, start):
    project.write(parts=(project.folder / "parts.py").read_text())
    (project.folder / "parts.py").write_text(
        "class Net:\n    def __init__(self, width=1, inner=None, use_bias=True, rate=0.5, name=None):\n"
        "        self.__dict__.update(vars())\n        del self.__dict__['self']\n"
        "class Opt(Net): ...\nclass Run:\n    def __init__(self, **parts):\n        self.parts = parts\n"
    )
    counts: Counter[str] = Counter()
    for seed in range(start, start + 150):
        attempt(project, seed, counts)
    refused = counts["refused"] + counts["refused because read"]
    assert counts["accepted"] >= 0.6 * (counts["accepted"] + refused), counts
    assert counts["changed"] >= 0.6 * counts["accepted"], counts
    assert counts["accepted"] + refused > 60, counts


def test_errors_are_documented_ones_only(project):
    """Loading random configs raises nothing else."""
    for seed in range(5000, 5060):
        writer = Writer(seed)
        project.write(base=writer.base(), main=writer.child("base") + writer.child("base"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)
            with contextlib.suppress(ConfigError):
                LazyConfig.load(project.folder / "main.py")

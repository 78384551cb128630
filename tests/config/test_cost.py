"""What loads and overrides cost, in calls of Python functions: counted, so that nothing depends on the machine."""

import importlib
import sys

import pytest

from lazyengine.config import ConfigWarning, LazyConfig, SharingError


def num_calls(function):
    calls = 0

    def profile(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def load_calls(project, text):
    """Return the calls of a first load and of a second one, the project's code being imported already."""
    project.load("net = L(Net)()\n")
    project.write(main=text)
    return [num_calls(lambda: LazyConfig.load("main.py")) for _ in range(2)]


def items(form, num):
    return f"runner = L(Run)(extra=[{', '.join(form.format(i=i) for i in range(num))}])\n"


@pytest.mark.parametrize("form", ["L(Net)(width={i})", "L(dict)(width={i})", "L(Run)(net=L(Net)(width={i}))"])
def test_a_load_costs_in_proportion_to_its_nodes(project, form):
    few, many = (load_calls(project, items(form, num)) for num in (40, 400))
    assert many[0] < 10.5 * few[0]


@pytest.mark.parametrize(
    "form", ["L(Net)(width={i})", "L(Net)(inner=[{i}, L(Opt)()])", "L(Opt)(net=L(Net)(width={i}))"]
)
def test_a_first_load_does_not_walk_over_the_text(project, form):
    few, many = (load_calls(project, items(form, num)) for num in (40, 400))
    assert many[0] - many[1] < few[0] - few[1] + 400


@pytest.mark.parametrize("reads", ["net.width", "values['a']", "net.inner[0] + len(values.values())"])
def test_many_overrides_follow_the_reads_of_a_file_once(project, reads):
    base = "net = L(Net)(width=1, inner=[1, 2])\nvalues = {'a': 1}\nopts = [L(Opt)() for _ in range(30)]\n"
    base += "".join(f"runner_{i} = L(Run)(extra={reads})\n" for i in range(60))
    cfg = project.load(base, "opts[0].lr=1")
    one, twenty = (
        num_calls(lambda num=num: LazyConfig.apply_overrides(cfg, [f"opts[{i}].lr={i}" for i in range(num)]))
        for num in (1, 20)
    )
    assert twenty - one < 19 * 75


@pytest.mark.parametrize(
    ("value", "overrides"),
    [
        ("[1, 2]", ["net.inner[1]=7", "net.inner[0]=9"]),
        ("[[1], 2]", ["net.inner[0]=[4]", "net.inner[0][0]=9"]),
        ("{0: 1, 1: 2}", ["+net.inner[2]=7", "~net.inner[1]", "net.inner[0]=9"]),
    ],
)
def test_an_override_after_others_that_replaced_what_was_read(project, value, overrides):
    read = "net.inner[0][0]" if "[[" in value else "net.inner[0]"
    base = f"net = L(Net)(inner={value})\nrunner = L(Run)(extra={read}, net=net)\n"
    with pytest.warns(ConfigWarning) as caught:
        project.load(base, *overrides)
    last = [str(each.message) for each in caught][-1]
    assert f"override '#{len(overrides)} {overrides[-1]}'" in last
    assert "runner.extra (main.py:4)" in last


@pytest.mark.parametrize(
    "line",
    [
        "if True: from .base import lr, opt; a = 1",
        "text = 'é'; from .base import (lr,\n    opt)",
        "try: from .base import *\nfinally: a = __name__",
    ],
)
def test_imports_in_a_line_with_something_else(project, line):
    with pytest.raises(SharingError, match="'lr' is bound anew"):
        project.load(f"{line}\nlr = 3\n", base="lr = 0.1\nopt = L(Opt)(lr=lr)\n")


def test_a_load_of_a_file_in_no_project_lists_no_folder_anew(tmp_path, monkeypatch):
    path = tmp_path / "lonely.py"
    path.write_text("from lazyengine.config import LazyCall as L\n\nn = L(dict)(a=1)\n")
    LazyConfig.load(path)
    calls = []
    monkeypatch.setattr(importlib, "invalidate_caches", lambda: calls.append(1))
    LazyConfig.load(path)
    assert not calls

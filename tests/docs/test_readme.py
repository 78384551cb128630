"""The commands of the README are there, with the options that it gives them, and its figures are right."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lazyengine.cli.main import COMMANDS

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text(encoding="utf-8")
CALLS = sorted(
    {call for call in re.findall(r"lazyengine (?:[a-z]+)(?: [^`\n|&]*)?", README) if call.split()[1] in COMMANDS}
)


def test_the_table_names_every_command_of_the_first_hour():
    named = {call.split()[1].rstrip('")') for call in CALLS}
    assert {"new", "train", "test", "show", "schedule", "plot", "compare", "export", "completion"} <= named


@pytest.mark.parametrize("call", CALLS)
def test_each_command_has_its_options(call, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lazyengine"])
    module = import_module(f"lazyengine.cli.{COMMANDS[call.split()[1]][0]}")
    help_text = module.main.build_parser().format_help()
    words = re.sub(r"[\"')]+$", "", call)
    options = [word for word in shlex.split(words, comments=True) if word.startswith("--")]
    assert not [option for option in options if option not in help_text and option != "--help"]


def test_the_number_of_digits_is_right():
    from projects.digits.digits import Digits

    assert len(Digits(split="test")) == 359
    assert len(Digits(split="train")) == 1438
    assert "359 test images" in README
    assert "1,438 samples" in README

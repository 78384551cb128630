"""The table of the porting page has every public name of mmengine 0.10.7, and what it says of ours is so."""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import re
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import lazyengine

PAGE = Path(lazyengine.__file__).with_name("PORTING.md")
MMENGINE: dict[str, dict[str, list[str] | None]] = json.loads(
    Path(__file__).with_name("mmengine_names.json").read_text(encoding="utf-8")
)
STATUSES = {"same", "changed", "other", "renamed", "gone"}


def table(package: str) -> list[tuple[list[str], str, str]]:
    """The rows of a package: names, status, text."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n### mmengine.{package}\n")
    lines = re.split(r"\n#", section)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", names), status, text) for names, status, text in cells]


def rows() -> list[tuple[str, str, str, str]]:
    """Every row of every package taken apart: package, name, status, text."""
    return [(p, name, status, text) for p in MMENGINE for names, status, text in table(p) for name in names]


def resolve(path: str) -> Any:
    """Import a dotted path: the longest module, then attributes."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ImportError(path)


def ours() -> dict[str, list[str]]:
    """Public name: the packages that export it."""
    found: dict[str, list[str]] = {}
    for init in PAGE.parent.rglob("__init__.py"):
        package = ".".join(init.parent.relative_to(PAGE.parent.parent).parts)
        for name in getattr(importlib.import_module(package), "__all__", ()):
            found.setdefault(name, []).append(package)
    return found


def accepted_by(function: Any) -> set[str]:
    """The arguments that a function takes by name, those of ``**options: Unpack[T]`` included."""
    if not isinstance(function, type):
        return set(inspect.signature(function).parameters)
    taken = set(inspect.signature(function).parameters)
    for cls in function.__mro__:  # what one of them takes as **options goes to the next
        init = vars(cls).get("__init__")
        if not inspect.isfunction(init):
            continue
        parameters = inspect.signature(init).parameters.values()
        taken |= {parameter.name for parameter in parameters}
        open_ended = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
        if not open_ended:
            break
        hint = typing.get_type_hints(init).get(open_ended[0])
        if typing.get_origin(hint) is typing.Unpack:
            taken |= set(typing.get_type_hints(typing.get_args(hint)[0]))
    return taken


@pytest.mark.parametrize("package", MMENGINE)
def test_every_name_is_there_once(package):
    counts = Counter(name for names, _, _ in table(package) for name in names)
    assert counts == Counter(MMENGINE[package].keys())
    assert {status for _, status, _ in table(package)} <= STATUSES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # parts of torch that the page names
def test_what_the_page_names_exists():
    for package, name, status, text in rows():
        for path in re.findall(r"`((?:lazyengine|torch)(?:\.\w+)+)", text):
            resolve(path)
        assert text, f"{package}.{name} ({status}) says nothing"


def test_same_means_exported_with_the_same_arguments():
    exported = ours()
    for package, name, status, text in rows():
        if status in ("same", "changed"):
            told = [f"lazyengine.{package}", *re.findall(r"`(lazyengine\.\w+)`", text)]
            where = [p for p in told if p in exported.get(name, ())]
            assert where, f"{package}.{name} is exported by {exported.get(name)}"
            theirs, own = MMENGINE[package][name], getattr(importlib.import_module(where[0]), name)
            accepted = accepted_by(own) if theirs and not isinstance(own, enum.EnumMeta) else set(theirs or ())
            lacking = {argument for argument in theirs or () if argument not in accepted}
            untold = {argument for argument in lacking if f"`{argument}`" not in text}
            assert not untold, f"{package}.{name} does not take {untold}"
            assert status == "changed" or not lacking, f"{package}.{name} is changed: {lacking}"


def test_gone_means_gone():
    exported = ours()
    gone = [(package, name) for package, name, status, _ in rows() if status in ("gone", "renamed")]
    back = [f"{package}.{name}: {exported[name]}" for package, name in gone if name in exported]
    assert back == ["fileio.load: ['lazyengine.runs']"]  # which loads the model of a run, and no file

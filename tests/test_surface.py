"""What users can rely on, the public names and the flags, is written down in surface.json; a change is a decision.

After one, write it anew: ``python -m tests.test_surface``
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SNAPSHOT = Path(__file__).with_name("surface.json")


def public_names() -> dict[str, list[str]]:
    """The names that each package exports, sorted."""
    found = {}
    for init in sorted((REPO / "lazyengine").rglob("__init__.py")):
        name = ".".join(init.parent.relative_to(REPO).parts)
        module = importlib.import_module(name)
        if hasattr(module, "__all__"):
            missing = [each for each in module.__all__ if not hasattr(module, each)]
            assert not missing, f"{name}.__all__ has names that it does not define: {missing}"
            assert len(set(module.__all__)) == len(module.__all__), f"{name}.__all__ has a name twice"
            found[name] = sorted(module.__all__)
    return found


def flags_of(parser: argparse.ArgumentParser, prefix: str = "") -> list[str]:
    """The arguments of a command and of its commands: ``--flag``, or the name of a positional one."""
    flags = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                flags += flags_of(sub, f"{prefix}{name} ")
        elif action.dest != "help":
            assert action.help or prefix, f"{parser.prog} {action.dest} has no help"
            flags.append(prefix + ("|".join(action.option_strings) or action.dest))
    return sorted(flags)


def command_flags() -> dict[str, list[str]]:
    """The flags of each command."""
    from lazyengine.cli.main import COMMANDS

    modules = sorted({module for module, _, _ in COMMANDS.values()})
    found = {name: flags_of(importlib.import_module(f"lazyengine.cli.{name}").main.build_parser()) for name in modules}
    return {"lazyengine": sorted(COMMANDS), **found}


def surface() -> dict[str, dict[str, list[str]]]:
    """What the snapshot holds."""
    return {"names": public_names(), "flags": command_flags()}


def test_the_surface_is_the_one_written_down():
    expected, found = json.loads(SNAPSHOT.read_text()), surface()
    changes = []
    for part in ("names", "flags"):
        for key in sorted(expected[part].keys() | found[part].keys()):
            old, new = set(expected[part].get(key, ())), set(found[part].get(key, ()))
            changes += [f"{key}: - {name}" for name in sorted(old - new)]
            changes += [f"{key}: + {name}" for name in sorted(new - old)]
    assert not changes, "\n".join(["the surface changed; if that is meant: python -m tests.test_surface", *changes])


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(surface(), indent=1) + "\n")

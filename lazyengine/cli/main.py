"""The ``lazyengine`` command: the same code as the scripts in ``tools/``, by the name of what it does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from .. import __version__

# Name: (module of this package, arguments put before the others, what it does).
COMMANDS: dict[str, tuple[str, list[str], str]] = {
    "train": ("train", [], "train the experiment of a config file"),
    "test": ("train", ["--eval-only"], "evaluate it; --checkpoint best takes the best weights of its run"),
    "show": ("show", [], "show a config: values, where they came from, what can be overridden, differences"),
    "schedule": ("schedule", [], "draw the learning rate over the run, without training"),
    "plot": ("plot", [], "draw the curves of runs"),
    "compare": ("compare", [], "compare runs: final values and configs"),
    "checkpoint": ("checkpoint", [], "show, verify, export, merge and average checkpoints"),
    "evaluate": ("evaluate", [], "compute metrics from saved predictions"),
}


def usage() -> str:
    """Return the text of ``lazyengine --help``; imports none of the commands."""
    lines = [f"  {name:<12}{text}" for name, (_, _, text) in COMMANDS.items()]
    ranks = "With several processes: torchrun --no-python --nproc_per_node=2 lazyengine train --config FILE"
    more = ["", "lazyengine COMMAND --help says more.", ranks]
    return "\n".join(["usage: lazyengine COMMAND [arguments]", "", *lines, *more])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"lazyengine {__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"lazyengine: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    module, before, _ = COMMANDS[name]
    sys.argv[0] = f"lazyengine {name}"  # what the command's own --help calls it
    return import_module(f".{module}", __package__).main([*before, *rest])

"""The ``lazyengine`` command: the same code as the scripts in ``tools/``, by the name of what it does."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module

from .. import __version__, interpreter
from ..text import did_you_mean, listed
from .mistakes import ignore_broken_pipe, show_failure

# Name: (module of this package, arguments put before the others, what it does).
COMMANDS: dict[str, tuple[str, list[str], str]] = {
    "new": ("new", [], "make a project that runs at once"),
    "train": ("train", [], "train the experiment of a config file"),
    "test": ("test", [], "evaluate it: the best weights of its run, or --checkpoint PATH"),
    "show": ("show", [], "show a config: values, where they came from, what can be overridden, differences"),
    "plan": ("plan", [], "say what an experiment costs before it runs: FLOPs, memory, time, disk, changes"),
    "summary": ("plan", ["--summary"], "show parameters, FLOPs and memory by module"),
    "profile": ("profile", [], "say where the time of an iteration goes, and what the engine takes of it"),
    "lr-find": ("lr_find", [], "try learning rates on steps that are thrown away"),
    "batch-find": ("batch_find", [], "find the largest batch that fits, by counting"),
    "schedule": ("schedule", [], "draw the learning rate over the run, without training"),
    "plot": ("plot", [], "draw the curves of runs"),
    "compare": ("compare", [], "compare runs: final values and configs"),
    "table": ("table", [], "make a paper's table from runs, and refuse what is not sound"),
    "report": ("report", [], "write a run, or many, as one HTML file"),
    "query": ("query", [], "ask the runs in a folder in SQL"),
    "rerun": ("rerun", [], "make a run again from what its folder keeps; --verify compares every record"),
    "replay": ("replay", [], "make one iteration of a run again and look at it: samples, loss, gradients, debugger"),
    "bisect": ("bisect", [], "find the first iteration, and the first thing in it, in which two runs differ"),
    "sweep": ("sweep", [], "run an experiment with many values, here or on a cluster; goes on when called again"),
    "submit": ("submit", [], "train under a supervisor, here or on a cluster: --on local, slurm, ray"),
    "fork": ("fork", [], "begin a new run as another one stood at an iteration: RUN@ITER"),
    "ps": ("ps", [], "show the runs in a folder: progress, speed, loss, how they ended"),
    "stop": ("stop", [], "ask a run to save and stop, or only to save or validate"),
    "clean": ("clean", [], "delete checkpoints of old runs that nothing needs any more"),
    "export": ("export", [], "write the model of a run for use elsewhere, and compare its outputs"),
    "checkpoint": ("checkpoint", [], "show, verify, export, merge and average checkpoints"),
    "check": ("check", [], "try whether an experiment is exact: --exact"),
    "evaluate": ("evaluate", [], "compute metrics from saved predictions"),
    "completion": ("completion", [], "let the shell complete commands, configs and keys of overrides"),
    "port": ("port", [], "port configs and code of mmengine, detectron2, Hydra and LightningCLI"),
}


def usage() -> str:
    """Return the text of ``lazyengine --help``; imports none of the commands."""
    width = shutil.get_terminal_size().columns
    lines = [
        textwrap.fill(text, width, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)
        for name, (_, _, text) in COMMANDS.items()
    ]
    ranks = "With several processes:\n  torchrun --no-python --nproc_per_node=2 lazyengine train CONFIG"
    more = ["", "lazyengine COMMAND --help says more.", ranks]
    return "\n".join(["usage: lazyengine COMMAND [arguments]", "", *lines, *more])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        with ignore_broken_pipe():
            print(usage(), flush=True)
        return 0
    if name == "--version":
        print(f"lazyengine {__version__}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f" The commands are {listed(COMMANDS, 30)}."
        print(f"lazyengine: there is no command {name!r}.{hint}", file=sys.stderr)
        return 2
    module, before, _ = COMMANDS[name]
    sys.argv[0] = f"lazyengine {name}"  # what the command's own --help calls it
    if argv is None:
        sys.excepthook = show_failure
        interpreter.keep()
    with interpreter.paused():
        found = import_module(f".{module}", __package__)
    return found.main([*before, *rest])

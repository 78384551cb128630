"""Time to the first iteration over a script that trains by hand, and time of imports."""

from __future__ import annotations

import compileall

from .peers import ENGINES
from .table import ROOT, Options, Row, rows_over, take_turns, time_script

FIRST_FORWARD = """
import os, tempfile, torch
from tests.benchmarks import training
torch.set_num_threads(1)
training.Net.forward = lambda self, x: os._exit(0)
way, net, data = training.find_way({way!r}), training.Net("mlp"), training.Data(100, "mlp")
way(100, 10, net, data, tempfile.mkdtemp())
"""


def run(options: Options) -> list[Row]:
    """Return the rows of the start; everything is a fresh process, its bytecode compiled before, as pip does it."""
    for folder in ("lazyengine", "tests/benchmarks"):
        compileall.compile_dir(ROOT / folder, quiet=1)
    peers = options.find_peers(ENGINES)

    def rows(work: str, base: str, scripts: dict[str, str], goals: dict[str, str]) -> list[Row]:
        ways = {name: lambda code=code: time_script(code) for name, code in scripts.items()}
        return rows_over(base, take_turns(ways, options.rounds), work, goals, unit="ms", scale=1e3)

    names = ["bare", "full_duty", "lazyengine", *peers]
    first = {name: FIRST_FORWARD.format(way=name) for name in names}
    modules = ["torch", "lazyengine.runner", *("mmengine.runner" if peer == "mmengine" else peer for peer in peers)]
    imports = {name: f"import {name}" for name in modules}
    alone = {"nothing": "pass", "lazyengine.config": "import lazyengine.config"}
    return [
        *rows("first iteration", "bare", first, {"lazyengine": "<= 1.05"}),
        *rows("import", "torch", imports, {"lazyengine.runner": "<= 1.03"}),
        *rows("start of Python and import", "nothing", alone, {"lazyengine.config": "<= 60 ms more"}),
    ]

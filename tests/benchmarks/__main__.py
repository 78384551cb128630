"""``python -m tests.benchmarks``: measure, print the table, write it as JSON. See the README of this folder."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from .table import Options, Row, format_table

NAMES = (
    "loop", "startup", "config", "checkpoint", "dataset", "history", "evaluation", "resume", "ddp", "scale", "gpu",
)  # fmt: skip


def main() -> None:
    """Run the chosen benchmarks; rows are written as soon as a benchmark is done."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=NAMES, help=f"which of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rounds", type=int, help="rounds of each pair; default 5, with --quick 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    parser.add_argument("--peers", action="store_true", help="measure other engines too, those that can be imported")
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind (loop; slow)")
    parser.add_argument("--records", type=int, metavar="N", help="records of the dataset")
    parser.add_argument("--checkpoint-mb", type=int, metavar="MB", help="size of the checkpoint")
    arguments = parser.parse_args()
    names = [name for part in arguments.only for name in part.split(",") if name]
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"--only {' '.join(unknown)}: there are {', '.join(NAMES)}")
    options = Options(
        rounds=arguments.rounds or (3 if arguments.quick else 5),
        quick=arguments.quick,
        peers=arguments.peers,
        instructions=arguments.instructions,
        num_records=arguments.records,
        checkpoint_mb=arguments.checkpoint_mb,
    )
    rows: list[Row] = []
    for name in names:
        start = time.perf_counter()
        rows += importlib.import_module(f".{name}", __package__).run(options)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if arguments.json is not None:
            report = {"about": describe_run(), "skipped": options.skipped, "rows": [row.as_json() for row in rows]}
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(format_table(rows))
    for note in options.skipped:
        print(f"skipped: {note}")


def describe_run() -> dict[str, Any]:
    """Say where and how the figures came about."""
    packages = ("torch", "numpy", "mmengine", "lightning", "pytorch-ignite", "accelerate", "fvcore", "torchmetrics")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {"arguments": sys.argv[1:], "time": time.strftime("%Y-%m-%d %H:%M:%S"), "load": load}
    return about | {"cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


if __name__ == "__main__":
    main()

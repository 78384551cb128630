"""Iteration time of the training loop over a loop written by hand."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from .peers import ENGINES
from .table import Options, Row, Sample, in_process, rows_over

GOALS = {
    10: {"lazyengine": "<= 1.18", "lazyengine_unseeded": "<= 1.10"},
    50: {"lazyengine": "<= 1.15", "lazyengine_unseeded": "<= 1.06"},
}


def run(options: Options) -> list[Row]:
    """Return the rows of the loop."""
    n = 400 if options.quick else 4000
    ways = ["full_duty", "lazyengine", "lazyengine_unseeded", *options.find_peers(ENGINES)]
    rows = []
    for interval, goals in GOALS.items():
        rows += _compare(options, f"iteration, MLP, log every {interval}", ways, "bare", n, interval, "mlp", goals)
    goals = {"lazyengine_aged": "<= 1.02"}
    rows += _compare(options, "the same, long history", ["lazyengine_aged"], "lazyengine", n, 10, "mlp", goals)
    for kind, goal in (("mlp", {}), ("cnn", {"lazyengine_fingerprints": "<= 1.03"})):
        work = f"the same, {kind.upper()}, fingerprints every 10"
        rows += _compare(options, work, ["lazyengine_fingerprints"], "lazyengine", n // 10, 10, kind, goal)
    goals = {"lazyengine": "<= 1.03"}
    rows += _compare(options, "iteration, CNN, log every 10", ["lazyengine"], "bare", n // 10, 10, "cnn", goals)
    return rows + (_count_instructions(options) if options.instructions else [])


def _compare(
    options: Options, work: str, ways: list[str], base: str, n: int, interval: int, kind: str, goals: dict[str, str]
) -> list[Row]:
    """Each round and way in a fresh process, beside the base in the same process."""
    pairs: dict[str, list[tuple[Sample, Sample]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            arguments = {"way": way, "base": base, "n": n, "interval": interval, "kind": kind}
            pairs[way].append(in_process("loop:measure_pair", **arguments))
    rows = []
    for way, found in pairs.items():
        samples = {way: [sample for sample, _ in found], base: [sample for _, sample in found]}
        rows += rows_over(base, samples, work, goals)
    return rows


def measure_pair(
    way: str, base: str, n: int, interval: int, kind: str, num_ranks: int = 1
) -> tuple[Sample, Sample]:  # fmt: skip
    """In a fresh process: train base, way, base after a warm-up; return the way, and the mean of the bases."""
    import torch

    from .training import time_iterations

    torch.set_num_threads(1)
    time_iterations(way, 3 * interval, interval, kind, num_ranks)  # the way: it may insist on starting the ranks' group
    before, sample, after = (time_iterations(name, n, interval, kind, num_ranks) for name in (base, way, base))
    return sample, {key: (before[key] + after[key]) / 2 for key in before}


def _count_instructions(options: Options) -> list[Row]:
    """Instructions of an iteration: what a longer run has more than a shorter one, so that the start drops out."""
    if shutil.which("valgrind") is None:
        options.skipped.append("instructions: valgrind is not installed")
        return []
    short, long = 100, 300
    samples = {}
    for way in ("bare", "lazyengine"):
        samples[way] = [{"wall": (_instructions(way, long) - _instructions(way, short)) / (long - short)}]
    return rows_over("bare", samples, "instructions of an iteration, log every 10", {}, unit="k", scale=1e-3)


def _instructions(way: str, n: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "callgrind")
        valgrind = ["env", "PYTHONHASHSEED=0", "valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        in_process("loop:train_once", valgrind, way=way, n=n)
        found = re.search(r"^(?:totals|summary): (\d+)", profile.read_text(), re.MULTILINE)
        assert found is not None, f"callgrind wrote no total for {way}"
        return int(found[1])


def train_once(way: str, n: int) -> None:
    """In a fresh process under valgrind: train, and nothing else."""
    import torch

    from .training import time_iterations

    torch.set_num_threads(1)
    time_iterations(way, n, 10, "mlp")

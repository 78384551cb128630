"""What the benchmarks share: taking turns, fresh processes, rows of ratios, the table. Imports no torch."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Sample = dict[str, float]  # "wall" and "cpu" in one unit, or other amounts
Samples = dict[str, list[Sample]]  # by name of the way, a sample a round


@dataclasses.dataclass
class Options:
    """What the command line asks for; benchmarks append to `skipped` what they leave out, and why."""

    rounds: int = 5
    quick: bool = False
    peers: bool = False
    instructions: bool = False
    num_records: int | None = None
    checkpoint_mb: int | None = None
    skipped: list[str] = dataclasses.field(default_factory=list)

    def find_peers(self, names: Iterable[str]) -> list[str]:
        """Return the peers to measure: those that can be imported, where peers are asked for."""
        names = list(names) if self.peers else []
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        notes = (f"{name}: not installed" for name in missing)
        self.skipped.extend(note for note in notes if note not in self.skipped)
        return [name for name in names if name not in missing]


@dataclasses.dataclass
class Row:
    """One way of doing a piece of work, over another one measured in the same rounds.

    Attributes:
        work, who, over: What is done, by whom, and what the ratios are over.
        to_reach: The goal; empty where the row only shows where others stand.
        unit: Of `measured` and `base`, the amounts of each round.
        ratio: ``measured / base`` of each round.
        cpu_ratio: The same of processor time, of all threads; empty where it means nothing.
    """

    work: str
    who: str
    over: str
    to_reach: str
    unit: str
    measured: list[float]
    base: list[float]
    ratio: list[float]
    cpu_ratio: list[float]

    def as_json(self) -> dict[str, Any]:
        """Return the row with median, smallest and largest instead of each list."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: _spread(value) if isinstance(value, list) else value for name, value in values.items()}


def rows_over(
    base: str, samples: Samples, work: str, goals: Mapping[str, str], unit: str = "us", scale: float = 1.0,
    key: str = "wall",
) -> list[Row]:  # fmt: skip
    """Return a row for every way but `base`.

    Args:
        base: The way that the ratios are over.
        samples: What `take_turns` returned.
        work: What all of them do.
        goals: What is to be reached, by way.
        unit: Of the amounts, once multiplied by `scale`.
        scale: See `unit`.
        key: The amount that is compared.
    """
    rows = []
    for who in samples:
        if who == base:
            continue
        pairs = list(zip(samples[who], samples[base]))
        measured, divisors = [a[key] * scale for a, _ in pairs], [b[key] * scale for _, b in pairs]
        cpu = [a["cpu"] / b["cpu"] for a, b in pairs if key == "wall" and a.get("cpu") and b.get("cpu")]
        ratio = [a / b for a, b in zip(measured, divisors)]
        rows.append(Row(work, who, base, goals.get(who, ""), unit, measured, divisors, ratio, cpu))
    return rows


def take_turns(ways: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1, warm_up: bool = True) -> Samples:
    """Let all ways take turns (A B C A B C ...), so that what else the machine does hits them alike.

    Args:
        ways: By name; one that returns a sample measured itself, any other is timed here (seconds a call).
        rounds: Rounds that count.
        calls: Calls in a round.
        warm_up: Whether a round before them does not count.
    """
    samples: Samples = {name: [] for name in ways}
    for turn in range(-warm_up, rounds):
        for name, way in ways.items():
            sample: Any = None
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(calls):
                sample = way()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= 0:
                is_sample = isinstance(sample, dict) and "wall" in sample
                samples[name].append(sample if is_sample else {"wall": wall / calls, "cpu": cpu / calls})
    return samples


# ---------------------------------------------------------------- fresh processes
def in_process(function: str, prefix: Sequence[str] = (), **arguments: Any) -> Any:
    """Call ``MODULE:FUNCTION`` of this package in a fresh process and return what it returns, through JSON.

    Args:
        function: Its module is imported in the new process.
        prefix: Words before the command, such as valgrind or a launcher (then rank 0's answer is returned).
        **arguments: Keyword arguments, plain data.

    Raises:
        RuntimeError: When the process fails; shows the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result")
        command = [*prefix, sys.executable, "-m", f"{__package__}.table", function, json.dumps(arguments), str(result)]
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode or not result.exists():
            raise RuntimeError(f"{function}({arguments}) exited with {done.returncode}:\n{done.stdout[-3000:]}")
        return json.loads(result.read_text())


def time_script(code: str) -> Sample:
    """Run Python code in a fresh process and return its seconds from start to exit."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exited with {process.returncode}: python -c {code!r}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}


# ---------------------------------------------------------------- the table
def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table that also reads well as plain text."""

    def ratio(values: list[float]) -> str:
        if not values:
            return "-"
        return f"{statistics.median(values):.3g} [{min(values):.3g}..{max(values):.3g}]"

    cells = [("work", "who", "over", "to reach", "ratio", "ratio of CPU time", "measured / base", "rounds")]
    for row in rows:
        amounts = f"{statistics.median(row.measured):.4g} / {statistics.median(row.base):.4g} {row.unit}"
        texts = (row.work, row.who, row.over, row.to_reach, ratio(row.ratio), ratio(row.cpu_ratio), amounts)
        cells.append((*texts, str(len(row.ratio))))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def _main() -> None:
    """The fresh process of `in_process`."""
    function, arguments, result = sys.argv[1:]
    module, name = function.split(":")
    value = getattr(importlib.import_module(f"{__package__}.{module}"), name)(**json.loads(arguments))
    if os.environ.get("RANK", "0") == "0":
        Path(result).write_text(json.dumps(value))
    sys.stdout.flush()
    os._exit(0)  # peers leave threads and process groups behind


if __name__ == "__main__":
    _main()

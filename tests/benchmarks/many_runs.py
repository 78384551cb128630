"""Ten thousand run folders with two million records, and how long it takes to compare and to query them.

``python -m tests.benchmarks.many_runs [NUMBER]`` makes them in a temporary folder and prints a table. The folders are
those that digits leaves: its config with another learning rate, width and seed for each, a record each 200th of the
training and ten validations; every fiftieth was resumed with another rate.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lazyengine.logging import read_metrics
from lazyengine.runs.index import INDEX_FILE, Index
from lazyengine.text import table

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDS = 200
_ENV = {"python": "3.11.7", "torch": "2.6.0", "device": "cpu", "world_size": 1, "code": {"hash": "0123456789abcdef"}}


def make_runs(root: Path, number: int, records: int = RECORDS) -> None:
    """Write run folders.

    Args:
        root: Where.
        number: How many.
        records: How many records each has.
    """
    for i in range(number):
        rng = random.Random(i)
        lr, width, seed = 10 ** rng.uniform(-4, -1), rng.choice([16, 32, 64]), i % 5
        folder = root / f"run{i:05d}"
        values = _values(lr if i % 5 == 0 else _rate(i), width if i % 5 == 0 else _width(i), seed)
        is_resumed = i % 50 == 49
        starts = [_start(1, "20260131_120000", None, [])]
        if is_resumed:
            origin = {"run_id": f"{i:016x}", "path": "epoch_5.pth", "iter": 500, "epoch": 5, "hash": "0"}
            change = {
                "path": "optimizer.lr",
                "was": "0.05",
                "is": "0.5",
                "effect": "in force",
                "from_iter": 500,
                "why": "",
            }
            starts.append(_start(2, "20260131_130000", origin, [change]))
        for start in starts:
            (folder / start["folder"]).mkdir(parents=True)
            (folder / start["folder"] / "env.json").write_text(json.dumps(_ENV))
        first = records * 6 // 10 if is_resumed else records
        _write(folder / starts[0]["folder"], range(1, first + 1), rng, None)
        if is_resumed:
            _write(folder / starts[1]["folder"], range(records // 2 + 1, records + 1), rng, 10 * (records // 2))
        (folder / "run.json").write_text(json.dumps({"format": 1, "run_id": f"{i:016x}", "starts": starts}))
        (folder / "config.json").write_text(json.dumps({"lazyengine_config": 2, "values": values}))


def _rate(i: int) -> float:
    return 10 ** random.Random(i - i % 5).uniform(-4, -1)


def _width(i: int) -> int:
    rng = random.Random(i - i % 5)
    rng.uniform(-4, -1)
    return rng.choice([16, 32, 64])


def _start(number: int, folder: str, origin: object, changes: list[object]) -> dict[str, object]:
    ended = {"how": "finished", "iter": 2000, "reason": ""}
    about = {
        "time_utc": f"2026-01-31T1{number + 1}:00:00Z",
        "host": "host",
        "pid": 1,
        "command": ["lazyengine", "train"],
    }
    return {
        "start": number,
        "kind": "train",
        "folder": folder,
        "from": origin,
        "changes": changes,
        "ended": ended,
        **about,
    }


def _write(folder: Path, numbers: range, rng: random.Random, resumed: int | None) -> None:
    lines = [] if resumed is None else [{"step": resumed, "epoch": None, "iter": resumed, "mode": "resume"}]
    for n in numbers:
        place = {"step": 10 * n, "epoch": n // 20 + 1, "iter": 10 * n, "mode": "train"}
        values = {"time": rng.random(), "data_time": rng.random(), "lr": 1e-3 * rng.random(), "grad_norm": rng.random()}
        lines.append({**place, **values, "loss": rng.random() / n})
        if n % 20 == 0:
            metrics = {"accuracy/top1": 1 - rng.random() / n, "loss": rng.random() / n, "time": rng.random()}
            lines.append({**place, "mode": "val", **metrics})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _values(lr: float, width: int, seed: int) -> dict[str, object]:
    def call(target: str, **arguments: object) -> dict[str, object]:
        return {"$call": target, "$with": arguments}

    hooks = {f"hook{i}": call("lazyengine.hooks:LoggerHook", interval=10, by_epoch=False) for i in range(8)}
    schedules = [
        call("lazyengine.optim:LinearLR", start_factor=0.1, end=45),
        call("lazyengine.optim:CosineAnnealingLR"),
    ]
    return {
        "default_hooks": hooks,
        "model": call("projects.digits.digits:DigitNet", num_classes=10, width=width),
        "optimizer": call("torch.optim:AdamW", lr=lr, weight_decay=0.05),
        "train_loop": call("lazyengine.runner:EpochBasedTrainLoop", max_epochs=20, dataloader={"batch_size": 32}),
        "runner": call("lazyengine.runner:Runner", seed=seed, param_schedulers=schedules, work_dir="work_dirs/digits"),
    }


def measure(root: Path) -> list[tuple[str, ...]]:
    """Return command, and seconds on the clock and of the processor, with the index deleted and with it there."""
    sql = "select name, count(*), avg(value) from metrics group by name order by name"
    commands = {
        "compare ROOT": ["compare", str(root), "--keys", "val/accuracy/top1"],
        "compare ROOT --where --csv": ["compare", str(root), "--where", "optimizer.lr > 1e-3", "--csv"],
        "query ROOT (runs)": ["query", str(root), "select state, count(*) from runs group by state"],
        "query ROOT (metrics)": ["query", str(root), sql],
    }
    rows = []
    for name, arguments in commands.items():
        (root / INDEX_FILE).unlink(missing_ok=True)
        times = [_seconds(arguments) for _ in range(2)]
        rows.append((name, *(f"{clock:.2f} ({processor:.2f})" for clock, processor in times)))
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    return rows


def _seconds(arguments: list[str]) -> tuple[float, float]:
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lazyengine", *arguments]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, processor


def is_as_read(root: Path, every: int) -> bool:
    """Whether the index has the same numbers as the engine's own reader, of each so many runs."""
    index = Index(root)
    for outline in index.read()[::every]:
        records = read_metrics(outline.path)
        for curve in index.curves(outline):
            pairs = [(r["step"], r[curve.label]) for r in records if r["mode"] == curve.mode and curve.label in r]
            if list(zip(curve.steps, curve.values)) != pairs:
                return False
    return True


def main() -> None:
    """Make the folders and print the table."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_runs(root, number)
        rows = measure(root)
        size = (root / INDEX_FILE).stat().st_size / 1e6
        is_equal = is_as_read(root, max(1, number // 200))
    head = (f"{number} runs", "index deleted: s (of the processor)", "index there: s (of the processor)")
    print(table([head, *rows]))
    print(f"size of the index: {size:.1f} MB; numbers equal to the reader's: {is_equal}")


if __name__ == "__main__":
    main()

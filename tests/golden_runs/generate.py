"""Makes the golden runs of the installed version: ``python -m tests.golden_runs.generate OUT --version 0.1.0``.

Each experiment is trained twice, once to its end and once until it is stopped. What the second left is kept, with what
the first ended with beside it; before it is kept, it is resumed, and has to get to that very end.

The engine and these tests are copied to a folder called ``site-packages`` first, so that they count as installed and
nothing that is saved names a folder of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import lazyengine
from lazyengine.config import LazyConfig

from .driver import EXPERIMENTS, HERE, REPO, Driver
from .runs import EXPECTED, RUN, WEIGHTS, GoldenRun, differences, end_of

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if path.stem not in ("__init__", "common"))
IN_START = ("metrics.jsonl",)
"""What is kept of the folder of a start; the log and env.json tell of the machine."""
MAX_BYTES = 600_000


def generate(out: Path, version: str) -> None:
    """Make all golden runs of a version.

    Args:
        out: The folder to be filled; must not exist.
        version: The version that the engine must have.

    Raises:
        RuntimeError: When the engine has another version, when a resumed run ends otherwise than the whole one, when a
            file names a folder of this machine, or when all is too large.
    """
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers = Driver(folder, root=_install(folder / "site-packages"))
        (folder / "again").mkdir()
        others = Driver(folder / "again")
        try:
            about = makers.run("describe")
            if about["version"] != version:
                raise RuntimeError(f"the engine is {about['version']}, not {version}")
            for experiment in NAMES:
                golden = _make(experiment, folder, out / experiment, makers, about)
                _resume(golden, folder / "again", others)
                print(f"{experiment}: resumed at {golden.expected['end']['first_iter']}, ends the same")
        finally:
            makers.close()
            others.close()
        _check_files(out, [name, str(REPO), str(Path.home()), tempfile.gettempdir()])


def _install(target: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__", "v[0-9]*")
    shutil.copytree(Path(lazyengine.__file__).parent, target / "lazyengine", ignore=ignore)
    shutil.copytree(HERE, target / "tests" / "golden_runs", ignore=ignore)
    (target / "tests" / "__init__.py").touch()
    return target


def _make(experiment: str, folder: Path, target: Path, makers: Driver, about: dict[str, Any]) -> GoldenRun:
    """Train to the end, train until the stop, and keep what is there."""
    cfg = LazyConfig.load(EXPERIMENTS / f"{experiment}.py")
    stop, tolerance = dict(cfg.stop), dict(cfg.tolerance)
    config = folder / "site-packages" / "tests" / "golden_runs" / "experiments" / f"{experiment}.py"
    weights = folder / WEIGHTS
    whole = makers.run("train", config=config, work_dir=folder / "whole" / experiment, weights=weights)
    number = signal.Signals[stop["signal"]]
    stopped = folder / "stopped" / experiment
    code = -number if number == signal.SIGKILL else 128 + number
    makers.run("train", expect=code, config=config, work_dir=stopped, stop=stop)

    latest = (stopped / "last_checkpoint").read_text(encoding="utf-8").strip()
    kept = [path for path in stopped.glob("*.pth") if path.name == latest or path.name.startswith("best_")]
    kept.sort(key=lambda path: path.stat().st_mtime_ns)
    (start,) = [path for path in stopped.iterdir() if path.is_dir()]
    run = target / RUN
    (run / start.name).mkdir(parents=True)
    for path in [*kept, *(stopped / n for n in ("last_checkpoint", "config.py", "config.json"))]:
        shutil.copy(path, run)
    for file in IN_START:
        shutil.copy(start / file, run / start.name)
    shutil.copy(weights, target)

    evaluations = {
        path.name: makers.run("evaluate", config=stopped / "config.py", work_dir=stopped, checkpoint=path.name)
        for path in kept
    }
    for name, metrics in evaluations.items():
        _check_evaluation(name, metrics, whole)
    first_iter = _first_iter(run / latest)
    expected = {
        "experiment": experiment,
        "stop": stop,
        "checkpoints": [path.name for path in kept],  # the oldest first
        "latest": latest,
        **about,
        "tolerance": tolerance,
        "evaluations": evaluations,
        "end": end_of(whole, first_iter),
    }
    (target / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    return GoldenRun.read(target)


def _first_iter(checkpoint: Path) -> int:
    import torch

    return torch.load(checkpoint, weights_only=True)["train_loop"]["iter"]


def _check_evaluation(name: str, metrics: dict[str, float], whole: dict[str, Any]) -> None:
    """Refuse metrics of a best checkpoint that are not those that the training saw."""
    found = re.fullmatch(r"best_.*_iter_(\d+)\.pth", name)
    if found is None:
        return
    (seen,) = [each["metrics"] for each in whole["validations"] if each["iter"] == int(found[1])]
    if metrics != seen:
        raise RuntimeError(f"{name} evaluates to {metrics}, and training saw {seen}")


def _resume(golden: GoldenRun, folder: Path, driver: Driver) -> None:
    """Refuse a golden run that this version itself does not bring to the end of the whole one."""
    copy, weights = golden.copy_to(folder), folder / WEIGHTS
    report = driver.run("train", config=golden.experiment, work_dir=copy, resume=True, weights=weights)
    end = end_of(report, report["first_iter"])
    if found := differences(golden, end, golden.expected["numerics"], weights):
        raise RuntimeError(f"{golden.name}, resumed, ends otherwise:\n" + "\n".join(found))


def _check_files(out: Path, names: list[str]) -> None:
    """Refuse files that name a folder of this machine, and too many bytes."""
    files = [path for path in out.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        if told := [name for name in names if os.fsencode(name) in data]:
            raise RuntimeError(f"{path} names {', '.join(told)}")
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {size} bytes")
    if size > MAX_BYTES:
        raise RuntimeError(f"{size} bytes are more than {MAX_BYTES}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the golden runs of the installed version.")
    parser.add_argument("out", type=Path, help="the folder to be filled, tests/golden_runs/v<version>")
    parser.add_argument("--version", required=True, help="the version that the engine must have")
    args = parser.parse_args()
    generate(args.out, args.version)

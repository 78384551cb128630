"""A small project whose runs can be made to fail, and what its sweeps and runs left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import forks
from ..record.project import write
from ..runs.toy import FILES

REPOSITORY = Path(__file__).resolve().parents[2]
TROUBLE = '''
    import json
    import os
    import signal
    import time
    from pathlib import Path

    import torch
    from lazyengine.hooks import Hook

    from .data import Points


    def is_due(plan, kind, iteration):
        """Whether a fault is to happen; those that are no lasting ones happen once."""
        for number, (what, at, *lasting) in enumerate(json.loads(Path(plan).read_text()) if plan else ()):
            done = Path(f"{plan}.{number}")
            if what == kind and at == iteration and (lasting or not done.exists()):
                done.touch()
                return True
        return False


    class Trouble(Hook):
        def __init__(self, plan=""):
            self.plan = plan

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            done = runner.num_iters_completed
            if is_due(self.plan, "out of memory", done):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if is_due(self.plan, "full disk", done):
                raise OSError(28, "No space left on device", "cache.bin")
            if is_due(self.plan, "error", done):
                raise KeyError("no such thing")
            if is_due(self.plan, "non-finite", done):
                data_batch["y"].fill_(float("nan"))
            if is_due(self.plan, "lost node", done):
                os.kill(os.getpid(), signal.SIGKILL)
            if is_due(self.plan, "hang", done):
                wait_for_ever()
            if is_due(self.plan, "wait to be stopped", done):
                while not runner._preemption.is_requested:
                    time.sleep(0.01)


    def wait_for_ever():
        while True:
            time.sleep(1)


    class BadPoints(Points):
        """A dataset of which some samples cannot be read, and which counts every iteration that reads one."""

        def __init__(self, bad=()):
            super().__init__()
            self.bad = bad

        def __getitem__(self, index):
            if index in self.bad:
                raise ValueError(f"truncated file {index}.jpg")
            return super().__getitem__(index)


    class Diary(Hook):
        """Appends a line for every iteration that is computed, in any process."""

        def __init__(self, path=""):
            self.path = path

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if self.path:
                line = f"{os.path.basename(runner.work_dir)} {runner.num_iters_completed}\\n"
                file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(file, line.encode())
                os.close(file)
'''
CONFIG = (
    FILES["config.py"]
    + """
    from lazyengine.sweep import Supervision
    from .trouble import BadPoints, Diary, Trouble

    dataset._target_ = BadPoints
    val_loop.dataloader.dataset = L(Points)()
    runner.hooks["trouble"] = L(Trouble)()
    runner.hooks["diary"] = L(Diary)()
    supervision = L(Supervision)(silence_s=60)
"""
)


def make_project(folder: Path) -> str:
    """Write the project and return its config file."""
    write(folder / "lab", {**FILES, "trouble.py": TROUBLE, "config.py": CONFIG})
    return str(folder / "lab" / "config.py")


def plan(folder: Path, *faults: tuple[Any, ...]) -> str:
    """Write what is to happen, and return the override that lets it."""
    path = folder / "plan.json"
    for done in folder.glob("plan.json.*"):
        done.unlink()
    path.write_text(json.dumps(faults))
    return f"runner.hooks.trouble.plan={path}"


def environment() -> dict[str, str]:
    """The environment of a process that runs the engine of this checkout."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(*args: str, cwd: Path, **kwargs: Any) -> subprocess.Popen[str]:
    """Start a command of lazyengine."""
    command = [sys.executable, "-m", "lazyengine", *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment(), **{**streams, **kwargs})


def run(*args: str, cwd: Path, code: int = 0) -> str:
    """Run a command of lazyengine to its end, and return what it printed."""
    done = forks.run(["-m", "lazyengine", *args], cwd=cwd, env=environment())
    assert done.returncode == code, f"{args}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def rows(folder: Path, *args: str, cwd: Path) -> list[tuple[Any, ...]]:
    """What the finished sweep in a folder came to: changes, state and value of each trial."""
    found = json.loads(run("sweep", *args, "--work-dir", str(folder), "--json", cwd=cwd))
    return sorted((each["overrides"], each["how"], each["value"]) for each in found["trials"])


def starts(run_folder: Path) -> list[dict[str, Any]]:
    """The starts of a run."""
    return json.loads((run_folder / "run.json").read_text())["starts"]


def decisions(run_folder: Path) -> list[dict[str, Any]]:
    """What the supervisor of a run has decided."""
    return json.loads((run_folder / "run.json").read_text()).get("decisions", [])


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 280.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)

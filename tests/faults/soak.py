"""Kill the training of the digits at random moments, again and again, and compare its end with the uninterrupted one.

``python tests/faults/soak.py --kills 50`` takes a few minutes. Each start runs until a random moment, is ended by
SIGKILL and is followed by ``--resume``; the moments are spread over the whole run. Exits with 1 when the last
checkpoint differs in anything but times.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lazyengine.checkpoint import list_checkpoints, verify_checkpoint
from lazyengine.cli.train import main as train_net
from tests.faults.experiments import fingerprint

EPOCH_LENGTH = 45
CONFIG = str(Path(__file__).resolve().parents[2] / "projects" / "digits" / "config.py")


def start(folder: Path, epochs: int, num_workers: int, *, resume: bool) -> int:
    """Fork a training of the digits; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    overrides = [
        *(f"train_loop.max_epochs={epochs}", f"+train_loop.dataloader.num_workers={num_workers}", "model.width=8"),
        *("default_hooks.checkpoint.interval=4", "+default_hooks.checkpoint.by_epoch=False"),
        *("default_hooks.checkpoint.max_keep_ckpts=2", "+default_hooks.checkpoint.async_save=True"),
    ]
    args = ["--config", CONFIG, "--work-dir", str(folder), *(["--resume", "auto"] if resume else []), *overrides]
    code = 1
    with contextlib.suppress(Exception):
        code = train_net(args)
    os._exit(code)


def position(folder: Path) -> int:
    """Iterations done according to the newest checkpoint."""
    return max((int(path.stem[5:]) for path in folder.glob("iter_*.pth")), default=0)


def wait_for(folder: Path, pid: int, iteration: int) -> None:
    """Wait until a checkpoint of that iteration, or a later one, is there; or the process has ended."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and position(folder) < iteration:
        time.sleep(0.002)


def run_to_end(folder: Path, epochs: int, num_workers: int, *, resume: bool) -> None:
    """Train without a kill."""
    _, status = os.waitpid(start(folder, epochs, num_workers, resume=resume), 0)
    if status != 0:
        raise SystemExit(f"training failed; its log is {folder}.log:\n{Path(f'{folder}.log').read_text()[-3000:]}")


def main() -> int:
    """Run the soak test and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often to kill (default: 50)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the training (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as base:
        whole, cut = Path(base, "whole"), Path(base, "cut")
        began = time.monotonic()
        run_to_end(whole, args.epochs, 0, resume=False)
        whole_s = time.monotonic() - began
        num_killed = num_ended = 0
        positions = []
        for kill in range(args.kills):
            # Workers change from start to start. Most starts are too short to get to the end.
            pid = start(cut, args.epochs, moments.choice([0, 1, 2]), resume=kill > 0)
            if kill % 5:  # every fifth kill may come before training has begun
                wait_for(cut, pid, int(args.epochs * EPOCH_LENGTH * (kill + moments.random()) / args.kills))
                time.sleep(moments.uniform(0, 0.1))
            else:
                time.sleep(moments.uniform(0, 2 * whole_s / args.kills))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            num_killed += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            num_ended += os.waitstatus_to_exitcode(status) == 0
            if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
                raise SystemExit(f"start {kill} failed:\n{Path(f'{cut}.log').read_text()[-3000:]}")
            for path in list_checkpoints(cut):
                verify_checkpoint(path)
            positions.append(position(cut))
        run_to_end(cut, args.epochs, 0, resume=cut.exists())
        ends = [fingerprint(f / (f / "last_checkpoint").read_text().strip()) for f in (whole, cut)]
        for end in ends:
            del end["meta"]  # holds the config, with another number of workers
        print(f"{num_killed} kills ({num_ended} starts had ended before), at iterations {positions}")
        print(f"uninterrupted: {whole_s:.1f} s, with the kills: {time.monotonic() - began - whole_s:.1f} s")
        different = [key for key in ends[0] if ends[0][key] != ends[1].get(key)]
        print("DIFFERENT: " + ", ".join(different) if different else f"equal: {ends[0]}")
        return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

"""Start two ranks with torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
STEP_LIMIT_S = 240
"""Deadline of one step of a rank. It is far beyond what a busy machine needs: it is for what hangs."""


def torchrun(*command: str, num_steps: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a script in two ranks from the repository's root and return its exit code and output.

    Args:
        *command: The script and its arguments.
        num_steps: How many steps of at most `STEP_LIMIT_S` it takes; all may together take a third of that.

    Raises:
        AssertionError: They did not end in time; shows what both ranks printed until then.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "MASTER_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--monitor-interval=0.1"]
    full = [sys.executable, *launcher, *command]
    limit_s = STEP_LIMIT_S * max(1, num_steps / 3)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(full, cwd=REPO, env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    assert process.returncode != -signal.SIGKILL, f"{command} took over {limit_s:.0f} s:\n{texts[0]}\n{texts[1]}"[
        -9000:
    ]
    return subprocess.CompletedProcess(full, process.returncode, *texts)

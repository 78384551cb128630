"""Start two ranks with torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def torchrun(*command: str, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """Run a script in two ranks from the repository's root and return its exit code and output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "MASTER_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--monitor-interval=0.1"]
    return subprocess.run(
        [sys.executable, *launcher, *command],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )

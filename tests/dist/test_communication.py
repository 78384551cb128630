"""Every function in 1, 2 and 3 processes, compared with torch.distributed called by hand (see driver.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

DRIVER = Path(__file__).with_name("driver.py")


def _environment(folder, **extra):
    cleaned = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "MASTER_"))}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        cleaned.pop(name, None)
    root = str(DRIVER.parents[2])
    path = os.pathsep.join(filter(None, [root, cleaned.get("PYTHONPATH")]))
    return cleaned | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DRIVER_FOLDER": str(folder)} | extra


def _run(world, folder):
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SECOND_PORT": str(free_port())}
    processes = []
    for rank in range(world):
        extra = {}
        if world > 1:
            extra = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)} | ports
            extra["LOCAL_WORLD_SIZE"] = str(world)
        command = [sys.executable, "-W", "error", str(DRIVER)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=_environment(folder, **extra), text=True, cwd=folder, **pipes))
    lines = [process.stdout.readline() for process in processes]
    errors = [process.communicate(timeout=280)[1] for process in processes]
    assert all(lines), errors
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("world", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_function_in_so_many_processes(world, tmp_path):
    for rank, results in enumerate(_run(world, tmp_path)):
        failed = {name: result for name, result in results.items() if result != "ok"}
        assert not failed, f"rank {rank}: " + "\n".join(f"{name}: {text}" for name, text in failed.items())
        assert "timeout_names_call" in results
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".collect")]

"""Join the processes that a launcher started: torchrun, Slurm or Open MPI."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed as torch_dist

from ..errors import UsageRuntimeError, UsageValueError
from . import info
from .info import is_distributed

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""What launchers, schedulers and a lost connection send to all processes of a run before they end."""

_LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def infer_launcher() -> str:
    """Return which launcher started this process, from its environment: `pytorch`, `slurm`, `mpi` or `none`."""
    if "WORLD_SIZE" in os.environ:
        return "pytorch"
    if "SLURM_NTASKS" in os.environ and "SLURM_PROCID" in os.environ:
        return "slurm"
    return "mpi" if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ else "none"


def init_dist(launcher: str = "none", backend: str | None = None, timeout_s: float = 1800.0, **kwargs: Any) -> None:
    """Make the group of all processes (collective: every rank must call).

    Takes this process's GPU, if there are GPUs, before anything is put on one.

    Args:
        launcher: `pytorch` (torchrun), `slurm`, `mpi`, or `none`, which does nothing.
        backend: As for `torch.distributed.init_process_group`. None: NCCL for GPU tensors and gloo for CPU tensors
            where there are GPUs, else gloo.
        timeout_s: After so many seconds without an answer from another rank, communication raises an error.
        **kwargs: Passed to `init_process_group`; `port` sets `MASTER_PORT` under Slurm and MPI.

    Raises:
        ValueError: An unknown launcher, or a timeout that is not positive.
        RuntimeError: The launcher's environment variables are missing, there are fewer GPUs than processes, or the
            other processes did not come within the timeout.
    """
    if launcher not in _LAUNCHERS:
        raise UsageValueError(f"launcher must be one of {', '.join(_LAUNCHERS)}, not {launcher!r}")
    timeout_s = kwargs.pop("timeout", timeout_s)  # mmengine's name, in seconds too
    if not isinstance(timeout_s, (int, float)) or not timeout_s > 0:
        raise UsageValueError(f"timeout_s must be a positive number of seconds, not {timeout_s!r}")
    if launcher == "none" or is_distributed():
        return
    port = kwargs.pop("port", None)
    if launcher != "pytorch":
        if port is not None:
            os.environ["MASTER_PORT"] = str(port)
        _describe_slurm() if launcher == "slurm" else _describe_mpi()
        os.environ.setdefault("MASTER_PORT", "29500")
    _require_variables(launcher, "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if torch.cuda.is_available():
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    if backend is None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and torch_dist.is_nccl_available() else "gloo"
    timeout = datetime.timedelta(seconds=timeout_s)
    torch_dist.init_process_group(backend, timeout=timeout, **{**_store_after_restart(timeout), **kwargs})
    atexit.register(destroy_dist)


def _store_after_restart(timeout: datetime.timedelta) -> dict[str, Any]:
    """Return a store without the addresses of ranks that are dead, after torchrun has restarted them.

    torchrun (seen with torch 2.13) gives all attempts one store; a restarted rank then finds the addresses of the
    attempt before, and is refused or hangs. With several machines the number of the attempt differs between them, so
    there it takes `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` in torchrun's environment.
    """
    env = os.environ
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or env.get("GROUP_WORLD_SIZE") != "1":
        return {}
    td: Any = torch_dist
    shared = td.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), int(env["WORLD_SIZE"]), False, timeout)
    store = td.PrefixStore(f"attempt_{attempt}", shared)
    return {"store": store, "rank": int(env["RANK"]), "world_size": int(env["WORLD_SIZE"])}


def destroy_dist() -> None:
    """Leave the group of all processes, if there is one; done at exit as well."""
    info.local_group = None
    if is_distributed():
        torch_dist.destroy_process_group()


@atexit.register
def _let_gloo_finish() -> None:
    """Give gloo's threads, where there are any yet, the time to free what they hold of the last communication.

    For a tensor they take up Python, and a thread that does so while the interpreter ends aborts the process: once in
    a few hundred ends of a rank that keeps its model. They live on in a group that has been left but is still held.
    """
    with contextlib.suppress(OSError):  # of a thread that ends meanwhile
        names = [each.read_text() for each in Path("/proc/self/task").glob("*/comm")]
        if any(name.startswith("pt_gloo_runloop") for name in names):
            time.sleep(0.2)


def _require_variables(launcher: str, *names: str) -> None:
    if missing := [name for name in names if name not in os.environ]:
        start = {
            "pytorch": "start the script with `torchrun --nproc_per_node=N script.py`",
            "slurm": "start the script with `srun` inside a Slurm job",
            "mpi": "start the script with `mpirun`, and set MASTER_ADDR to the first machine",
        }[launcher]
        raise UsageRuntimeError(f"launcher={launcher!r} needs the environment variables {', '.join(missing)}: {start}")


def _take_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UsageRuntimeError(
            f"process {local_rank} of this machine has no GPU: {count} visible, "
            f"{os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes started; start at most {count} on each machine, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to run on the CPU"
        )
    torch.cuda.set_device(local_rank)


def _describe_slurm() -> None:
    """Set the variables that torch reads from those of Slurm."""
    _require_variables("slurm", "SLURM_PROCID", "SLURM_NTASKS")
    env = os.environ
    rank, job, tasks = env["SLURM_PROCID"], env.get("SLURM_JOB_ID", ""), env.get("SLURM_NTASKS_PER_NODE", "")
    local_rank = env.get("SLURM_LOCALID", str(int(rank) % max(torch.cuda.device_count(), 1)))
    env.update(RANK=rank, WORLD_SIZE=env["SLURM_NTASKS"], LOCAL_RANK=local_rank)
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = _first_slurm_host()
    if tasks.isdigit():
        env.setdefault("LOCAL_WORLD_SIZE", tasks)
    if job.isdigit():
        env.setdefault("MASTER_PORT", str(20000 + int(job) % 20000))  # so that two jobs on a host differ


def _first_slurm_host() -> str:
    _require_variables("slurm", "SLURM_NODELIST")
    nodes = os.environ["SLURM_NODELIST"]
    if not any(c in nodes for c in "[,"):
        return nodes
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageRuntimeError(f"cannot list the hosts {nodes!r} of Slurm; set MASTER_ADDR to the first") from error
    return shown.stdout.split()[0]


def _describe_mpi() -> None:
    """Set the variables that torch reads from those of Open MPI."""
    names = [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK")]
    _require_variables("mpi", *names)
    os.environ.update(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), [os.environ[name] for name in names]))
    local_size = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    if local_size:
        os.environ.setdefault("LOCAL_WORLD_SIZE", local_size)
    if local_size == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")

"""What a start ran with, besides its code: versions, devices, settings that change numerics, the command line."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import platform
import sys
from typing import Any

import numpy as np
import torch

from .. import __version__, dist
from ..fileio import atomic_write

_VARIABLES = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "BLIS_", "VECLIB_", "DNNL_", "ONEDNN_", "ATEN_", "GOMP_")
_GPU_VARIABLES = ("CUBLAS", "CUDA_", "CUDNN_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "TORCH", "PYTORCH_", "TF32")
_OTHER_VARIABLES = ("PYTHONHASHSEED", "PYTHONPATH", "LD_PRELOAD", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_LEFT_OUT = ("KEY", "TOKEN", "SECRET", "PASSWORD", "TORCHELASTIC")  # secrets, and what a launcher sets


def collect_env(device: torch.device) -> dict[str, Any]:
    """Return versions, devices, settings and the command line, as written to ``env.json``."""
    env: dict[str, Any] = {
        "command": sys.orig_argv,
        "cwd": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "lazyengine": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "device": str(device),
        "world_size": dist.get_world_size(),
        "num_threads": torch.get_num_threads(),
        "num_interop_threads": torch.get_num_interop_threads(),
        "num_cpus": os.cpu_count(),
        "cpu": _cpu(),
        "settings": _settings(),
        "variables": _variables(),
    }
    if device.type == "cuda":
        env["gpu"] = torch.cuda.get_device_name(device)
        env["cudnn"] = torch.backends.cudnn.version()
    env["packages"] = _installed_packages()
    return env


def write_env(path: str | os.PathLike[str], device: torch.device, **more: Any) -> None:
    """Write `collect_env`, and more entries, to a JSON file, which appears whole."""
    with atomic_write(path, "w", encoding="utf-8") as file:
        json.dump({**collect_env(device), **more}, file, indent=1)


@functools.cache
def _cpu() -> dict[str, Any]:
    """Return what the last bits of a result depend on."""
    found: dict[str, Any] = {"machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = (line.partition(":") for line in file.read(8192).splitlines())
        values = {name.strip(): value.strip() for name, _, value in lines}
        flags = values.get("flags", "").split()
        found["model"] = values.get("model name", "")
        found["flags"] = [flag for flag in flags if flag.startswith(("avx", "fma", "amx", "sse4", "f16c"))]
    return found


def _settings() -> dict[str, Any]:
    """Return torch's settings that change results."""
    return {
        "default_dtype": str(torch.get_default_dtype()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
    }


def _variables() -> dict[str, str]:
    """Return the environment variables that change numerics or what is imported; none that may be a secret."""
    begin = (*_VARIABLES, *_GPU_VARIABLES)
    names = [name for name in sorted(os.environ) if name.startswith(begin) or name in _OTHER_VARIABLES]
    return {name: os.environ[name] for name in names if not any(word in name for word in _LEFT_OUT)}


@functools.cache
def _installed_packages() -> dict[str, str]:
    """Return names and exact versions; of what was installed from a repository, its commit as well.

    They are read from the names of the metadata folders; reading the metadata itself would take long.
    """
    packages = {}
    for path in itertools.chain.from_iterable(map(_entries, reversed(sys.path))):
        stem, ending = os.path.splitext(os.path.basename(path))
        if ending in (".dist-info", ".egg-info"):
            package, _, version = stem.partition("-")
            if not version and package in packages:  # of a checkout that is installed as well, and its current folder
                continue
            commit = _installed_commit(os.path.join(path, "direct_url.json"))
            packages[package] = version.removesuffix("-none-any") + (f" @ {commit}" if commit else "")
    return dict(sorted(packages.items()))


def _entries(folder: str) -> list[str]:
    with contextlib.suppress(OSError):  # a zip file, or one that nobody may look into
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    return []


def _installed_commit(path: str) -> str | None:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        return json.load(file).get("vcs_info", {}).get("commit_id")
    return None

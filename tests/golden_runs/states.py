"""What two runs are compared by: hashes of their states, and on which arithmetic they were computed.

Nothing here knows the engine, beyond the names of what it returns.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GROUP_OPTIONS = ("lr", "momentum", "betas", "weight_decay")
SCHEDULER_POSITION = ("last_step", "_global_step")


def digest(state: Any) -> str:
    """Return the SHA-256 of a nested state: dicts in the order of their keys, tensors as dtype, shape and bytes."""
    sha = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            data = item.detach().cpu().contiguous()
            sha.update(f"tensor {data.dtype} {tuple(data.shape)}:".encode())
            sha.update(data.flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(item, np.ndarray):
            add(torch.from_numpy(item))
        elif isinstance(item, Mapping):
            sha.update(f"dict {len(item)}:".encode())
            for key in sorted(item, key=repr):
                sha.update(f"{key!r}=".encode())
                add(item[key])
        elif isinstance(item, list | tuple):
            sha.update(f"list {len(item)}:".encode())
            for each in item:
                add(each)
        elif item is None or isinstance(item, bool | int | float | str):
            sha.update(f"{type(item).__name__} {item!r};".encode())
        else:
            raise TypeError(f"no canonical bytes for {type(item).__name__}: {item!r:.80}")

    add(state)
    return sha.hexdigest()


def optimizer_part(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must stay the same of an optimizer's state dict, or of several by name.

    That is the tensors (and numbers) of every parameter and four options of every group; what a later version may add
    beside them does not count.
    """
    if "param_groups" not in state:
        return {name: optimizer_part(inner) for name, inner in state.items()}
    groups = [{key: plain(group[key]) for key in GROUP_OPTIONS if key in group} for group in state["param_groups"]]
    return {"state": state["state"], "groups": groups}


def scheduler_part(state: Any) -> Any:
    """Return the positions in the states of schedulers: a list of them, or lists by name."""
    if isinstance(state, Mapping):
        return {name: scheduler_part(chain) for name, chain in state.items()}
    return [{key: one[key] for key in SCHEDULER_POSITION} for one in state]


def learning_rates(part: Mapping[str, Any]) -> Any:
    """Return the learning rates in what `optimizer_part` returned, by group, or by name and group."""
    if "groups" in part:
        return [group["lr"] for group in part["groups"]]
    return {name: learning_rates(inner) for name, inner in part.items()}


def plain(value: Any) -> Any:
    """Return a number, or a list of them, without tensors and tuples."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, Tensor) else value


def numerics() -> dict[str, Any]:
    """Return what the last bits of a result depend on; where it is another, hashes need not repeat."""
    flags, vendor = "", ""
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "flags" and not flags:
            flags = value
        elif name.strip() == "vendor_id" and not vendor:
            vendor = value.strip()
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": vendor,
        "cpu_flags": [flag for flag in ("avx2", "fma", "avx512f", "amx_tile") if flag in flags.split()],
    }


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors as a compressed `.npz`."""
    arrays: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in weights.items()}
    np.savez_compressed(path, **arrays)


def largest_difference(one: Path, other: Path, rtol: float) -> float:
    """Return how far two files of `save_weights` are apart: the largest ``|a - b| - rtol * |b|``.

    Raises:
        ValueError: When they do not hold the same names and shapes.
    """
    with np.load(one, allow_pickle=False) as first, np.load(other, allow_pickle=False) as second:
        shapes = [{name: file[name].shape for name in file.files} for file in (first, second)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{one} and {other} do not hold the same: {shapes[0]} and {shapes[1]}")
        differences = []
        for name in first.files:
            a, b = first[name].astype(np.float64), second[name].astype(np.float64)
            differences.append(float((np.abs(a - b) - rtol * np.abs(b)).max()))
        return max(differences)

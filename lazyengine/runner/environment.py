"""What surrounds a run: device, seeds, deterministic algorithms, and a record of versions."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..config import Lazy
from ..dist import get_local_rank, get_rank
from ..optim import AmpOptimWrapper, autocast_for
from ..seeding import MODEL_STREAM, derive_seed

Determinism = Literal["off", "warn", "strict"]
_NONDETERMINISTIC = r"(\S+) does not have a deterministic implementation"


def choose_device(device: str | None) -> torch.device:
    """Return the device of this process: the one named, else the GPU of its local rank, else the CPU.

    Raises:
        ValueError: For what is no device.
        RuntimeError: When a GPU is named and there is none, or fewer.
    """
    if device is None:
        device = f"cuda:{get_local_rank()}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device!r}: expected 'cpu', 'cuda', 'cuda:1' or another that torch knows") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"device={device!r}: this machine, or this build of torch ({torch.__version__}), has no CUDA device; "
                "leave device unset to take what there is, or set runner.device=cpu"
            )
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"device={device!r}: this machine has {torch.cuda.device_count()} CUDA devices, from 0")
        torch.cuda.set_device(chosen)
    return chosen


def set_determinism(mode: Determinism) -> None:
    """Switch torch's deterministic algorithms.

    ``"warn"`` lets operators without a deterministic implementation run and warns about each; ``"strict"`` makes
    them errors. Both set ``CUBLAS_WORKSPACE_CONFIG``, which CUDA needs before its first matrix product.

    Raises:
        ValueError: For another mode.
    """
    if mode not in ("off", "warn", "strict"):
        raise ValueError(f"deterministic={mode!r}: expected 'off', 'warn' or 'strict'")
    if mode != "off":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    if mode != "off" or torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler: seconds
        torch.use_deterministic_algorithms(mode != "off", warn_only=mode == "warn")


@contextlib.contextmanager
def report_nondeterminism(mode: Determinism, logger: logging.Logger) -> Iterator[None]:
    """In the mode ``"warn"``, let torch warn once of each operator without a deterministic form, list all last."""
    if mode != "warn":
        yield
        return
    operators: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", _NONDETERMINISTIC)
        show = warnings.showwarning

        def collect(message: Any, *args: Any, **kwargs: Any) -> None:
            found = re.match(_NONDETERMINISTIC, str(message))
            if found is None or found[1] not in operators:
                show(message, *args, **kwargs)
            if found is not None and found[1] not in operators:
                operators.append(found[1])

        warnings.showwarning = collect
        try:
            yield
        finally:
            logger.info("operators without a deterministic implementation: %s", ", ".join(operators) or "none")


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices) from one integer."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


_MODES = {"train": 0, "val": 1, "test": 2, "epoch": 3}


class ModelStream:
    """The random stream inside the model (dropout, stochastic depth): a function of seed, mode, position and rank.

    Nothing is carried from one iteration to the next, so nothing has to be saved, and neither validation nor the
    number of loader workers moves the stream of training.

    Args:
        seed: The seed of the run.
        device: The device of the model; its generator is seeded beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._rank = get_rank()
        self._base = {mode: derive_seed(seed, MODEL_STREAM, tag) for mode, tag in _MODES.items()}
        self._seeders: list[Callable[[int], Any]] = [torch.default_generator.manual_seed, random.seed]
        if device.type == "cuda":
            torch.cuda.init()
            self._seeders.append(torch.cuda.default_generators[device.index or 0].manual_seed)

    def seed(self, position: int, mode: str = "train") -> None:
        """Seed the streams for iteration `position` of `mode`; takes a few microseconds."""
        seed = derive_seed(self._base[mode], position, self._rank)
        for seeder in self._seeders:
            seeder(seed)
        np.random.seed(seed & 0xFFFFFFFF)


def evaluation_context(optim_wrapper: Any, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which an evaluation computes in the dtype of training.

    Args:
        optim_wrapper: The optimizer wrapper; or its recipe, of which only class and arguments are read, so that an
            evaluation builds no optimizer; or None.
        model: The model that is evaluated.
    """
    if optim_wrapper is None:
        return contextlib.nullcontext()
    if not isinstance(optim_wrapper, Lazy):
        return optim_wrapper.autocast_context(model)
    if not (isinstance(optim_wrapper.target, type) and issubclass(optim_wrapper.target, AmpOptimWrapper)):
        return contextlib.nullcontext()
    given = optim_wrapper.arguments
    return autocast_for(model, given.get("dtype"), given.get("amp_modules"))


def collect_env(device: torch.device) -> dict[str, Any]:
    """Return versions, the code's git commit, devices and the command line, as written to ``env.json``."""
    env: dict[str, Any] = {
        "command": sys.orig_argv,
        "cwd": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "device": str(device),
        "num_threads": torch.get_num_threads(),
        "num_cpus": os.cpu_count(),
        "git": _git_state(),
    }
    if device.type == "cuda":
        env["gpu"] = torch.cuda.get_device_name(device)
        env["cudnn"] = torch.backends.cudnn.version()
    env["packages"] = _installed_packages()
    return env


def write_env(path: str, device: torch.device) -> None:
    """Write `collect_env` to a JSON file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(collect_env(device), file, indent=2)


def _installed_packages() -> dict[str, str]:
    """Names and versions, from the names of the metadata folders; reading the metadata itself would take long."""
    packages = {}
    for folder in reversed(sys.path):
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                if name.endswith(".dist-info"):
                    package, _, version = name.removesuffix(".dist-info").rpartition("-")
                    packages[package] = version
    return dict(sorted(packages.items()))


def _git_state() -> dict[str, Any] | None:
    """Commit and whether there are uncommitted changes, of the folder the program was started from."""
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", *args], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None

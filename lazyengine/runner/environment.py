"""What surrounds a run: its device, and deterministic algorithms."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch

from ..dist import get_local_rank
from ..errors import UsageRuntimeError, UsageValueError

Determinism = Literal["off", "warn", "strict"]
_NONDETERMINISTIC = r"(\S+) does not have a deterministic implementation"


def choose_device(device: str | None) -> torch.device:
    """Return the device of this process: the one named, else the GPU of its local rank (as for "cuda"), else the CPU.

    Raises:
        ValueError: For what is no device.
        RuntimeError: When a GPU is named and there is none, or fewer.
    """
    if device is None:
        device = f"cuda:{get_local_rank()}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UsageValueError(
            f"device={device!r}: expected 'cpu', 'cuda', 'cuda:1' or another that torch knows."
        ) from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageRuntimeError(
                f"device={device!r}: this machine, or this build of torch ({torch.__version__}), has no CUDA device; "
                "leave device unset to take what there is, or set runner.device=cpu."
            )
        if chosen.index is None:  # with which torch sets no device
            chosen = torch.device("cuda", get_local_rank() or torch.cuda.current_device())
        if chosen.index >= torch.cuda.device_count():
            raise UsageRuntimeError(
                f"device={device!r}: this machine has {torch.cuda.device_count()} CUDA devices, from 0."
            )
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
        raise UsageValueError(f"deterministic={mode!r}: expected 'off', 'warn' or 'strict'.")
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

"""The model of a run, for inference: built from its saved config, without its data."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import LazyConfig, arguments_of, instantiate
from ..errors import UsageFileNotFoundError, UsageValueError


class Loaded(NamedTuple):
    """A trained model, and what is known about it.

    Attributes:
        model: The model with the weights, in eval mode.
        config: The config of the run, as `LazyConfig.load` returns it; nothing else of it is built.
        meta: What the checkpoint says of itself: ``epoch``, ``iter``, ``dataset_meta`` (such as the classes) …
        checkpoint: Path of the checkpoint.
    """

    model: nn.Module
    config: Any
    meta: dict[str, Any]
    checkpoint: str


def load(folder: str | os.PathLike[str], checkpoint: str = "best", device: str | torch.device | None = None) -> Loaded:
    """Load the model of a run, ready to predict; neither data nor optimizer is built, nothing is written.

    Args:
        folder: The run folder.
        checkpoint: ``"best"``, ``"latest"``, the name of a file in the folder, or a path.
        device: Where to put the model; None leaves it on the CPU.

    Raises:
        UsageFileNotFoundError: The folder is no run folder, or has no such checkpoint.
        UsageValueError: Several metrics have a best checkpoint, or the config has no runner.
        RuntimeError: Weights are missing in the checkpoint, or do not fit the model.
    """
    from ..runner import Runner

    path = os.path.join(folder, "config.py")
    if not os.path.isfile(path):
        raise UsageFileNotFoundError(f"{os.fspath(folder)} is no run folder: it has no config.py.")
    config = LazyConfig.load(path)
    if not hasattr(config, "runner"):
        raise UsageValueError(f"{path} has no `runner`, whose model could be built.")
    runner = Runner.from_cfg(config, work_dir=os.fspath(folder))
    inside = os.path.join(folder, checkpoint)
    runner.set_checkpoint(inside if os.path.isfile(inside) else checkpoint, strict=True)
    model = instantiate(arguments_of(config.runner)["model"])
    weights = runner.load_from
    assert weights is not None
    meta = weights.load_into(model, "silent")
    return Loaded(model.to(device or "cpu").eval(), config, meta, weights.path)

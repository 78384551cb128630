"""A log of every iteration that a test keeps itself, beside what the engine records, of which the run knows nothing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

LOGBOOK = "LAZYENGINE_TEST_LOGBOOK"
"""The environment variable that names the folder of the log."""
PROGRAM = "from tests.runs.logbook import main; main()"


def main() -> None:
    """Train as `training.main` does, and write loss, gradient norm and a hash of the batch of each iteration."""
    from lazyengine.runner import Runner

    from .training import main

    call_hook = Runner.call_hook

    def call_and_log(self: Any, point: str, **kwargs: Any) -> None:
        call_hook(self, point, **kwargs)
        if point == "after_train_iter":
            log(self, kwargs["data_batch"], kwargs["outputs"])

    Runner.call_hook = call_and_log
    main()


def log(runner: Any, batch: Any, outputs: Any) -> None:
    """Write a line."""
    rank, scalars = int(os.environ.get("RANK", 0)), runner.message_hub.log_scalars
    entry = {
        "iter": runner.iter,
        "rank": rank,
        "loss": {name: float(value) for name, value in outputs.items()},
        "norms": {name: float(each.current()) for name, each in scalars.items() if name.endswith("grad_norm")},
        "hash": digest(batch),
    }
    with open(Path(os.environ[LOGBOOK]) / f"{rank}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def digest(batch: dict[str, Any]) -> str:
    """Return a hash of the tensors of a batch, by a way of its own."""
    sha = hashlib.sha256()
    for name in sorted(batch):
        if isinstance(batch[name], torch.Tensor):
            sha.update(f"{name} {batch[name].dtype} {batch[name].tolist()!r}".encode())
    return sha.hexdigest()


def read(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the last entry of each iteration and rank."""
    lines = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return {(entry["iter"], entry["rank"]): entry for entry in lines}

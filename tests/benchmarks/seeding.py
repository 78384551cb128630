"""What seeding costs an iteration: ``python -m tests.benchmarks.seeding [iterations]``.

In one run, the iterations take turns: without seeding, with that of the batch, with that of the step, with both. So
whatever else the machine does hits them alike; shown are low percentiles of the microseconds of an iteration.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from typing import Any

import torch

from lazyengine import seeding
from lazyengine.dataset import batches
from lazyengine.text import table

from .training import Data, Net, lazyengine

PERCENTILES = (1, 5, 10, 25)


class Turns(Net):
    """Notes in its forward which of four turns it is, and the time."""

    def __init__(self) -> None:
        super().__init__("mlp")
        self.number = 0
        self.found: list[tuple[int, float]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.found.append((self.number % 4, time.perf_counter()))
        return self.layers(x)


def main(num_iters: int) -> None:
    """Train once, and print the table."""
    torch.set_num_threads(1)
    net = Turns()
    seed_streams, seed_step = batches.seed_streams, seeding.ModelStream.seed

    def seed_batch(seed: int) -> None:
        net.number += 1
        if net.number & 1:
            seed_streams(seed)

    def seed_model(stream: Any, position: int, purpose: str = "train") -> None:
        if net.number & 2:
            seed_step(stream, position, purpose)

    batches.seed_streams, seeding.ModelStream.seed = seed_batch, seed_model  # type: ignore[method-assign]
    # A line every 7 iterations, so that each turn has as many of them.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        lazyengine(num_iters, 7, net, Data(num_iters, "mlp"), folder)
    rows: list[tuple[object, ...]] = [("us of an iteration", *(f"{each} %" for each in PERCENTILES))]
    pairs = list(zip(net.found[num_iters // 10 :], net.found[num_iters // 10 + 1 :]))
    for turn, name in enumerate(("no seeding", "of the batch", "of the step", "of both")):
        spent = sorted((end - begin) * 1e6 for (_, begin), (kind, end) in pairs if kind == turn)
        rows.append((name, *(f"{spent[len(spent) * each // 100]:.1f}" for each in PERCENTILES)))
    print(table(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)

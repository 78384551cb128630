"""Resuming late in a long epoch over a fresh start: nothing is read to get there."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from .table import Options, Row, in_process, rows_over, take_turns

NUM_SAMPLES = 10_000_000
POSITION = 600_000  # of 625,000 batches


def run(options: Options) -> list[Row]:
    """Return the row of a resume; how many samples it reads is part of its name."""
    with tempfile.TemporaryDirectory() as folder:
        in_process("resume:start", folder=folder, mode="save")
        modes = ("fresh", "resume")
        ways = {m: lambda m=m: in_process("resume:start", folder=folder, mode=m) for m in modes}
        samples = take_turns(ways, options.rounds, warm_up=False)
    num_read = max(int(sample["num_read"]) for sample in samples["resume"])
    work = f"start at batch {POSITION:,} of a 10 M-sample epoch, reading {num_read} samples"
    return rows_over("fresh", samples, work, {"resume": "<= 0.3 s more, one batch of 16"}, unit="s")


def start(folder: str, mode: str) -> Any:
    """In a fresh process: seconds from the parts' construction to the first forward, and samples read.

    Args:
        folder: Run folder.
        mode: ``"fresh"``, ``"resume"`` or, to make the checkpoint for that, ``"save"``.
    """
    import torch
    from torch import nn

    from lazyengine.dataset import DataLoader
    from lazyengine.hooks import Hook, default_hooks
    from lazyengine.optim import OptimWrapper
    from lazyengine.runner import EpochBasedTrainLoop, Runner

    class Numbers(torch.utils.data.Dataset):
        num_read = 0

        def __len__(self) -> int:
            return NUM_SAMPLES

        def __getitem__(self, index: int) -> float:
            self.num_read += 1
            return float(index)

    class FirstForward(Exception):
        pass

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> Any:
            raise FirstForward

    class SaveThere(Hook):
        def before_train(self, runner: Any) -> None:
            loop = runner.train_loop
            loop.position.iter = loop.position.batch = POSITION
            runner.save_checkpoint("there.pth")
            loop.stop_training = True

    torch.set_num_threads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    data, model = Numbers(), Model()
    runner = Runner(
        model,
        train_loop=EpochBasedTrainLoop(DataLoader(data, 16, shuffle=True), 1),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        hooks=default_hooks() | ({"save": SaveThere()} if mode == "save" else {}),
        work_dir=folder,
        resume=mode == "resume",
    )
    try:
        runner.train()
    except FirstForward:
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert runner.iter == (POSITION if mode == "resume" else 0)
        return {"wall": wall, "cpu": cpu, "num_read": data.num_read}

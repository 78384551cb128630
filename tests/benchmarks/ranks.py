"""What a run sends, opens and writes by rank: ``python -m tests.benchmarks.ranks`` runs 1, 2 and 4 ranks.

Counted are the collective calls that Python makes (of DDP itself, the reducer sends besides), their bytes on rank 0,
files opened for writing and bytes in the run folder, and the part of rank 0's memory and of a checkpoint that belongs
to ranks. What grows with the number of ranks shows as a difference between the columns.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.hooks import CheckpointHook, Hook, Priority, default_hooks
from lazyengine.model import LossAdapter
from lazyengine.nesting import iter_leaves
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, Runner
from lazyengine.text import table

NUM_SAMPLES, BATCH_SIZE = 480, 4
COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor", "broadcast", "broadcast_object_list",
    "gather", "gather_object", "reduce", "scatter", "barrier", "monitored_barrier",
)  # fmt: skip


class Counter:
    """Counts collective calls, those inside another left out, and the bytes that they return or take."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.bytes: collections.Counter[str] = collections.Counter()
        self.files: set[str] = set()
        self._depth = 0

    def install(self, folder: str) -> None:
        """Stand in for torch's functions, and watch which files below `folder` are opened for writing."""
        for name in COLLECTIVES:
            setattr(dist, name, self._counted(name, getattr(dist, name)))

        def watch(event: str, args: Any) -> None:
            is_write = (
                event == "open" and all(isinstance(each, str) for each in args[:2]) and set(args[1]) & set("wax+")
            )
            if is_write and args[0].startswith(folder):
                self.files.add(os.path.basename(args[0]).partition(".tmp")[0])

        sys.addaudithook(watch)

    def _counted(self, name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                result = function(*args, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0:
                self.calls[name] += 1
                self.bytes[name] += _bytes(args[:2])
            return result

        return call


def _bytes(value: Any) -> int:
    tensors = [leaf for _, leaf in iter_leaves(value) if isinstance(leaf, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in tensors) or len(pickle.dumps(value))


class Points(Hook):
    """Notes what was counted by point of the run."""

    priority = Priority.HIGHEST

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.found: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        self._before = (0, 0)

    def _now(self) -> tuple[int, int]:
        return sum(self.counter.calls.values()), sum(self.counter.bytes.values())

    def note(self, point: str) -> None:
        now = self._now()
        self.found[point].append((now[0] - self._before[0], now[1] - self._before[1]))
        self._before = now

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.note("start" if runner.iter == 0 else "line" if runner.iter % 10 == 0 else "iteration")

    def after_train_epoch(self, runner: Any) -> None:
        self.note("last line")

    def after_train(self, runner: Any) -> None:
        self.note("save")


class Data(torch.utils.data.Dataset):
    """Random samples of 10 classes."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((32,), float(index)), index % 10


def run_rank(rank: int, number: int, folder: str) -> None:
    """Train an epoch as one rank of several, and write what was counted."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(number), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(number))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ["RANKS_PORT"])
    torch.set_num_threads(1)
    counter = Counter()
    counter.install(folder)
    data = Data()
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    if number > 1:
        from lazyengine.dist import init_dist

        init_dist("pytorch")
    model = LossAdapter(net, nn.functional.cross_entropy)
    loader = DataLoader(data, BATCH_SIZE, sampler=DefaultSampler(data, shuffle=True))
    points = Points(counter)
    hooks = {**default_hooks(), "points": points, "checkpoint": CheckpointHook(save_last=True)}
    hooks["checkpoint"].priority = Priority.VERY_LOW
    runner = Runner(
        model,
        train_loop=EpochBasedTrainLoop(loader, max_epochs=1),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        hooks=hooks,
        work_dir=f"{folder}/run",
    )
    runner.train()
    answer = {"points": dict(points.found), "files": sorted(counter.files), "calls": dict(counter.calls)}
    Path(folder, f"rank_{rank}.json").write_text(json.dumps(answer))


def measure(number: int) -> dict[str, Any]:
    """Run so many ranks and return what was counted on the first and the last."""
    from tests.ports import free_port

    with tempfile.TemporaryDirectory() as folder:
        os.environ["RANKS_PORT"] = str(free_port())
        mp.start_processes(run_rank, (number, folder), nprocs=number, start_method="spawn")
        ranks = [json.loads(Path(folder, f"rank_{rank}.json").read_text()) for rank in range(number)]
        (path,) = Path(folder, "run").glob("epoch_*.pth")
        checkpoint = read_checkpoint(str(path))
        sizes = {"checkpoint": path.stat().st_size, "of ranks": len(pickle.dumps(checkpoint["ranks"]))}
    return {"first": ranks[0], "last": ranks[-1], "sizes": sizes}


def main() -> None:
    """Print the table."""
    numbers = (1, 2, 4)
    found = {number: measure(number) for number in numbers}

    def most(number: int, point: str, part: int) -> int:
        return max((pair[part] for pair in found[number]["first"]["points"].get(point, [])), default=0)

    rows: list[tuple[object, ...]] = [("on rank 0", *(f"{number} ranks" for number in numbers))]
    for point in ("start", "iteration", "line", "last line", "save"):
        rows.append((f"collective calls: {point}", *(most(number, point, 0) for number in numbers)))
        rows.append((f"bytes in them: {point}", *(most(number, point, 1) for number in numbers)))
    rows += [
        (f"bytes of a file: {name}", *(found[n]["sizes"][name] for n in numbers)) for name in ("checkpoint", "of ranks")
    ]
    rows.append(("files written by rank 0", *(len(found[number]["first"]["files"]) for number in numbers)))
    rows.append(("by the last rank", "", *(len(found[number]["last"]["files"]) for number in numbers[1:])))
    print(table(rows))
    print("written by the last of 4:", found[4]["last"]["files"], "calls of rank 0:", found[4]["first"]["calls"])


if __name__ == "__main__":
    main()

"""The limits of data: a million small files, ten million records, a hundred million samples of a stream.

Each is measured at a tenth of its size too: what is flat has a ratio of 1. The data is synthetic, lies in a temporary
folder, and is removed. `--records N` sets the records of the largest of the three (files: a tenth of it, samples of a
stream: ten times), so that a small disk is enough: 1,000,000 files need about as many inodes and 4 GiB.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from .table import Options, Row, Sample, in_process, rows_over, take_turns

RECORDS = 10_000_000
FILES_IN_A_FOLDER = 1000


def run(options: Options) -> list[Row]:
    """Return the rows."""
    records = options.num_records or (100_000 if options.quick else RECORDS)
    rows: list[Row] = []
    for kind, number in (("files", records // 10), ("records", records), ("stream", records * 10)):
        small, large = (in_process("scale:measure", kind=kind, number=n) for n in (number // 10, number))
        for part, unit in (("start-up", "s"), ("resume", "ms"), ("memory", "MiB")):
            samples = {f"{number // 10:,}": [{"wall": small[part]}], f"{number:,}": [{"wall": large[part]}]}
            goals = {f"{number:,}": "" if part == "start-up" and kind != "stream" else "<= 1.1"}
            what = {"resume": "first batch of a resume", "memory": "memory of the start"}.get(part, part)
            rows += rows_over(f"{number // 10:,}", samples, f"{kind}: {what}", goals, unit)
    for workers in (0, 1, 2):
        samples = in_process("scale:measure_loader", workers=workers, rounds=options.rounds, quick=options.quick)
        rows += rows_over("torch", samples, f"loader, {workers} workers: a batch", {"lazyengine": "<= 1.03"})
    return rows


def measure(kind: str, number: int) -> dict[str, float]:
    """In a fresh process: seconds until the first batch, milliseconds of one in the middle, MiB that it took."""
    import torch

    from lazyengine.dataset import DataLoader, set_epoch

    torch.set_num_threads(1)
    folder = tempfile.mkdtemp(prefix="lazyengine-scale-")
    try:
        make = {"files": _files, "records": _records, "stream": _stream}[kind]
        dataset_of = make(folder, number)
        before, begin = _peak_mib(), time.perf_counter()
        dataset = dataset_of()
        options: dict[str, Any] = {} if kind == "stream" else {"shuffle": True}
        loader = DataLoader(dataset, 32, seed=0, **options)
        set_epoch(loader, 0)
        batches = iter(loader)
        next(batches)
        start = time.perf_counter() - begin
        half = number // 64
        resumed = DataLoader(dataset, 32, seed=0, **options)
        set_epoch(resumed, 0)
        if kind == "stream":  # as it was saved in the middle: half of each shard is read
            state = loader.state_dict()
            read = half // dataset.num_shards  # batches of each shard
            state["stream"]["progress"] = {part: [read, read * 32, False] for part in range(dataset.num_shards)}
            half = read * dataset.num_shards
            resumed.load_state_dict(state)
        begin = time.perf_counter()
        resumed.set_start(half)
        next(iter(resumed))
        return {"start-up": start, "resume": (time.perf_counter() - begin) * 1e3, "memory": _peak_mib() - before}
    finally:
        shutil.rmtree(folder)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _files(folder: str, number: int) -> Any:
    """So many files of 16 bytes, 1,000 a folder; the dataset walks over them, and reads one for each sample."""
    import torch

    from lazyengine.dataset import BaseDataset

    for first in range(0, number, FILES_IN_A_FOLDER):
        inner = os.path.join(folder, f"{first:08d}")
        os.mkdir(inner)
        for i in range(first, min(first + FILES_IN_A_FOLDER, number)):
            with open(os.path.join(inner, f"{i}.bin"), "wb", buffering=0) as file:
                file.write(i.to_bytes(16, "little"))

    class Files(BaseDataset):
        def load_data_list(self) -> Any:
            for inner in sorted(os.scandir(folder), key=lambda each: each.name):
                with os.scandir(inner) as entries:
                    yield from ({"path": f"{inner.name}/{entry.name}"} for entry in entries)

        def __getitem__(self, index: int) -> Any:
            record = self.get_data_info(index)
            content = Path(folder, record["path"]).read_bytes()
            return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    return Files


def _records(folder: str, number: int) -> Any:
    """So many records of an index and a label, kept by the dataset; nothing on disk."""
    import torch

    from lazyengine.dataset import BaseDataset

    class Records(BaseDataset):
        def load_data_list(self) -> Any:
            return ({"index": i, "label": i % 10} for i in range(number))

        def __getitem__(self, index: int) -> Any:
            record = self.get_data_info(index)
            return torch.tensor([record["index"], record["label"]])

    return Records


def _stream(folder: str, number: int) -> Any:
    """A stream of so many samples in 64 virtual shards, each of which begins anywhere."""
    import torch
    from torch.utils.data import IterableDataset

    class Stream(IterableDataset):
        num_shards = 64

        def iter_shard(self, shard: int, epoch: int, state: Any) -> Any:
            for i in range(state or 0, number // self.num_shards):  # the state is the number of samples read
                yield torch.tensor([shard, i])

        def __iter__(self) -> Any:
            raise NotImplementedError

    return Stream


def measure_loader(workers: int, rounds: int, quick: bool) -> dict[str, list[Sample]]:
    """In a fresh process: microseconds of a batch of ours and of torch's loader over one dataset, in turns."""
    import torch
    from torch.utils.data import DataLoader as TorchLoader

    from lazyengine.dataset import DataLoader

    from .training import Data

    torch.set_num_threads(1)
    number = 300 if quick else 3000
    data = Data(number, "cnn")

    def timed(loader: Any) -> Any:
        def read() -> Sample:
            batches = iter(loader)
            next(batches)  # workers start
            cpu, wall = time.process_time(), time.perf_counter()
            count = sum(1 for _ in batches)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            return {"wall": wall / count * 1e6, "cpu": cpu / count * 1e6}

        return read

    options: dict[str, Any] = {"num_workers": workers}
    if workers:
        options["multiprocessing_context"] = "fork"
    return take_turns(
        {
            "torch": timed(TorchLoader(data, 16, shuffle=True, **options)),
            "lazyengine": timed(DataLoader(data, 16, shuffle=True, seed=0, **options)),
        },
        rounds,
    )

"""Memory of a large list of records in the main process and its workers, time to build it, time to read a record."""

from __future__ import annotations

import gc
import itertools
import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from .table import Options, Row, Sample, Samples, in_process, rows_over

MakeList = Callable[[], list[dict[str, Any]]]
AMOUNTS = {  # name: what it is, unit, goals over mmengine
    "memory": ("memory (PSS), all processes", "MB", {"plain": "<= 1.0", "columnar": "<= 0.72"}),
    "access": ("reading one record", "us", {"plain": "<= 0.75"}),
    "build": ("building, beyond making the records", "s", {"plain": "<= 0.6"}),
    "peak": ("peak while building", "MB", {"plain_from_generator": "<= 0.15", "columnar_from_generator": "<= 0.15"}),
}


def run(options: Options) -> list[Row]:
    """Return the rows of a million records (20,000 with --quick), over mmengine or, without it, over pickles."""
    num_records = options.num_records or (20_000 if options.quick else 1_000_000)
    peers = options.find_peers(["mmengine"])
    samples: Samples = {name: [] for name in KINDS if name != "mmengine" or peers}
    for _ in range(options.rounds):
        for name in samples:
            big, small = (in_process("dataset:measure", name=name, num_records=n) for n in (num_records, 100))
            empty = {"memory": small["memory"], "peak": small["peak"], "build": 0.0, "access": 0.0}
            samples[name].append({key: big[key] - empty[key] for key in big})
    base = "mmengine" if peers else "pickles_by_hand"
    rows = []
    for key, (what, unit, goals) in AMOUNTS.items():
        goals = {name: f"{goal} of mmengine" for name, goal in goals.items()}
        rows += rows_over(base, samples, f"{num_records:,} records, 4 workers: {what}", goals, unit=unit, key=key)
    return rows


def measure(name: str, num_records: int) -> Sample:
    """In a fresh process: build, read records here, let 4 workers read everything."""
    import torch
    from torch.utils.data import DataLoader

    making = [0.0]

    def make_list() -> list[dict[str, Any]]:
        start = time.perf_counter()
        records = list(make_records(num_records))
        making.append(time.perf_counter() - start)
        return records

    if name.endswith("generator"):
        start = time.perf_counter()
        for _ in make_records(num_records):
            pass
        making.append(time.perf_counter() - start)
        make_list.num_records = num_records  # type: ignore[attr-defined]
    start = time.perf_counter()
    data = KINDS[name](make_list)
    build = time.perf_counter() - start - making[-1]
    peak = _megabytes("self/status", "VmHWM:")
    gc.collect()
    order = random.Random(0).choices(range(num_records), k=100_000)
    read = data.get_data_info if name == "mmengine" else data.__getitem__
    start = time.perf_counter()
    for i in order:
        read(i)
    access = (time.perf_counter() - start) / len(order) * 1e6
    sampler = torch.randperm(num_records).tolist()
    loader = DataLoader(cast(Any, Labels(data)), 1000, sampler=sampler, num_workers=4, persistent_workers=True)
    for _ in loader:
        pass
    pids = ["self", *(worker.pid for worker in loader._iterator._workers)]  # type: ignore[union-attr]
    memory = sum(_megabytes(f"{pid}/smaps_rollup", "Pss:") for pid in pids)
    return {"memory": memory, "peak": peak, "build": build, "access": access}


def _megabytes(file: str, field: str) -> float:
    """Read a field of a file below /proc, which counts in kB."""
    line = next(line for line in Path("/proc", file).read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def make_records(num_records: int) -> Iterator[dict[str, Any]]:
    """Yield records like those of a detection dataset: a path, sizes, three boxes."""
    draw = random.Random(0)
    for i in range(num_records):
        boxes = [[draw.uniform(0, 640) for _ in range(4)] for _ in range(3)]
        instances = [{"bbox": box, "bbox_label": draw.randrange(80), "ignore_flag": 0} for box in boxes]
        record = {"img_path": f"data/coco/train2017/{i:012d}.jpg", "img_id": i, "height": 480, "width": 640}
        yield record | {"label": draw.randrange(80), "instances": instances}


class Labels:
    """Reads a record as a pipeline would, and sends one number, so that the transport costs nothing."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> int:
        return self.data[index]["label"]


# ---------------------------------------------------------------- kinds: called with what makes the list of records
class PicklesByHand:
    """One pickle after the other in one array, and where each ends."""

    def __init__(self, make_list: MakeList) -> None:
        import numpy as np

        pickles = [pickle.dumps(record, 5) for record in make_list()]
        self.ends = np.array([0, *itertools.accumulate(map(len, pickles))])
        self.data = np.frombuffer(b"".join(pickles), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return pickle.loads(self.data[self.ends[index] : self.ends[index + 1]].data)


def _stored(records: Callable[[], Any], layout: Any) -> Any:
    from lazyengine.dataset import BaseDataset

    class Annotations(BaseDataset):
        def load_data_list(self) -> Any:
            return records()

        __getitem__ = BaseDataset.get_data_info

    return Annotations(serialize_data=layout)


def plain(make_list: MakeList) -> Any:
    """lazyengine's pickled records."""
    return _stored(make_list, True)


def columnar(make_list: MakeList) -> Any:
    """lazyengine's records as columns."""
    return _stored(make_list, "columnar")


def plain_from_generator(make_list: MakeList, layout: Any = True) -> Any:
    """Records that never are a list: as many as `make_list` says or, from elsewhere, a million."""
    return _stored(lambda: make_records(getattr(make_list, "num_records", 1_000_000)), layout)


def columnar_from_generator(make_list: MakeList) -> Any:
    """Columns of records that never are a list."""
    return plain_from_generator(make_list, "columnar")


def _mmengine(make_list: MakeList) -> Any:
    from mmengine.dataset import BaseDataset

    class Annotations(BaseDataset):
        def load_data_list(self) -> Any:
            return make_list()

    return Annotations(serialize_data=True)


KINDS: dict[str, Callable[[MakeList], Any]] = {
    "pickles_by_hand": PicklesByHand, "plain": plain, "columnar": columnar, "mmengine": _mmengine,
    "plain_from_generator": plain_from_generator, "columnar_from_generator": columnar_from_generator,
}  # fmt: skip

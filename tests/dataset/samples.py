"""Datasets for the tests, in a module of their own so that spawned workers can import them."""

import os
import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lazyengine.dataset import BaseDataset


def record(i: int) -> dict[str, Any]:
    """A record as of an image with boxes; `i % 3` boxes."""
    instances = [{"bbox": [0.1 * i, 1.0, 2.5, float(j)], "bbox_label": j, "ignore_flag": 0} for j in range(i % 3)]
    return {"img_path": f"images/{i:06d}.jpg", "height": 480, "label": i % 7, "instances": instances}


class Boxes(BaseDataset):
    """`size` records; `generates` gives them one by one."""

    METAINFO = {"classes": ["a", "b"], "task": "boxes"}  # noqa: RUF012

    def __init__(self, size: int = 20, generates: bool = False, **kwargs: Any) -> None:
        self.size, self.generates = size, generates
        super().__init__(**kwargs)

    def load_data_list(self) -> Any:
        return (record(i) for i in range(self.size)) if self.generates else [record(i) for i in range(self.size)]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [self.get_data_info(idx)["label"]]


class Augmented:
    """Each sample draws from all three global streams."""

    def __init__(self, size: int = 24) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, idx: int) -> tuple[int, int, float, float]:
        return idx, np.random.randint(0, 1 << 30), random.random(), torch.rand(()).item()


def jittered_collate(samples: list[Any]) -> Any:
    """A collate function that draws a random number itself."""
    return torch.tensor([[float(x) for x in sample] for sample in samples]), torch.rand(2)


class Broken(Augmented):
    """Sample 5 fails in the way that is asked for."""

    def __init__(self, how: str) -> None:
        super().__init__(12)
        self.how = how

    def __getitem__(self, idx: int) -> Any:
        if idx == 5:
            if self.how == "dies":
                os._exit(3)
            if self.how == "hangs":
                import threading

                threading.Event().wait()
            if self.how == "stops":
                raise StopIteration
            raise ValueError("a broken image")
        return super().__getitem__(idx)


class ReaderIds(Augmented):
    """Each sample is the number of the process that reads it."""

    def __getitem__(self, idx: int) -> Any:
        return os.getpid()


class Shapes(Augmented):
    """Sample 2 has another shape."""

    def __getitem__(self, idx: int) -> Any:
        return {"image": torch.zeros(3, 5 if idx == 2 else 4), "label": idx}


class Stream(IterableDataset[Any]):
    """An iterable dataset that knows where it stands."""

    def __init__(self, size: int = 12) -> None:
        self.size, self.position = size, 0

    def __iter__(self) -> Any:
        while self.position < self.size:
            self.position += 1
            yield self.position - 1, torch.rand(()).item()
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class StatelessStream(IterableDataset[Any]):
    """An iterable dataset that does not."""

    def __iter__(self) -> Any:
        return iter(range(6))


def file_ids(dataset: Any) -> tuple[int, int]:
    """Which file the records of a dataset lie in, as seen by this process."""
    records = dataset._records
    status = os.fstat(getattr(records, "_records", records).buffer._file_descriptor)  # a subset has records inside
    return status.st_dev, status.st_ino


class FileIds:
    """Each sample says in which file its process finds the records of `inner`."""

    def __init__(self, inner: BaseDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return 4

    def __getitem__(self, idx: int) -> Any:
        return (os.getpid(), *file_ids(self.inner), self.inner.get_data_info(idx)["img_path"])

"""Datasets for the benchmark of a million annotation dicts: plain, columnar, and from a generator.

The benchmark calls a function with `make_list`, which returns the list of dicts, and reads item after item of what it
returns. Run from the root of the repository: `python dataset.py --kind tests.benchmarks.dataset_adapter:columnar`.
"""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from lazyengine.dataset import BaseDataset

MakeList = Callable[[], list[dict[str, Any]]]


class Annotations(BaseDataset):
    """The records that `make` returns; reading item `i` reads its record."""

    def __init__(self, make: Callable[[], Any], **kwargs: Any) -> None:
        self._make: Callable[[], Any] | None = make
        super().__init__(**kwargs)
        self._make = None  # a closure of the benchmark, which cannot be pickled for spawned workers

    def load_data_list(self) -> Any:
        assert self._make is not None
        return self._make()

    __getitem__ = BaseDataset.get_data_info


def plain(make_list: MakeList) -> Annotations:
    """Pickled records."""
    return Annotations(make_list)


def columnar(make_list: MakeList) -> Annotations:
    """Records as columns."""
    return Annotations(make_list, serialize_data="columnar")


def _generated() -> Iterator[dict[str, Any]]:
    """The benchmark's records one by one, as many as its command line asks for."""
    draw = random.Random(0)
    num_records = int(sys.argv[sys.argv.index("--n") + 1]) if "--n" in sys.argv else 1_000_000
    for i in range(num_records):
        yield {
            "img_path": f"data/coco/train2017/{i:012d}.jpg",
            "img_id": i,
            "height": 480,
            "width": 640,
            "label": draw.randrange(80),
            "instances": [
                {"bbox": [draw.random() * 640 for _ in range(4)], "bbox_label": draw.randrange(80), "ignore_flag": 0}
                for _ in range(3)
            ],
        }


def plain_from_generator(make_list: MakeList) -> Annotations:
    """Pickled records that never are a list."""
    return Annotations(_generated)


def columnar_from_generator(make_list: MakeList) -> Annotations:
    """Columns of records that never are a list."""
    return Annotations(_generated, serialize_data="columnar")

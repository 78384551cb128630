"""Writes golden.json: what mmengine does with the same arguments.

Run it with an interpreter that has mmengine 0.10.7: `python tests/dataset/golden.py`.
"""

import collections
import contextlib
import json
import logging
from pathlib import Path
from unittest import mock

import numpy as np

Point = collections.namedtuple("Point", "x y")

SAMPLERS = [
    {"size": size, "seed": seed, "epoch": epoch, "world": world, "round_up": round_up, "shuffle": shuffle}
    for size, world in ((10, 1), (10, 4), (3, 4), (17, 2))
    for seed, epoch in ((0, 0), (7, 3))
    for round_up in (True, False)
    for shuffle in (True, False)
]

COLLATE = {
    "dicts": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
    "nested": [{"a": {"b": [1, 2]}, "c": (1.5, "u")}, {"a": {"b": [3, 4]}, "c": (2.5, "v")}],
    "tuples": [(1, 2.0), (3, 4.0)],
    "lists": [[1, [2, 3]], [4, [5, 6]]],
    "named": [Point(1, [2]), Point(3, [4])],
    "texts": ["a", "b"],
    "numbers": [1, 2],
    "ranges": [range(2), range(2)],
    "arrays": [np.arange(3), np.arange(3)],
}

CATEGORIES = [[0], [0], [0, 1], [], [0], [2], [0], [0], [0, 0], [0]]

SUBSETS = {"first": 3, "last": -2, "none": 0, "some": [4, 0, -1], "nothing": []}

METAINFO = {"classes": ["x", "y"], "task": "other", "number": 3}


def shown(value):
    """Return a text that is equal for equal collated batches."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"Point({', '.join(map(shown, value))})"
    if isinstance(value, (list, tuple)):  # whether a leaf is a list or a tuple is not compared
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(part)}" for key, part in value.items()) + "}"
    if hasattr(value, "tolist"):
        return f"{type(value).__name__}({value.dtype}, {value.tolist()})"
    return repr(value)


def make_golden(dataset_module, as_rank):
    """Return what a module with mmengine's names does, as JSON data; `as_rank(rank, size)` is a context manager."""
    golden = {"samplers": [], "infinite": [], "collate": {}, "subsets": {}}
    for case in SAMPLERS:
        ranks = []
        for rank in range(case["world"]):
            with as_rank(rank, case["world"]):
                sampler = dataset_module.DefaultSampler(
                    range(case["size"]), case["shuffle"], case["seed"], case["round_up"]
                )
            sampler.set_epoch(case["epoch"])
            ranks.append([len(sampler), list(sampler)])
        golden["samplers"].append(ranks)
    for rank in range(3):
        with as_rank(rank, 3):
            sampler = dataset_module.InfiniteSampler(range(12), True, 5)
        golden["infinite"].append([index for index, _ in zip(sampler, range(4))])
    for name, batch in COLLATE.items():
        golden["collate"][name] = [
            shown(dataset_module.pseudo_collate(batch)),
            shown(dataset_module.default_collate(batch)),
        ]

    class Numbers(dataset_module.BaseDataset):
        METAINFO = {"classes": ["a"], "task": "numbers"}  # noqa: RUF012

        def load_data_list(self):
            return [{"value": i} for i in range(len(CATEGORIES))]

        def get_cat_ids(self, idx):
            return CATEGORIES[idx]

    golden["metainfo"] = Numbers(metainfo=METAINFO).metainfo
    for name, indices in SUBSETS.items():
        dataset = Numbers(serialize_data=False).get_subset(indices)
        golden["subsets"][name] = [dataset.get_data_info(i) for i in range(len(dataset))]
    golden["sample_idx"] = [Numbers().get_data_info(i)["sample_idx"] for i in (0, 3, -1)]
    balanced = dataset_module.ClassBalancedDataset(Numbers(), 0.3)
    golden["balanced"] = [balanced.get_data_info(i)["value"] for i in range(len(balanced))]
    repeated = dataset_module.RepeatDataset(Numbers(indices=4), 2)
    golden["repeated"] = [repeated.get_data_info(i)["value"] for i in range(len(repeated))]
    joined = dataset_module.ConcatDataset([Numbers(indices=2), Numbers(indices=-3)])
    golden["joined"] = [joined.get_data_info(i)["value"] for i in range(len(joined))]
    golden["joined_errors"] = []
    for second in ({"extra": 1}, {"task": 3}, {"task": "z"}):
        with contextlib.suppress(Exception):
            dataset_module.ConcatDataset([Numbers(), Numbers(metainfo=second)], ignore_keys=[*second])
            golden["joined_errors"].append("accepted when ignored")
        try:
            dataset_module.ConcatDataset([Numbers(), Numbers(metainfo=second)])
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            golden["joined_errors"].append(kinds[0])
    return golden


if __name__ == "__main__":
    import mmengine.dataset

    logging.disable(logging.WARNING)
    path = Path(__file__).with_name("golden.json")

    def _as_rank(rank, size):
        return mock.patch("mmengine.dataset.sampler.get_dist_info", return_value=(rank, size))

    path.write_text(json.dumps(make_golden(mmengine.dataset, _as_rank)) + "\n")

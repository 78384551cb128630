"""Save predictions in plain types, and read them back for offline evaluation."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lazyengine.checkpoint import read_checkpoint, save_checkpoint, to_plain
from lazyengine.fileio import atomic_write
from lazyengine.logging import print_log

from .metric import BaseMetric
from .samples import fields_of, iter_samples, to_cpu

_ENDINGS = (".pt", ".pth", ".jsonl", ".pkl", ".pickle")


class DumpResults(BaseMetric):
    """Write the predictions of every sample to a file; computes no values.

    Args:
        out_file_path: ``.pt`` (or ``.pth``): tensors stay tensors, read with ``weights_only=True``; ``.jsonl``: a line
            of JSON for each sample, for other programs; ``.pkl`` (or ``.pickle``): a pickled list, as mmengine writes.
        collect_device: See `BaseMetric`.
        collect_dir: See `BaseMetric`.
        keys: Names of the values to keep; None for all.

    Raises:
        ValueError: The file's ending is none of these.
    """

    def __init__(
        self,
        out_file_path: str | os.PathLike[str],
        collect_device: str = "cpu",
        collect_dir: str | None = None,
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(collect_device, None, collect_dir)
        self.out_file_path = os.fspath(out_file_path)
        if not self.out_file_path.endswith(_ENDINGS):
            raise ValueError(
                f"DumpResults: out_file_path must end in {', '.join(_ENDINGS)}, got {self.out_file_path!r}"
            )
        self.keys = None if keys is None else tuple(keys)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep every sample's predictions on the CPU, each in memory of its own, in plain types."""
        for sample in iter_samples(to_cpu(data_samples)):
            self.results.append(to_plain(self._own(sample), "data_samples"))

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Write the file."""
        save_results(results, self.out_file_path)
        print_log(f"{len(results)} results are in {self.out_file_path}", logger="current")
        return {}

    def _own(self, sample: Any) -> Any:
        if isinstance(sample, Tensor):
            return sample.clone()
        if isinstance(sample, tuple | list) and not hasattr(sample, "_fields"):
            return type(sample)(value.clone() if isinstance(value, Tensor) else value for value in sample)
        fields = fields_of(sample)
        if self.keys is not None:
            if missing := [key for key in self.keys if key not in fields]:
                raise KeyError(f"DumpResults: no {missing[0]!r} in the predictions, which have {list(fields)}")
            fields = {key: fields[key] for key in self.keys}
        return {key: value.clone() if isinstance(value, Tensor) else value for key, value in fields.items()}


def save_results(results: Sequence[Any], path: str) -> None:
    """Write samples (plain types and CPU tensors) to a file, whose ending says how; see `DumpResults`."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    if path.endswith((".pt", ".pth")):
        save_checkpoint({"num_samples": len(results), **_columns(results)}, path)
    elif path.endswith(".jsonl"):
        with atomic_write(path, "w", encoding="utf-8") as file:
            for result in results:
                file.write(json.dumps(result, default=_listed) + "\n")
    else:
        with atomic_write(path) as file:
            pickle.dump(list(results), file, protocol=pickle.HIGHEST_PROTOCOL)


def load_results(path: str | os.PathLike[str], *, trusted: bool = False) -> list[Any]:
    """Read the samples that `DumpResults` wrote.

    Args:
        path: The file.
        trusted: Allow a pickle, which can run any code while it is read.

    Returns:
        One dict (tensor, tuple …) for each sample, in the dataset's order.

    Raises:
        ValueError: The ending is unknown, or the file is a pickle and not trusted.
    """
    path = os.fspath(path)
    if path.endswith((".pt", ".pth")):
        return list(_rows(read_checkpoint(path, trusted=trusted)))
    if path.endswith(".jsonl"):
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    if not path.endswith(_ENDINGS):
        raise ValueError(f"{path}: expected a file of DumpResults, ending in {', '.join(_ENDINGS)}")
    if not trusted:
        raise ValueError(
            f"{path}: reading a pickle can run any code · if you trust it, trusted=True (--trusted); or write .pt"
        )
    with open(path, "rb") as file:
        return pickle.load(file)


def _columns(results: Sequence[Any]) -> dict[str, Any]:
    """Stack what can be stacked: a file with a record for each sample would be slow to write and to read."""
    if not results or not all(isinstance(result, dict) and result.keys() == results[0].keys() for result in results):
        return {"samples": list(results)}
    columns: dict[str, Any] = {}
    for key, first in results[0].items():
        values = [result[key] for result in results]
        if isinstance(first, Tensor):
            layouts = {(v.shape, v.dtype) if isinstance(v, Tensor) else None for v in values}
            columns[key] = torch.stack(values) if len(layouts) == 1 else values
        else:
            columns[key] = values
    return {"columns": columns}


def _rows(saved: dict[str, Any]) -> Iterator[Any]:
    if "columns" not in saved:
        yield from saved.get("samples", [])
        return
    columns = saved["columns"]
    for values in zip(*columns.values()):
        yield dict(zip(columns, values))


def _listed(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON · use a .pt file")

"""Save predictions in plain types, and read them back for offline evaluation."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from typing import Any

import torch

from lazyengine.checkpoint import read_checkpoint, save_checkpoint, to_plain
from lazyengine.errors import UsageFileNotFoundError, UsageValueError
from lazyengine.fileio import atomic_write
from lazyengine.logging import output_path, print_log
from lazyengine.nesting import map_leaves

from .metric import BaseMetric, Number
from .samples import fields_of, is_positional, iter_samples, to_cpu

_ENDINGS = (".pt", ".pth", ".jsonl", ".pkl", ".pickle")


class DumpResults(BaseMetric):
    """Write the predictions of every sample to a file; computes no values.

    Args:
        out_file_path: A relative path lies in the folder of the running start, outside a run in the current folder.
            ``.pt`` (or ``.pth``): tensors stay tensors, read with ``weights_only=True``; ``.jsonl``: a line of JSON for
            each sample, for other programs; ``.pkl`` (or ``.pickle``): a pickled list, as mmengine writes.
        collect_device: See `BaseMetric`.
        collect_dir: See `BaseMetric`.
        keys: Names of the values to keep; None for all.
        results_per_sample: See `BaseMetric`.

    Raises:
        UsageValueError: The file's ending is none of these.
    """

    def __init__(
        self,
        out_file_path: str | os.PathLike[str],
        collect_device: str = "cpu",
        collect_dir: str | None = None,
        keys: Sequence[str] | None = None,
        results_per_sample: Number | None = None,
    ) -> None:
        super().__init__(collect_device, None, collect_dir, results_per_sample)
        self.out_file_path = path = os.fspath(out_file_path)
        if not path.endswith(_ENDINGS):
            raise UsageValueError(f"DumpResults: out_file_path must end in {', '.join(_ENDINGS)}, got {path!r}")
        self.keys = None if keys is None else tuple(keys)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep every sample's predictions on the CPU, each in memory of its own, in plain types."""
        self.results += [to_plain(self._own(each), "data_samples") for each in iter_samples(to_cpu(data_samples))]

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Write the file."""
        path = output_path(self.out_file_path)
        save_results(results, path)
        print_log(f"{len(results)} results are in {path}", logger="current")
        return {}

    def _own(self, sample: Any) -> Any:
        """Return a sample as a dict, where it has named values, with tensors in memory of their own."""
        fields = {} if is_positional(sample) or isinstance(sample, torch.Tensor) else fields_of(sample)
        if missing := [key for key in self.keys or () if key not in fields]:
            raise KeyError(f"DumpResults: no {missing[0]!r} in the predictions, which have {list(fields)}")
        kept = {key: fields[key] for key in self.keys or fields} if fields else sample
        return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, kept)


def save_results(results: Sequence[Any], path: str) -> None:
    """Write samples (plain types and CPU tensors) to a file, whose ending says how; see `DumpResults`."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if path.endswith((".pt", ".pth")):
        save_checkpoint({"num_samples": len(results), **_columns(results)}, path)
    elif path.endswith(".jsonl"):
        with atomic_write(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(result, default=_listed) + "\n" for result in results)
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
        UsageFileNotFoundError: There is no such file.
        UsageValueError: The ending is unknown, or the file is a pickle and not trusted.
    """
    path = os.fspath(path)
    if not path.endswith(_ENDINGS):
        raise UsageValueError(f"{path}: expected a file of DumpResults, ending in {', '.join(_ENDINGS)}")
    if path.endswith((".pkl", ".pickle")) and not trusted:
        raise UsageValueError(f"{path}: reading a pickle can run any code · if you trust it, trusted=True (--trusted)")
    if not os.path.isfile(path):
        raise UsageFileNotFoundError(
            f"there is no file {path}; expected one that DumpResults wrote, which saves the predictions of an "
            "evaluation where it is among the metrics of an evaluator."
        )
    if path.endswith((".pt", ".pth")):
        saved = read_checkpoint(path, trusted=trusted)
        if "samples" in saved:
            return saved["samples"]
        return [dict(zip(saved["columns"], values)) for values in zip(*saved["columns"].values())]
    if path.endswith(".jsonl"):
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    with open(path, "rb") as file:
        return pickle.load(file)


def _columns(results: Sequence[Any]) -> dict[str, Any]:
    """Stack what can be stacked: a file with a record for each sample would be slow to write and to read."""
    if not results or not all(isinstance(result, dict) and result.keys() == results[0].keys() for result in results):
        return {"samples": list(results)}
    columns: dict[str, Any] = {}
    for key in results[0]:
        values = [result[key] for result in results]
        layouts = {(value.shape, value.dtype) if isinstance(value, torch.Tensor) else None for value in values}
        columns[key] = torch.stack(values) if len(layouts) == 1 and None not in layouts else values
    return {"columns": columns}


def _listed(value: Any) -> Any:
    if isinstance(value, torch.Tensor | set | frozenset):
        return value.tolist() if isinstance(value, torch.Tensor) else sorted(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON · use a .pt file")

"""Save predictions in plain types, and read them back for offline evaluation."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lazyengine.checkpoint import read_checkpoint, save_checkpoint, to_plain
from lazyengine.errors import UsageFileNotFoundError, UsageKeyError, UsageTypeError, UsageValueError
from lazyengine.fileio import atomic_write
from lazyengine.logging import output_path, print_log
from lazyengine.nesting import map_leaves
from lazyengine.text import short

from .metric import BaseMetric, Number
from .samples import BATCH, fields_of, is_positional, iter_samples, mark_of_batch, to_cpu

_ENDINGS = (".pt", ".pth", ".jsonl", ".pkl", ".pickle")


class DumpResults(BaseMetric):
    """Write the predictions of every sample to a file, anew in each evaluation; computes no values.

    What a batch has one of, as a scalar loss, stands in each of its samples as ``batch_<name>``, beside ``batch_size``.
    In a run a ``.pt`` file also has what the dataset is recognised by, which ``lazyengine evaluate`` compares.

    Args:
        out_file_path: A relative path lies in the folder of the running start, outside a run in the current folder.
            ``.pt`` (or ``.pth``): tensors stay tensors, read with ``weights_only=True``; ``.jsonl``: a line of JSON for
            each sample, for other programs; ``.pkl`` (or ``.pickle``): a pickled list, as mmengine writes.
        collect_device: See `BaseMetric`.
        collect_dir: See `BaseMetric`.
        keys: Names of the values to keep; None for all.
        results_per_sample: See `BaseMetric`.

    Attributes:
        data: Fingerprint of the dataset, as `lazyengine.record.fingerprint` gives it, set by the loop; None by hand.

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
        self.files = [path]
        if not path.endswith(_ENDINGS):
            raise UsageValueError(f"DumpResults: out_file_path must end in {', '.join(_ENDINGS)}, got {path!r}")
        self.keys = None if keys is None else tuple(keys)
        self.data: Mapping[str, Any] | None = None

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep every sample's predictions on the CPU, each in memory of its own, in plain types."""
        samples = iter_samples(mark_of_batch(to_cpu(data_samples)))
        self.results += [to_plain(self._own(each), "data_samples") for each in samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Write the file."""
        path = output_path(self.out_file_path)
        save_results(results, path, self.data)
        print_log(f"{len(results)} results are in {path}", logger="current")
        return {}

    def _own(self, sample: Any) -> Any:
        """Return a sample as a dict, where it has named values, with tensors in memory of their own."""
        fields = {} if is_positional(sample) or isinstance(sample, torch.Tensor) else fields_of(sample)
        names = [name if name in fields else BATCH + name for name in self.keys or fields]
        if missing := [name.removeprefix(BATCH) for name in names if name not in fields]:
            has = f"the predictions, which have {list(fields)}"
            raise UsageKeyError(f"DumpResults: no {missing[0]!r} in {has}; name those to keep in keys")
        kept = {name: fields[name] for name in names} if fields else sample
        return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, kept)


def save_results(results: Sequence[Any], path: str, data: Mapping[str, Any] | None = None) -> None:
    """Write samples (plain types and CPU tensors) to a file, whose ending says how; see `DumpResults`.

    Args:
        results: The samples.
        path: The file.
        data: What the dataset is recognised by; kept in a ``.pt`` file alone.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if path.endswith((".pt", ".pth")):
        save_checkpoint({"num_samples": len(results), "data": data, **_columns(results)}, path)
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
        UsageValueError: The ending is unknown, the file is a pickle and not trusted, or it holds no such samples.
    """
    return read_results(path, trusted)[0]


def read_results(path: str | os.PathLike[str], trusted: bool) -> tuple[list[Any], dict[str, Any] | None]:
    """Read samples as `load_results` does, and what their dataset is recognised by, where the file says it."""
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
        if not (isinstance(saved, Mapping) and isinstance(saved.get("samples", saved.get("columns")), list | Mapping)):
            raise UsageValueError(f"{path} holds no predictions, but {short(saved)}; name a file of DumpResults.")
        if "samples" in saved:
            return saved["samples"], saved.get("data")
        columns = saved["columns"]
        return [dict(zip(columns, values)) for values in zip(*columns.values())], saved.get("data")
    try:
        if path.endswith(".jsonl"):
            with open(path, encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.strip()], None
        with open(path, "rb") as file:
            return list(pickle.load(file)), None
    except (ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise UsageValueError(
            f"{path} cannot be read as predictions ({type(error).__name__}: {error}); name a file of DumpResults."
        ) from error


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
    raise UsageTypeError(f"a {type(value).__name__} cannot be written as JSON · use a .pt file")

"""The dataset class that tasks derive from: metainfo, records in shared storage, a pipeline."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import numpy as np
from torch.utils.data import Dataset

from .. import fileio
from ..dist import get_world_size
from ..errors import UsageKeyError, UsageTypeError, UsageValueError
from .pipeline import Compose
from .storage import ListRecords, RecordSubset, checked_index, store_records

_Method = TypeVar("_Method", bound=Callable[..., Any])
_SAFE_MODULES = ("collections", "datetime", "decimal", "numpy.dtypes")
_SAFE_BUILTINS = ("complex", "set", "frozenset", "bytearray", "range", "slice", "list", "dict", "tuple")
_SAFE_OF_NUMPY = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")  # what pickled arrays are made by


def force_full_init(method: _Method) -> _Method:
    """Make a method call `full_init()` first if that has not happened yet.

    Raises:
        AttributeError: At the call, if the object has no method `full_init`.
    """

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(self, "_fully_initialized", False):
            self.full_init()
            self._fully_initialized = True
        return method(self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]


class BaseDataset(Dataset[Any]):
    """Records (one dict a sample) kept compactly, and a pipeline that turns a record into a sample.

    Derived classes override `load_data_list`, and perhaps `filter_data` and `get_cat_ids`. Metainfo comes from the
    annotation file, then the class's `METAINFO`, then the argument; the later wins.

    Args:
        ann_file: Annotation file, relative to `data_root` unless absolute or remote.
        metainfo: Facts about the dataset, such as class names; a text that names an existing file is
            replaced by the file's lines.
        data_root: Folder that `ann_file` and `data_prefix` are relative to.
        data_prefix: For each key of a record that holds a path, the folder it is relative to. Defaults to
            `dict(img_path="")`.
        filter_cfg: For `filter_data` of derived classes.
        indices: Keep the first (an int), the last (a negative int) or these (a sequence) records only.
        serialize_data: True keeps records as pickles in memory shared by all workers and all ranks of a host;
            `"columnar"` does so in less memory if records have equal structure; False keeps the list itself.
        pipeline: Callables; each gets what the one before returned, the first gets the record.
        test_mode: A sample that the pipeline refuses (None) is an error instead of being replaced by another one.
        lazy_init: Load no records before they are needed.
        max_refetch: How many other samples to try when the pipeline refuses one.

    Raises:
        TypeError: `metainfo` is not a mapping, or a value of `data_prefix` is not a string.
        ValueError: `serialize_data` or `max_refetch` is out of range.
    """

    METAINFO: Mapping[str, Any] = {}
    _fully_initialized = False

    def __init__(
        self,
        ann_file: str | None = "",
        metainfo: Mapping[str, Any] | None = None,
        data_root: str | None = "",
        data_prefix: Mapping[str, str] | None = None,
        filter_cfg: dict[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool | Literal["columnar"] = True,
        pipeline: Iterable[Callable[[Any], Any]] | None = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        if serialize_data not in (True, False, "columnar"):
            raise UsageValueError(f"serialize_data: got {serialize_data!r}; accepted: True, False, 'columnar'")
        if max_refetch < 0:
            raise UsageValueError(f"max_refetch: got {max_refetch}; accepted: 0 or more")
        self.ann_file = ann_file or ""
        self._metainfo = self._load_metainfo(copy.deepcopy(metainfo))
        self.data_root = data_root or ""
        self.data_prefix: dict[str, str] = {"img_path": ""} if data_prefix is None else dict(data_prefix)
        self._is_prefix_given = data_prefix is not None
        self.filter_cfg = copy.deepcopy(filter_cfg)
        self._indices = indices
        self.serialize_data = serialize_data
        self.test_mode = test_mode
        self.max_refetch = max_refetch
        self.data_list: Any = []  # from load_data_list until it is stored; kept if it is not serialized
        self._records: Any = ListRecords([])
        self._join_prefix()
        self.pipeline = Compose(pipeline)
        if not lazy_init:
            self.full_init()

    # ------------------------------------------------------------------ to override
    def load_data_list(self) -> Iterable[Any]:
        """Load the records: a list of dicts, or a generator, which is never held in memory as a whole.

        The default reads `ann_file`, a mapping with `metainfo` and `data_list`, through `parse_data_info`.

        Raises:
            TypeError: The file holds no mapping, or a record is not a dict.
            ValueError: `metainfo` or `data_list` is missing, or no `ann_file` was given.
        """
        if not self.ann_file:
            raise UsageValueError(f"{type(self).__name__} has no ann_file; give one or override `load_data_list`")
        annotations = _read_annotations(self.ann_file)
        if not isinstance(annotations, dict):
            raise UsageTypeError(f"{self.ann_file} must hold a mapping, but holds {type(annotations).__name__}")
        if missing := [key for key in ("metainfo", "data_list") if key not in annotations]:
            raise UsageValueError(f"{self.ann_file} lacks {missing}; it has {sorted(map(str, annotations))[:10]}")
        for key, value in annotations["metainfo"].items():
            self._metainfo.setdefault(key, value)
        records = []
        for raw in annotations["data_list"]:
            parsed = self.parse_data_info(raw)
            for record in parsed if isinstance(parsed, list) else [parsed]:
                if not isinstance(record, dict):
                    raise UsageTypeError(
                        f"parse_data_info: got {type(record).__name__}; accepted: dicts, lists of them"
                    )
                records.append(record)
        return records

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Turn one entry of the annotation file into one record, or several; the default joins `data_prefix`.

        Raises:
            KeyError: The entry lacks a key that `data_prefix` gives a folder for.
        """
        for key, prefix in self.data_prefix.items():
            if key in raw_data_info and prefix:
                raw_data_info[key] = fileio.join(prefix, raw_data_info[key])
            elif prefix and self._is_prefix_given:
                raise UsageKeyError(
                    f"data_prefix[{key!r}] is {prefix!r}, but a record of {self.ann_file} has no {key!r}; "
                    f"it has {sorted(raw_data_info)[:10]}"
                )
        return raw_data_info

    def filter_data(self) -> Iterable[Any]:
        """Return the records of `self.data_list` to keep; the default keeps all.

        `self.data_list` is whatever `load_data_list` returned: where that is a generator, so should this be.
        """
        return self.data_list

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the category numbers in sample `idx`; `ClassBalancedDataset` needs it."""
        raise NotImplementedError(f"{type(self).__name__} must implement `get_cat_ids` to be balanced by class")

    # ------------------------------------------------------------------ samples
    def full_init(self) -> None:
        """Load, filter, select and store the records; does nothing the second time."""
        if self._fully_initialized:
            return
        self.data_list = self.load_data_list()
        records, indices = self.filter_data(), self._indices
        if isinstance(indices, int | np.integer):  # as slicing a list, which also takes numbers beyond its length
            indices = int(indices)
            records = itertools.islice(records, indices) if indices >= 0 else collections.deque(records, -indices)
        elif indices is not None and isinstance(records, list):
            records, indices = [records[i] for i in _checked_indices(indices, len(records))], None
        if self.serialize_data is False:
            self.data_list = list(records)
            self._records = ListRecords(self.data_list)
        else:
            layout = "columnar" if self.serialize_data == "columnar" else "pickle"
            # The number of processes of the job, also before they have joined one another:
            num_ranks = max(get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
            self._records = store_records(records, layout, is_shared_by_ranks=num_ranks > 1)
            self.data_list = []
        self._fully_initialized = True
        if indices is not None and not isinstance(indices, int):
            self.get_subset_(indices)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the record of sample `idx`, a new dict with `sample_idx` (never negative) added.

        Raises:
            IndexError: `idx` is out of range.
        """
        if not self._fully_initialized:
            self.full_init()
        idx = checked_index(idx, len(self._records))
        record = self._records[idx]
        record["sample_idx"] = idx
        return record

    def prepare_data(self, idx: int) -> Any:
        """Return sample `idx` as the pipeline makes it from its record, or None if the pipeline refused it."""
        return self.pipeline(self.get_data_info(idx))

    def __getitem__(self, idx: int) -> Any:
        """Return sample `idx`; one that the pipeline refuses is replaced by another, drawn at random.

        Raises:
            IndexError: `idx` is out of range.
            RuntimeError: The pipeline refused the sample in test mode, or more than `max_refetch` others as well.
        """
        try:
            sample = self.prepare_data(idx)
            return self._refetch(idx) if sample is None else sample
        except Exception as error:
            error.add_note(f"while reading sample {idx} of {self._description()}")
            raise

    def __iter__(self) -> Iterator[Any]:  # without it, an IndexError in the pipeline would end a loop silently
        for idx in range(len(self)):
            yield self[idx]

    @force_full_init
    def __len__(self) -> int:
        return len(self._records)

    def _refetch(self, idx: int) -> Any:
        if self.test_mode:
            raise RuntimeError(f"the pipeline returned None for sample {idx}; in test mode no other may stand in")
        for _ in range(self.max_refetch):
            sample = self.prepare_data(self._rand_another())
            if sample is not None:
                return sample
        raise RuntimeError(
            f"the pipeline returned None for sample {idx} and for {self.max_refetch} others drawn instead "
            "(max_refetch); check the files and the pipeline's conditions"
        )

    def _rand_another(self) -> int:
        """Draw the index of another sample (from numpy's generator, which the loader seeds for each batch)."""
        return int(np.random.randint(0, len(self)))

    # ------------------------------------------------------------------ metainfo and subsets
    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the facts about the dataset."""
        return copy.deepcopy(self._metainfo)

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep only the first (an int), the last (a negative int) or the given samples; stored records are not copied.

        Raises:
            IndexError: More samples than there are, or an index out of range.
            TypeError: `indices` is neither an int nor a sequence.
        """
        index = _checked_indices(indices, len(self))
        if self.serialize_data is False:
            self.data_list = [self.data_list[i] for i in index]
            self._records = ListRecords(self.data_list)
        else:
            self._records = RecordSubset(self._records, index)

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> Self:
        """Return a copy of the dataset with some of its samples only, as `get_subset_` selects them."""
        kept = {key: value for key, value in self.__dict__.items() if key not in ("data_list", "_records")}
        subset = object.__new__(type(self))
        subset.__dict__.update(copy.deepcopy(kept))
        subset.data_list, subset._records = self.data_list, self._records
        subset.get_subset_(indices)
        subset.data_list[:] = copy.deepcopy(subset.data_list)
        return subset

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        merged = dict(copy.deepcopy(cls.METAINFO))
        if metainfo is None:
            return merged
        if not isinstance(metainfo, Mapping):
            raise UsageTypeError(f"metainfo: got {type(metainfo).__name__}; accepted: a mapping")
        for key, value in metainfo.items():
            merged[key] = value
            if isinstance(value, str) and value and fileio.isfile(value):
                with fileio.open(value, "r") as file:
                    merged[key] = [line.rstrip("\r\n") for line in file]
        return merged

    def _join_prefix(self) -> None:
        def below_root(path: str) -> str:
            is_absolute = os.path.isabs(path) or fileio.is_remote(path)
            return path if is_absolute or not self.data_root else fileio.join(self.data_root, path)

        if self.ann_file:
            self.ann_file = below_root(self.ann_file)
        for key, prefix in self.data_prefix.items():
            if not isinstance(prefix, str):
                raise UsageTypeError(f"data_prefix[{key!r}]: got {type(prefix).__name__}; accepted: a string")
            self.data_prefix[key] = below_root(prefix)

    def _description(self) -> str:
        return f"{type(self).__name__}(ann_file={self.ann_file!r})" if self.ann_file else type(self).__name__


def _checked_indices(indices: int | Sequence[int], num_records: int) -> range | np.ndarray:
    """Return which records to keep, as `BaseDataset.get_subset_` takes them, counted from the front."""
    if isinstance(indices, (int, np.integer)):
        if abs(indices) > num_records:
            raise IndexError(f"a subset of {indices} samples: the dataset has {num_records}")
        return range(int(indices)) if indices >= 0 else range(num_records + int(indices), num_records)
    if isinstance(indices, (str, bytes)) or not isinstance(indices, (Sequence, np.ndarray)):
        raise UsageTypeError(f"indices: got {type(indices).__name__}; accepted: an int or a sequence of ints")
    index = np.asarray(indices, np.int64)
    wrong = index[(index < -num_records) | (index >= num_records)]
    if len(wrong):
        raise IndexError(f"indices {wrong[:5].tolist()} are out of range: the dataset has {num_records} samples")
    return np.where(index < 0, index + num_records, index)


class _DataUnpickler(pickle.Unpickler):
    """Loads data only: a pickle from elsewhere can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        is_maker = module.partition(".")[0] == "numpy" and name in _SAFE_OF_NUMPY
        is_maker = is_maker or (module, name) == ("_codecs", "encode")  # of bytes in old pickles
        if is_maker or module in _SAFE_MODULES or (module == "builtins" and name in _SAFE_BUILTINS):
            found = super().find_class(module, name)
            if is_maker or (isinstance(found, type) and "." not in name):
                return found
        raise pickle.UnpicklingError(
            f"the annotation file wants to import {module}.{name}; only plain data and numpy arrays are loaded. "
            "If you trust the file, read it in your own `load_data_list`"
        )


def _read_annotations(path: str) -> Any:
    """Read a `.json`, `.yaml`, `.yml`, `.pkl` or `.pickle` file, local or remote.

    Raises:
        ValueError: The name ends in something else.
        pickle.UnpicklingError: A pickle asks for more than data.
    """
    if not path.endswith((".json", ".yaml", ".yml", ".pkl", ".pickle")):
        raise UsageValueError(
            f"ann_file {path!r} ends in none of .json, .yaml, .yml, .pkl, .pickle; override `load_data_list` to read it"
        )
    with fileio.open(path, "rb") as file:
        if path.endswith(".json"):
            return json.load(file)
        if path.endswith((".pkl", ".pickle")):
            return _DataUnpickler(file).load()
        import yaml

        return yaml.safe_load(file)

"""Datasets made of other datasets."""

from __future__ import annotations

import bisect
import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from torch.utils.data import ConcatDataset as TorchConcatDataset
from torch.utils.data import Dataset

from ..errors import UsageTypeError, UsageValueError
from .base_dataset import force_full_init
from .storage import checked_index


def _metainfo_of(dataset: Any) -> dict[str, Any]:
    return dict(getattr(dataset, "metainfo", {}))


class _Wrapper(Dataset[Any]):
    """What the wrappers share: the first dataset's metainfo, lazy initialisation, reading what is inside."""

    dataset: Any

    def __init__(self, datasets: dict[str, Any], lazy_init: bool) -> None:
        for name, dataset in datasets.items():
            if not hasattr(dataset, "__getitem__") or isinstance(dataset, dict):
                raise UsageTypeError(
                    f"{name}: got {type(dataset).__name__}; accepted: an object with `__getitem__`, `__len__`"
                )
        self._metainfo = _metainfo_of(next(iter(datasets.values())))
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the facts of the dataset inside, of the first if there are several."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """Initialise what is inside; does nothing the second time."""
        if self._fully_initialized:
            return
        for dataset in getattr(self, "datasets", None) or [self.dataset]:
            if hasattr(dataset, "full_init"):
                dataset.full_init()
        self._prepare()
        self._fully_initialized = True

    def _prepare(self) -> None:
        """Compute what needs the datasets inside to be initialised."""

    def _get_ori_dataset_idx(self, idx: int) -> Any:
        raise NotImplementedError

    @force_full_init
    def _find(self, idx: int) -> tuple[Any, int]:
        """Return the dataset that sample `idx` is in, and its index there."""
        return self.dataset, self._get_ori_dataset_idx(idx)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the record of sample `idx`; its `sample_idx` is the one in the dataset that it is from."""
        dataset, idx = self._find(idx)
        return dataset.get_data_info(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the category numbers in sample `idx`."""
        dataset, idx = self._find(idx)
        return dataset.get_cat_ids(idx)

    def __getitem__(self, idx: int) -> Any:
        dataset, idx = self._find(idx)
        return dataset[idx]

    def __iter__(self) -> Iterator[Any]:
        for idx in range(len(self)):  # type: ignore[arg-type]
            yield self[idx]

    def get_subset(self, indices: Any) -> NoReturn:
        """Refused: take the subset of a dataset inside, or pass it `indices`."""
        name = type(self).__name__
        raise NotImplementedError(
            f"a subset of a {name} could mean several things; take the subset of the dataset inside and wrap that, "
            f"or use torch.utils.data.Subset on the {name}"
        )

    get_subset_ = get_subset


class ConcatDataset(_Wrapper, TorchConcatDataset[Any]):
    """Datasets one after the other, with the metainfo of the first.

    Args:
        datasets: The datasets.
        lazy_init: Initialise them only when they are needed.
        ignore_keys: Metainfo key or keys in which the datasets may differ.

    Raises:
        TypeError: An element is no dataset, `ignore_keys` is neither text nor a list, or the types of a metainfo value
            differ.
        ValueError: No datasets, or their metainfo differs.
    """

    datasets: list[Any]

    def __init__(
        self, datasets: Sequence[Any], lazy_init: bool = False, ignore_keys: str | list[str] | None = None
    ) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise UsageValueError("ConcatDataset needs at least one dataset")
        if ignore_keys is not None and not isinstance(ignore_keys, (str, list)):
            raise UsageTypeError(
                f"ignore_keys: got {type(ignore_keys).__name__}; accepted: a string or a list of strings"
            )
        self.ignore_keys = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        super().__init__({f"datasets[{i}]": dataset for i, dataset in enumerate(self.datasets)}, lazy_init=True)
        self._check_metainfo()
        if not lazy_init:
            self.full_init()

    def _check_metainfo(self) -> None:
        infos = [_metainfo_of(dataset) for dataset in self.datasets]
        for key in sorted(set().union(*infos) - set(self.ignore_keys), key=str):
            hint = f"; make them equal, or pass ignore_keys=[{key!r}]"
            for i, info in enumerate(infos):
                if key not in info:
                    raise UsageValueError(f"metainfo[{key!r}] is missing in datasets[{i}] but not in the others{hint}")
            first = infos[0][key]
            for i, value in enumerate(info[key] for info in infos):
                if type(value) is not type(first):
                    kinds = f"a {type(first).__name__} in datasets[0] and a {type(value).__name__} in datasets[{i}]"
                    raise UsageTypeError(f"metainfo[{key!r}] is {kinds}{hint}")
                if not (np.array_equal(first, value) if isinstance(first, np.ndarray) else first == value):
                    values = f"{first!r} in datasets[0], {value!r} in datasets[{i}]"
                    raise UsageValueError(f"metainfo[{key!r}] differs: {values}{hint}")

    def _prepare(self) -> None:
        TorchConcatDataset.__init__(self, self.datasets)

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> tuple[int, int]:
        """Return which dataset sample `idx` is in, and its index there."""
        idx = checked_index(idx, len(self))
        dataset_idx = bisect.bisect_right(self.cumulative_sizes, idx)
        return dataset_idx, idx - (self.cumulative_sizes[dataset_idx - 1] if dataset_idx else 0)

    def _find(self, idx: int) -> tuple[Any, int]:
        dataset_idx, idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx], idx

    @force_full_init
    def __len__(self) -> int:
        return TorchConcatDataset.__len__(self)


class RepeatDataset(_Wrapper):
    """A dataset several times over, so that short epochs become longer.

    Args:
        dataset: The dataset to repeat.
        times: How often it is repeated.
        lazy_init: Initialise it only when it is needed.

    Raises:
        ValueError: `times` is not positive.
    """

    def __init__(self, dataset: Any, times: int, lazy_init: bool = False) -> None:
        if times < 1:
            raise UsageValueError(f"times: got {times}; accepted: 1 or more")
        self.times, self.dataset = times, dataset
        super().__init__({"dataset": dataset}, lazy_init)

    def _get_ori_dataset_idx(self, idx: int) -> int:
        return checked_index(idx, len(self)) % len(self.dataset)

    @force_full_init
    def __len__(self) -> int:
        return self.times * len(self.dataset)


class ClassBalancedDataset(_Wrapper):
    """A dataset in which samples with rare categories appear several times in an epoch.

    Repeat factors as in Gupta, Dollár and Girshick, "LVIS: A dataset for large vocabulary instance segmentation",
    CVPR 2019, section 4.3: a category c in a fraction f(c) of the samples has r(c) = max(1, sqrt(t / f(c))), and a
    sample is repeated ceil(max r(c)) times over its categories.

    Args:
        dataset: A dataset with `get_cat_ids(idx)`.
        oversample_thr: t, the fraction of samples below which a category is repeated.
        lazy_init: Initialise it only when it is needed.

    Raises:
        ValueError: `oversample_thr` is negative.
    """

    def __init__(self, dataset: Any, oversample_thr: float, lazy_init: bool = False) -> None:
        if not oversample_thr >= 0:
            raise UsageValueError(f"oversample_thr: got {oversample_thr}; accepted: a fraction, 0 or more")
        self.oversample_thr, self.dataset = oversample_thr, dataset
        super().__init__({"dataset": dataset}, lazy_init)

    def _prepare(self) -> None:
        repeats = [math.ceil(factor) for factor in self._repeat_factors()]
        self.repeat_indices = np.repeat(np.arange(len(repeats)), repeats)

    def _repeat_factors(self) -> list[float]:
        """Return r of every sample."""
        categories = [frozenset(self.dataset.get_cat_ids(idx)) for idx in range(len(self.dataset))]
        counts = Counter(category for ids in categories for category in ids)
        threshold = self.oversample_thr * len(categories)
        factors = {category: max(1.0, math.sqrt(threshold / count)) for category, count in counts.items()}
        return [max((factors[category] for category in ids), default=1.0) for ids in categories]

    def _get_ori_dataset_idx(self, idx: int) -> int:
        return int(self.repeat_indices[checked_index(idx, len(self))])

    @force_full_init
    def __len__(self) -> int:
        return len(self.repeat_indices)

"""Datasets made of other datasets."""

import bisect
import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from torch.utils.data import ConcatDataset as TorchConcatDataset
from torch.utils.data import Dataset

from .base_dataset import force_full_init


def _metainfo_of(dataset: Any) -> dict[str, Any]:
    return dict(getattr(dataset, "metainfo", {}))


def _full_init(dataset: Any) -> None:
    if hasattr(dataset, "full_init"):
        dataset.full_init()


def _check_dataset(dataset: Any, argument: str) -> None:
    if not hasattr(dataset, "__getitem__") or isinstance(dataset, dict):
        raise TypeError(f"{argument}: got {type(dataset).__name__}; accepted: an object with `__getitem__`, `__len__`")


class _Wrapper(Dataset[Any]):
    """What the wrappers share: metainfo, lazy initialisation, reading through `_get_ori_dataset_idx`."""

    dataset: Any

    def __init__(self, dataset: Any, lazy_init: bool) -> None:
        _check_dataset(dataset, "dataset")
        self.dataset = dataset
        self._metainfo = _metainfo_of(dataset)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the wrapped dataset's facts."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """Initialise the wrapped dataset; does nothing the second time."""
        if not self._fully_initialized:
            _full_init(self.dataset)
            self._fully_initialized = True

    def _get_ori_dataset_idx(self, idx: int) -> int:
        raise NotImplementedError

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the record of sample `idx`; its `sample_idx` is the one in the wrapped dataset."""
        return self.dataset.get_data_info(self._get_ori_dataset_idx(idx))

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the category numbers in sample `idx`."""
        return self.dataset.get_cat_ids(self._get_ori_dataset_idx(idx))

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        return self.dataset[self._get_ori_dataset_idx(idx)]

    def __iter__(self) -> Iterator[Any]:
        for idx in range(len(self)):  # type: ignore[arg-type]
            yield self[idx]

    def get_subset(self, indices: Any) -> NoReturn:
        """Refused: take the subset of the wrapped dataset, or pass it `indices`."""
        _refuse_subset(self)

    def get_subset_(self, indices: Any) -> NoReturn:
        """Refused: take the subset of the wrapped dataset, or pass it `indices`."""
        _refuse_subset(self)


def _refuse_subset(dataset: Any) -> NoReturn:
    name = type(dataset).__name__
    raise NotImplementedError(
        f"a subset of a {name} could mean several things; take the subset of the dataset inside and wrap that, "
        f"or use torch.utils.data.Subset on the {name}"
    )


def _checked(idx: int, length: int) -> int:
    if not -length <= idx < length:
        raise IndexError(f"sample {idx} of {length} does not exist")
    return idx + length if idx < 0 else idx


class ConcatDataset(TorchConcatDataset[Any]):
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
            raise ValueError("ConcatDataset needs at least one dataset")
        for i, dataset in enumerate(self.datasets):
            _check_dataset(dataset, f"datasets[{i}]")
        if ignore_keys is not None and not isinstance(ignore_keys, (str, list)):
            raise TypeError(f"ignore_keys: got {type(ignore_keys).__name__}; accepted: a string or a list of strings")
        self.ignore_keys = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        self._metainfo = _metainfo_of(self.datasets[0])
        self._check_metainfo()
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def _check_metainfo(self) -> None:
        infos = [_metainfo_of(dataset) for dataset in self.datasets]
        for key in sorted(set().union(*infos) - set(self.ignore_keys), key=str):
            hint = f"; make them equal, or pass ignore_keys=[{key!r}]"
            for i, info in enumerate(infos):
                if key not in info:
                    raise ValueError(f"metainfo[{key!r}] is missing in datasets[{i}] but not in the others{hint}")
                first, value = infos[0].get(key), info[key]
                if type(value) is not type(first) and key in infos[0]:
                    raise TypeError(
                        f"metainfo[{key!r}] is a {type(first).__name__} in datasets[0] and a {type(value).__name__} in "
                        f"datasets[{i}]{hint}"
                    )
                is_equal = np.array_equal(first, value) if isinstance(first, np.ndarray) else first == value
                if key in infos[0] and not is_equal:
                    values = f"{first!r} in datasets[0], {value!r} in datasets[{i}]"
                    raise ValueError(f"metainfo[{key!r}] differs: {values}{hint}")

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the first dataset's facts."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """Initialise all datasets; does nothing the second time."""
        if self._fully_initialized:
            return
        for dataset in self.datasets:
            _full_init(dataset)
        super().__init__(self.datasets)
        self._fully_initialized = True

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> tuple[int, int]:
        """Return which dataset sample `idx` is in, and its index there."""
        idx = _checked(idx, len(self))
        dataset_idx = bisect.bisect_right(self.cumulative_sizes, idx)
        return dataset_idx, idx - (self.cumulative_sizes[dataset_idx - 1] if dataset_idx else 0)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the record of sample `idx`; its `sample_idx` is the one in the dataset that it is from."""
        dataset_idx, sample_idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx].get_data_info(sample_idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the category numbers in sample `idx`."""
        dataset_idx, sample_idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx].get_cat_ids(sample_idx)

    @force_full_init
    def __len__(self) -> int:
        return super().__len__()

    def __getitem__(self, idx: int) -> Any:
        dataset_idx, sample_idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx][sample_idx]

    def __iter__(self) -> Iterator[Any]:
        for idx in range(len(self)):
            yield self[idx]

    def get_subset(self, indices: Any) -> NoReturn:
        """Refused: take the subsets of the datasets inside, or pass them `indices`."""
        _refuse_subset(self)

    def get_subset_(self, indices: Any) -> NoReturn:
        """Refused: take the subsets of the datasets inside, or pass them `indices`."""
        _refuse_subset(self)


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
            raise ValueError(f"times: got {times}; accepted: 1 or more")
        self.times = times
        super().__init__(dataset, lazy_init)

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> int:
        return _checked(idx, len(self)) % len(self.dataset)

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
            raise ValueError(f"oversample_thr: got {oversample_thr}; accepted: a fraction, 0 or more")
        self.oversample_thr = oversample_thr
        super().__init__(dataset, lazy_init)

    def full_init(self) -> None:
        """Initialise the wrapped dataset and count its categories; does nothing the second time."""
        if self._fully_initialized:
            return
        _full_init(self.dataset)
        repeats = [math.ceil(factor) for factor in self._repeat_factors()]
        self.repeat_indices = np.repeat(np.arange(len(repeats)), repeats)
        self._fully_initialized = True

    def _repeat_factors(self) -> list[float]:
        """Return r of every sample."""
        categories = [frozenset(self.dataset.get_cat_ids(idx)) for idx in range(len(self.dataset))]
        counts = Counter(category for ids in categories for category in ids)
        threshold = self.oversample_thr * len(categories)
        factors = {category: max(1.0, math.sqrt(threshold / count)) for category, count in counts.items()}
        return [max((factors[category] for category in ids), default=1.0) for ids in categories]

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> int:
        return int(self.repeat_indices[_checked(idx, len(self))])

    @force_full_init
    def __len__(self) -> int:
        return len(self.repeat_indices)

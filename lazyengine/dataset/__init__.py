"""Datasets, samplers, collation and the data loader."""

from __future__ import annotations

from .base_dataset import BaseDataset, force_full_init
from .collate import default_collate, pseudo_collate
from .combined import CombinedLoader
from .generators import OwnGenerators, find_generators
from .loader import DataLoader, set_epoch, set_seed, settle_generators
from .loader import seed_order as seed_order  # of the engine's loops
from .pipeline import Compose
from .samplers import (
    DefaultSampler,
    InfiniteSampler,
    LengthBucketBatchSampler,
    MixingSampler,
    WeightedSampler,
)
from .streams import check_stream, merge_loader_states
from .wrappers import ClassBalancedDataset, ConcatDataset, RepeatDataset

__all__ = [  # noqa: RUF022 - in reading order
    "BaseDataset",
    "Compose",
    "force_full_init",
    "ConcatDataset",
    "RepeatDataset",
    "ClassBalancedDataset",
    "DefaultSampler",
    "InfiniteSampler",
    "WeightedSampler",
    "MixingSampler",
    "LengthBucketBatchSampler",
    "default_collate",
    "pseudo_collate",
    "DataLoader",
    "CombinedLoader",
    "set_epoch",
    "set_seed",
    "find_generators",
    "OwnGenerators",
    "settle_generators",
    "merge_loader_states",
    "check_stream",
]

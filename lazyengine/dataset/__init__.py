"""Datasets, samplers, collation and the data loader."""

from .base_dataset import BaseDataset, force_full_init
from .collate import default_collate, pseudo_collate
from .loader import DataLoader
from .pipeline import Compose
from .samplers import DefaultSampler, InfiniteSampler
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
    "default_collate",
    "pseudo_collate",
    "DataLoader",
]

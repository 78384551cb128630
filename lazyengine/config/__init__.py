"""Configs: experiments as Python files, made of `LazyCall` nodes that `instantiate` turns into objects."""

from .errors import (
    ConfigError,
    ConfigFileError,
    ConfigImportError,
    ConfigNotFoundError,
    ConfigWarning,
    FrozenError,
    MissingArgumentError,
    OverrideError,
    RefError,
    SaveError,
    SharingError,
    TargetError,
    UnknownNameError,
    UnsetError,
)
from .graph import clone, freeze, repeat, replace
from .instantiate import instantiate
from .lazy import Lazy
from .lazy_call import LazyCall, LazyPartial
from .lazy_config import LazyConfig
from .loaded import Config
from .node import REQUIRED, is_node
from .ref import ref

__all__ = [
    "REQUIRED",
    "Config",
    "ConfigError",
    "ConfigFileError",
    "ConfigImportError",
    "ConfigNotFoundError",
    "ConfigWarning",
    "FrozenError",
    "Lazy",
    "LazyCall",
    "LazyConfig",
    "LazyPartial",
    "MissingArgumentError",
    "OverrideError",
    "RefError",
    "SaveError",
    "SharingError",
    "TargetError",
    "UnknownNameError",
    "UnsetError",
    "clone",
    "freeze",
    "instantiate",
    "is_node",
    "ref",
    "repeat",
    "replace",
]

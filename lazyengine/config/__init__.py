"""Configs: experiments as Python files, made of `LazyCall` nodes that `instantiate` turns into objects."""

from typing import TYPE_CHECKING, Any

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
from .node import REQUIRED, Config, is_node
from .ref import ref

if TYPE_CHECKING:
    from .differences import Difference, diff
    from .saving_python import to_python
    from .show import format_tree

_LAZY = {
    "Difference": "differences",
    "diff": "differences",
    "format_tree": "show",
    "to_python": "saving_python",
}  # seldom needed

__all__ = [
    "REQUIRED",
    "Config",
    "ConfigError",
    "ConfigFileError",
    "ConfigImportError",
    "ConfigNotFoundError",
    "ConfigWarning",
    "Difference",
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
    "diff",
    "format_tree",
    "freeze",
    "instantiate",
    "is_node",
    "ref",
    "repeat",
    "replace",
    "to_python",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    return value

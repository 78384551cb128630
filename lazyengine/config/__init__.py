"""Configs: experiments as Python files, made of `LazyCall` nodes that `instantiate` turns into objects."""

from typing import TYPE_CHECKING, Any

from .errors import (
    ConfigError,
    ConfigFileError,
    ConfigImportError,
    ConfigNotFoundError,
    ConfigWarning,
    MissingArgumentError,
    OverrideError,
    RefError,
    SaveError,
    SharingError,
    TargetError,
    UnknownNameError,
    UnsetError,
)
from .graph import clone, repeat
from .instantiate import instantiate
from .lazy_config import LazyConfig
from .node import Config, LazyCall, LazyPartial, arguments_of, is_node, replace, set_argument, sources_of, target_of
from .ref import REQUIRED, Lazy, ref

if TYPE_CHECKING:
    from .saving import to_python
    from .show import Difference, check_config, diff, edited_values, format_tree

__all__ = [
    "REQUIRED",
    "Config",
    "ConfigError",
    "ConfigFileError",
    "ConfigImportError",
    "ConfigNotFoundError",
    "ConfigWarning",
    "Difference",
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
    "arguments_of",
    "check_config",
    "clone",
    "diff",
    "edited_values",
    "format_tree",
    "instantiate",
    "is_node",
    "ref",
    "repeat",
    "replace",
    "set_argument",
    "sources_of",
    "target_of",
    "to_python",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import saving, show  # seldom needed

    value = globals()[name] = getattr(saving if name == "to_python" else show, name)
    return value

"""`LazyConfig`: load a config, apply overrides to it, save it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..interpreter import paused
from .errors import strip_frames


class _Named(type):
    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            known = "LazyConfig.load(file), apply_overrides(cfg, overrides) and save(cfg, file)"
            raise AttributeError(f"LazyConfig has no {name!r}. It has: {known}.", name=name, obj=cls)


class LazyConfig(metaclass=_Named):
    """The three things that are done with whole configs."""

    @staticmethod
    def load(path: str | os.PathLike[str], *mixins: str | os.PathLike[str]) -> Any:
        """Load a config and return it: an object with the file's public data as attributes.

        Args:
            path: A Python file.
            *mixins: Files that change it, run after it in this order as if each imported the ones before.

        Raises:
            ConfigNotFoundError: There is no such file.
            ConfigFileError: It is not a config.
            SharingError: A change of a shared node would reach too far, or not far enough.
            Exception: Whatever the file raises, with its own traceback.
        """
        from .loader import load_file

        try:
            with paused():  # a config imports torch and what it names
                return load_file(os.fspath(path), [os.fspath(mixin) for mixin in mixins])
        except BaseException as error:
            strip_frames(error)
            raise  # a bare raise adds no frame of its own

    @staticmethod
    def apply_overrides(config: Any, overrides: Sequence[str]) -> Any:
        """Apply overrides such as `"optimizer.lr=3e-4"` in place, all or none, and return the config.

        Raises:
            OverrideError: One of them cannot be applied; nothing has been changed.
        """
        from .overrides import apply_overrides

        return apply_overrides(config, overrides)

    @staticmethod
    def save(config: Any, path: str | os.PathLike[str]) -> list[str]:
        """Write the config as `.py`, which `load` reads, or as `.json`, for diffs and other programs.

        Returns:
            The paths of values that had to be pickled (lambdas, local classes, objects); a warning lists them too.

        Raises:
            SaveError: It cannot be written; the message says where.
        """
        from .saving import save

        return save(config, os.fspath(path))

"""`LazyConfig`: load a config, apply overrides to it, save it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .tracebacks import strip_frames


class LazyConfig:
    """The three things that are done with whole configs."""

    @staticmethod
    def load(path: str | os.PathLike[str], **options: Any) -> Any:
        """Load a config and return it: an object with the file's public data as attributes.

        Args:
            path: A Python file, or a saved `.json` or `.pkl`.
            **options: For saved files only, see `lazyengine.config.saving`.

        Raises:
            ConfigNotFoundError: There is no such file.
            ConfigFileError: It is not a config.
            SharingError: A change of a shared node would reach too far, or not far enough.
            Exception: Whatever the file raises, with its own traceback.
        """
        path = os.fspath(path)
        try:
            if path.endswith((".json", ".pkl")):
                from .saving import load_saved

                return load_saved(path, **options)
            from .loader import load_file

            return load_file(path)
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
        """Write the config as `.py`, `.json` or `.pkl`; `load` reads all of them.

        Returns:
            The paths of values that had to be pickled (lambdas, local classes, objects); a warning lists them too.

        Raises:
            SaveError: The format cannot hold it; the message lists the paths.
        """
        from .saving import save

        return save(config, os.fspath(path))

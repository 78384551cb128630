"""Save a config as `.py`, `.json` or `.pkl`, and read the latter two."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from .errors import ConfigWarning, SaveError
from .graph import is_equal
from .node import Config
from .saving_json import read_json, to_json
from .saving_python import write_python


def save(cfg: Config, path: str) -> list[str]:
    """Write a config and return the paths of pickled leaves; the file appears whole or not at all.

    `.py` runs again, from any folder, and is loaded and compared before it appears. `.json` can be compared by any diff
    and is read back without running anything. In both, leaves that no import gives (a lambda, a local class, an object)
    are pickled, and a warning lists them. `.pkl` is for configs where that is expected: the same content as JSON, read
    only with `trusted=True`.
    """
    ending = os.path.splitext(path)[1]
    if ending not in (".py", ".json", ".pkl"):
        raise SaveError(f"Cannot save a config as {path!r}: the name must end with .py, .json or .pkl.")
    if not isinstance(cfg, Config):
        raise SaveError(f"save needs a loaded config, got {type(cfg).__name__}.")
    text, pickled = write_python(cfg) if ending == ".py" else to_json(cfg)
    folder, base = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f"_{os.path.splitext(base)[0]}_{os.getpid()}_being_written{ending}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        if ending == ".py":
            _verify(cfg, temporary, path)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    if pickled and ending != ".pkl":
        warnings.warn(
            ConfigWarning(
                f"{path}: pickled, because no import gives them: {', '.join(pickled[:10])}"
                f"{', ...' if len(pickled) > 10 else ''}. Reading the JSON form needs trusted=True. "
                "Functions and classes in a module of their own would be written by name."
            ),
            stacklevel=3,
        )
    return pickled


def _verify(cfg: Config, file: str, path: str) -> None:
    from .differences import diff
    from .loader import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # they were shown when the config itself was loaded
        try:
            again = load_file(file)
        except Exception as error:
            raise SaveError(f"{path}: the Python that was written for it does not load: {error}") from error
    if not is_equal(cfg, again):
        first = next(iter(diff(cfg, again)), "the sharing of nodes")
        raise SaveError(f"{path}: the Python that was written for it does not give an equal config: {first}.")


def load_saved(path: str, *, allow: Sequence[str] = (), trusted: bool = False) -> Config:
    """Read a config that was saved as JSON, or as `.pkl`. What it names is imported only if allowed.

    Args:
        path: The file.
        allow: Modules (with all below them) whose classes and functions it may name, besides `DEFAULT_ALLOW`.
        trusted: Whether pickled leaves may be read, which runs whatever was put there, and every module be imported.

    Raises:
        SaveError: The file is not such a config, names something that is not allowed, or holds pickled leaves.
        FileNotFoundError: There is no such file.
    """
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".pkl") and not trusted:
        raise SaveError(
            f"{path}: reading a .pkl runs whatever was put into it. Pass trusted=True if you know where it is from."
        )
    return read_json(data, path, allow=allow, trusted=trusted)

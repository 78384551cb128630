"""Reading annotation files and the text files that metainfo names."""

import io
import json
import pickle
from typing import Any

from .. import fileio

_SAFE_MODULES = ("numpy", "collections", "datetime", "decimal")
_SAFE_BUILTINS = ("complex", "set", "frozenset", "bytearray", "range", "slice", "list", "dict", "tuple")


class _DataUnpickler(pickle.Unpickler):
    """Loads data only: a pickle from elsewhere can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        top = module.partition(".")[0]
        is_data = (top in _SAFE_MODULES and "." not in name) or (module == "builtins" and name in _SAFE_BUILTINS)
        if not is_data or name in ("load", "fromfile", "memmap", "runstring"):
            raise pickle.UnpicklingError(
                f"the annotation file wants to import {module}.{name}; only plain data and numpy arrays are loaded. "
                "If you trust the file, read it in your own `load_data_list`"
            )
        return super().find_class(module, name)


def read_annotations(path: str) -> Any:
    """Read a `.json`, `.yaml`, `.yml`, `.pkl` or `.pickle` file, local or remote.

    Raises:
        ValueError: The name ends in something else.
        pickle.UnpicklingError: A pickle asks for more than data.
    """
    if path.endswith(".json"):
        with fileio.open(path, "r") as file:
            return json.load(file)
    if path.endswith((".yaml", ".yml")):
        import yaml

        with fileio.open(path, "r") as file:
            return yaml.safe_load(file)
    if path.endswith((".pkl", ".pickle")):
        with fileio.open(path, "rb") as file:
            return _DataUnpickler(io.BytesIO(file.read())).load()
    raise ValueError(
        f"ann_file {path!r} ends in none of .json, .yaml, .yml, .pkl, .pickle; override `load_data_list` to read it"
    )


def read_lines(path: str) -> list[str]:
    """Read a text file as a list of lines without their ends."""
    with fileio.open(path, "r") as file:
        return [line.rstrip("\r\n") for line in file]

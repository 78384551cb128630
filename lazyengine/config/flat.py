"""A config that was saved as JSON, as text by path."""

from __future__ import annotations

import json
import math
from typing import Any

from .finding import without_folder


def flat_config(text: str) -> dict[str, str]:
    """Return the values of a config, which was saved as JSON, as text by path; nothing that it names is imported."""
    found: dict[str, str] = {}
    _flatten(json.loads(text)["values"], "", found)
    return found


def _flatten(value: Any, path: str, found: dict[str, str]) -> None:
    """Walk over the JSON form of a config, see `lazyengine.config.saving.to_json`."""
    if isinstance(value, dict) and ("$call" in value or "$partial" in value):
        target = str(value.get("$call", value.get("$partial"))).replace(":", ".")
        found[f"{path}._target_"] = without_folder(target)
        value = {**value.get("$with", {}), **({"*": value["$args"]} if "$args" in value else {})}
    if isinstance(value, dict) and list(value) == ["$tuple"]:
        value = value["$tuple"]
        if not any(isinstance(entry, dict | list) for entry in value):
            found[path] = f"({', '.join(map(json.dumps, value))})"
            return
    if isinstance(value, dict) and not any(key.startswith("$") for key in value):
        if not value and path and f"{path}._target_" not in found:
            found[path] = "{}"
        for key, entry in value.items():
            _flatten(entry, f"{path}.{key}" if path else key, found)
    elif isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        for i, entry in enumerate(value):
            _flatten(entry, f"{path}[{i}]", found)
    elif isinstance(value, dict):  # {"$same": "model"}, {"$object": "torch:float16"} …
        found[path] = " ".join(str(content) for content in value.values())
    else:
        found[path] = _as_text(value)


def _as_text(value: Any) -> str:
    """Return a value as JSON; numbers, of which configs are full, without what a call of `json.dumps` takes."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return repr(value)
    return json.dumps(value)

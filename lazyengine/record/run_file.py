"""``run.json`` of a run folder, as the engine and those who look at runs read it; the runner alone writes it."""

from __future__ import annotations

import json
import os
from typing import Any

from ..checkpoint import RUN_FILE, pending_of
from ..errors import UsageValueError

START_FILE = "start.json"
"""In the folder of a start that evaluates: what ``run.json`` says of those that train."""
ENV_FILE = "env.json"
"""In the folder of every start, from its beginning."""
CODE_FOLDER = "code"
"""In the run folder: the code, once for each version."""
PRUNED_FILE = os.path.join("supervision", "pruned.json")
"""In the run folder of a trial that a sweep ended early: at which iteration."""
FORMAT = 1
"""The newest version of ``run.json`` that is read; folders of version 0.1 have none."""


def read_env(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of ``env.json`` of the folder of a start; empty where there is none, or a damaged one."""
    try:
        with open(os.path.join(folder, ENV_FILE), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def code_of_start(folder: str | os.PathLike[str]) -> str | None:
    """Return the hash of the code that the start with a folder has kept, also where it was killed."""
    return read_env(folder).get("code", {}).get("hash")


def read_run_file(folder: str | os.PathLike[str], advice: str) -> dict[str, Any]:
    """Return the content of ``run.json`` of a folder; nothing where there is none.

    Args:
        folder: The run folder.
        advice: What to do about a damaged one; ends its error.

    Raises:
        UsageValueError: It is damaged, or of a later version.
    """
    file = os.path.join(folder, RUN_FILE)
    if not os.path.isfile(file):
        return {}
    try:
        with open(file, encoding="utf-8") as opened:
            content = json.load(opened)
        version, starts = content["format"], content["starts"]
        if not isinstance(version, int) or not all(isinstance(start["start"], int) for start in starts):
            raise TypeError("not of the form that lazyengine writes")
        if content.get("moving") is not None:
            pending_of(content["moving"], os.fspath(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageValueError(f"{file} is damaged: {type(error).__name__}: {error}. {advice}") from error
    if version > FORMAT:
        raise UsageValueError(f"{file} has format {version}, this lazyengine reads up to {FORMAT}; update lazyengine.")
    for start in starts:
        name = str(start.get("folder", ""))
        if name in ("", ".", "..") or os.path.basename(name) != name or "\0" in name:
            raise UsageValueError(f"{file}: {name!r} is not the name of a folder of a start.")
    return content

"""A new beginning in a used folder whose first checkpoint is complete, and has not got its name yet.

From then on the folder is the new run's. The journal in ``run.json`` says so, whatever a kill leaves half done: files
that are going to be moved away count as moved, and the complete file counts under its hidden name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RUN_FILE = "run.json"
"""In a run folder: whose it is, and what each of its starts did. The runner alone writes it."""


class Pending(NamedTuple):
    """What is being moved, and for which checkpoint.

    Attributes:
        start: The number of the start that begins anew.
        run_id: Its run.
        folder: Where the files lie.
        names: The files of the earlier run.
        to: The folder in `folder` that they go to.
        draft: Path of the first checkpoint, complete, under its temporary name.
        path: Path that it gets.
    """

    start: int
    run_id: str
    folder: str
    names: tuple[str, ...]
    to: str
    draft: str
    path: str

    def as_journal(self, run_folder: str) -> dict[str, Any]:
        """Return what ``run.json`` of a run folder holds of it."""
        return {
            "start": self.start,
            "run_id": self.run_id,
            "from": os.path.relpath(self.folder, run_folder),
            "to": self.to,
            "names": list(self.names),
            "draft": os.path.basename(self.draft),
            "name": os.path.basename(self.path),
        }

    def moves(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name of each file, where it was, and where it goes."""
        for name in self.names:
            yield name, os.path.join(self.folder, name), os.path.join(self.folder, self.to, name)

    def hides(self, path: str) -> bool:
        """Return whether a file counts as moved already."""
        folder, name = os.path.split(path)
        is_there = os.path.realpath(folder) == os.path.realpath(self.folder)
        return name in self.names and os.path.isfile(self.draft) and is_there


def pending_of(journal: Any, run_folder: str) -> Pending:
    """Return what a journal says.

    Raises:
        ValueError: It is not one; names in it are no paths, and nothing is moved out of folders of other names.
    """
    try:
        names = [*journal["names"], journal["to"], journal["draft"], journal["name"]]
        folder = os.path.normpath(os.path.join(run_folder, journal["from"]))
        run_name = os.path.basename(os.path.abspath(run_folder))
        are_names = all(os.path.basename(name) == name not in ("", ".", "..") and "\0" not in name for name in names)
        is_draft = journal["draft"].startswith(".") and journal["draft"].endswith(".tmp")
        if are_names and is_draft and os.path.basename(os.path.abspath(folder)) == run_name:
            draft, path = (os.path.join(folder, journal[key]) for key in ("draft", "name"))
            start, run_id = int(journal["start"]), str(journal.get("run_id", ""))
            return Pending(start, run_id, folder, tuple(journal["names"]), journal["to"], draft, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what it says is being moved is damaged: {type(error).__name__}: {error}") from error
    raise ValueError("what it says is being moved are no files of this folder")


def pending_in(folder: str) -> Pending | None:
    """Return what ``run.json`` of a folder says is being moved; None where there is nothing, or a damaged one."""
    file = Path(folder, RUN_FILE)
    if not file.is_file():
        return None
    try:
        journal = json.loads(file.read_text("utf-8")).get("moving")
        return None if journal is None else pending_of(journal, folder)
    except (OSError, ValueError, AttributeError):
        return None

"""Keeps what a start ran with: its code once for each version, in its own folder the environment and the data."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import dist
from ..config import edited_values, format_tree
from ..fileio import atomic_write
from .code import CodeRecord, collect_code, load_code, save_code
from .code_changes import changed_code
from .data import fingerprint
from .environment import write_env
from .repository import describe_repository, repository_of
from .run_file import CODE_FOLDER

_JOIN_S = 30.0
_ENGINE = Path(__file__).resolve().parents[1]


class Recorder:
    """Records one start of a run. Only the main process does anything.

    Args:
        run_folder: The run folder, whose folder ``code`` takes the code.
        start_folder: The folder of this start, which takes ``env.json``.
        device: The device of the run.
        cfg: The loaded config, whose files belong to the code; None where there is none.
        record: Patterns of further files to keep, relative to the current folder.

    Attributes:
        data: The fingerprints of the datasets by name of their loop, once `begin` was called.
        code_hash: The version of the code, as ``code/<hash>.zip``; None until that is kept.
    """

    def __init__(
        self,
        run_folder: str | os.PathLike[str],
        start_folder: str | os.PathLike[str],
        device: torch.device,
        cfg: Any = None,
        record: Sequence[str] = (),
    ) -> None:
        self.code_hash: str | None = None
        self._code_folder = os.path.join(run_folder, CODE_FOLDER)
        self._env_file = os.path.join(start_folder, "env.json")
        self._device = device
        load = getattr(cfg, "__record__", None)
        self._configs: dict[str, bytes] = load.configs if load is not None else {}
        self._config_file: str | None = os.path.abspath(cfg.__file__) if getattr(cfg, "__file__", "") else None
        self._globs = tuple(record)
        self._cfg = cfg if load is not None else None
        self.data: dict[str, Any] = {}
        self._written: list[str] = []
        self._errors: list[str] = []
        self._thread: threading.Thread | None = None

    def begin(self, datasets: Mapping[str, Any] | None = None) -> list[str]:
        """Keep the code that was imported so far; call it before the first iteration, when everything is built.

        A thread writes, and asks git.

        Args:
            datasets: The datasets of the run by name of their loop, of which the fingerprints are kept.

        Returns:
            What the log should say, line by line.
        """
        if not dist.is_main_process():
            return []
        try:
            code = self.code()
        except OSError as error:
            return [f"the code of this start was not kept: {error}"]
        self.data = {name: fingerprint(dataset) for name, dataset in (datasets or {}).items()}
        self._begun = code
        tempfile.gettempdir()  # a worker that is forked while a thread looks for it would wait for ever
        thread = threading.Thread(target=self._keep, args=(code,), name="record", daemon=True)
        thread.start()
        self._thread = thread  # one whose start is interrupted cannot be waited for
        return [f"{name} was changed after it had been imported: what is kept is not what runs" for name in code.edited]

    def wait(self) -> None:
        """Wait until what `begin` collected is written, so that no checkpoint is there without its code."""
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def complete(self) -> list[str]:
        """Keep what was imported since, and wait until everything is written; call it at the end, however it came.

        Files that were kept at the beginning stay as they were then, whoever has changed them meanwhile. Where training
        goes on in the same process, it is called again.

        Returns:
            What the log should say, line by line.
        """
        if self._thread is None:
            return []
        self.wait()
        begun = self.code_hash
        with contextlib.suppress(OSError):
            code = self.code()
            code.restore(self._begun)
            if code.hash != begun:
                self._keep(code)
                first = os.path.join(self._code_folder, f"{begun}.zip")
                if first in self._written and self.code_hash != begun:
                    os.remove(first)
        errors, self._errors = self._errors, []
        return errors

    def code(self) -> CodeRecord:
        """Return the code that is imported now."""
        return collect_code(self._configs, self._globs)

    def changed_code(self, former: str | os.PathLike[str]) -> list[str]:
        """Return what changed since a version that was kept as a zip, as ``file: function``, line by line.

        Raises:
            FileNotFoundError: It is not there.
        """
        return changed_code(load_code(os.fspath(former)), self.code())

    def _keep(self, code: CodeRecord) -> None:
        """Write the code, and then, with what git says, the environment; a full disk stops no training."""
        try:
            path = os.path.join(self._code_folder, f"{code.hash}.zip")
            if not os.path.exists(path):
                save_code(code, self._code_folder)
                self._written.append(path)
            about = {key: getattr(code, key) for key in ("hash", "tops", "paths", "not_contained", "edited")}
            blame = "" if self._cfg is None else format_tree(self._cfg, defaults=False, blame=True)
            edits = [] if self._cfg is None else edited_values(self._cfg)
            more = {"data": self.data, "blame": blame.splitlines(), "edits": edits, **self._ask_git(code)}
            write_env(self._env_file, self._device, code=about, **more)
            self.code_hash = code.hash  # of what is kept, so that what was kept before is removed only then
        except OSError as error:
            self._errors.append(f"the code of this start was not kept: {error}")

    def _ask_git(self, code: CodeRecord) -> dict[str, Any]:
        """Return the state of the config file's repository, of further ones, and of lazyengine's own."""
        files: dict[str, list[str]] = {}
        for path in map(code.where, [name for name in (*code.files, *code.by_hash) if not name.startswith("__")]):
            if (top := repository_of(os.path.dirname(path))) is not None:
                files.setdefault(top, []).append(path)
        main = self._config_file or getattr(sys.modules.get("__main__"), "__file__", None) or os.getcwd()
        home = repository_of(main)
        if home is not None:
            files.setdefault(home, [])
        states = {top: self._repository(top, names) for top, names in files.items()}
        own = sorted(str(path) for path in _ENGINE.rglob("*.py"))
        engine: dict[str, Any] = {"hash": _hash_of_files(own), "git": None}
        if (top := repository_of(str(_ENGINE))) is not None and "site-packages" not in _ENGINE.parts:
            engine["git"] = self._repository(top, own)
        git = states.pop(home, None) if home is not None else None
        return {"git": git, "other_repositories": list(states.values()), "engine": engine}

    def _repository(self, top: str, files: list[str]) -> dict[str, Any]:
        """Return the state of a repository; its patch is written beside the code, once."""
        state = describe_repository(top, files)
        if patch := state.get("patch"):
            content = patch.encode(errors="surrogateescape")
            name = f"{hashlib.sha256(content).hexdigest()[:16]}.patch"
            os.makedirs(self._code_folder, exist_ok=True)
            if not os.path.exists(path := os.path.join(self._code_folder, name)):
                with atomic_write(path) as file:
                    file.write(content)
            state["patch"] = f"{CODE_FOLDER}/{name}"
        return state


def _hash_of_files(paths: list[str]) -> str:
    sha = hashlib.sha256()
    for path in paths:
        content = Path(path).read_bytes()
        sha.update(f"{os.path.relpath(path, _ENGINE)} {len(content)}\n".encode() + content)
    return sha.hexdigest()[:16]

"""The git repositories that a run's files belong to: commit, branch, and what differs from the commit."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from ..config.finding import marked_folder

TIMEOUT_S = 5.0


def repository_of(path: str) -> str | None:
    """Return the top folder of the repository that a file or folder lies in; git is not asked."""
    return marked_folder(os.path.abspath(path), (".git",))


def describe_repository(top: str, files: Sequence[str]) -> dict[str, Any]:
    """Return commit and branch of a repository, and how some of its files differ from the commit.

    Args:
        top: Its folder.
        files: Paths of the files that count, which lie in it; no others are looked at.

    Returns:
        ``commit``, ``branch``, ``differs`` and ``untracked`` (names of files), ``dirty`` (whether there are any) and
        ``patch``; or ``error`` alone, where git does not answer within `TIMEOUT_S`.
    """
    names = sorted(os.path.relpath(path, top).replace(os.sep, "/") for path in files)
    try:
        commit = _git(top, "rev-parse", "HEAD").strip()
        branch = _git(top, "rev-parse", "--abbrev-ref", "HEAD").strip()
        tracked, differing, patch = "", "", ""
        if names:  # without one, git would look at everything
            tracked = _git(top, "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *names)
            differing = _git(top, "diff", "HEAD", "--name-only", "-z", "--", *names)
            patch = _git(top, "diff", "HEAD", "--no-ext-diff", "--", *names) if differing else ""
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        return {"error": f"git did not answer: {reason}"}
    untracked = sorted({*names} - {*tracked.split("\0")})
    differs = sorted({*differing.split("\0")} - {"", *untracked})
    state = {"root": top, "commit": commit, "branch": branch, "dirty": bool(differs or untracked)}
    return {**state, "differs": differs, "untracked": untracked, "patch": patch}


def _git(top: str, *args: str) -> str:
    """Return what git prints, without a pipe anywhere, since a worker forked meanwhile would keep its other end open.

    Files take what is printed; with a whole path and `close_fds=False`, `subprocess` starts by `posix_spawn`, which
    needs no pipe for the child's errors either (Python's own files are not inherited in any case).
    """
    options = ("-c", "core.quotepath=off", "-c", "core.fsmonitor=false")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [shutil.which("git") or "git", "--literal-pathspecs", *options, "-C", top, *args]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "close_fds": False}
        code = subprocess.run(command, **streams, timeout=TIMEOUT_S, env=environment, check=False).returncode
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        if code:
            raise subprocess.CalledProcessError(code, command, stderr=texts[1].strip())
    return texts[0]

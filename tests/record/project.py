"""Projects on disk, and programs that record what they import, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from tests import forks

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
    import sys, json, torch
    from lazyengine.record import Recorder
    {body}
    recorder = Recorder("run", "run/start", torch.device("cpu"), globals().get("cfg"), globals().get("record", ()))
    lines = recorder.begin(globals().get("datasets"))
    {late}
    lines += recorder.complete()
    code = recorder.code()
    print("\\n" + json.dumps({{"lines": lines, "hash": recorder.code_hash, "files": sorted(code.files),
        "by_hash": code.by_hash, "configs": code.configs, "paths": code.paths, "edited": code.edited,
        "not_contained": code.not_contained}}))
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def git(folder: Path, *args: str) -> str:
    """Run git in a folder and return what it prints."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> str:
    """Make a folder a repository with all its files, and return the commit."""
    git(folder, "init", "-q", "-b", "trunk")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD").strip()


def run_python(args: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with this lazyengine."""
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), env.pop("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **env}
    return forks.run(args, cwd=cwd, env=environment)


def record_in(folder: Path, body: str, late: str = "pass", *, script: str = "main.py", **env: str) -> dict[str, Any]:
    """Run a program that records, and return what it found and, as ``env``, what it wrote."""
    program = textwrap.dedent(PROGRAM).format(body=textwrap.dedent(body), late=textwrap.dedent(late))
    (folder / script).write_text(program)
    (folder / "run" / "start").mkdir(parents=True, exist_ok=True)
    done = run_python([script], folder, **env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    found["env"] = json.loads((folder / "run" / "start" / "env.json").read_text())
    return found

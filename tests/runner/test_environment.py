"""What a run notes about its surroundings."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from lazyengine import dist
from lazyengine.runner.environment import choose_device, collect_env, set_determinism

from .toy import toy_runner


def git(folder, *args: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *args], check=True, capture_output=True)


def test_versions_devices_command_line_and_git_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = collect_env(torch.device("cpu"))
    assert env["command"] == sys.orig_argv
    assert (env["torch"], env["numpy"], env["device"]) == (torch.__version__, np.__version__, "cpu")
    assert env["packages"]["numpy"] == np.__version__
    assert env["git"] is None  # no repository
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    clean = collect_env(torch.device("cpu"))["git"]
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "code.py").write_text("a = 2\n")
    assert collect_env(torch.device("cpu"))["git"] == {**clean, "dirty": True}


@pytest.mark.parametrize("log_all_ranks", [False, True])
def test_each_rank_has_a_log_file_where_asked(tmp_path, monkeypatch, log_all_ranks):
    """As rank 1 of 2, without the other."""
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    runner = toy_runner(str(tmp_path), log_all_ranks=log_all_ranks)
    runner.setup()
    logs = [path.name for path in tmp_path.glob("*/*.log")]
    assert logs == ([f"{runner.timestamp}.rank1.log"] if log_all_ranks else [])


def test_choices_that_are_none_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="deterministic='yes': expected 'off', 'warn' or 'strict'"):
        set_determinism("yes")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(RuntimeError, match=r"device='cuda:1': this machine.*has no CUDA device"):
        choose_device("cuda:1")

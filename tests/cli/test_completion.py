"""What a shell completes: commands, options, configs, keys; tried with the shells that are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lazyengine.cli.completion import complete, main
from lazyengine.cli.main import COMMANDS

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPO)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], list(COMMANDS)),
        (["sch"], ["schedule"]),
        (["nothing", "x"], []),
        (["train", "--fast"], ["--fast-dev-run"]),
        (["checkpoint", "ver"], []),
        (["train", "projects/dig"], ["projects/digits/"]),
        (["train", "projects/digits/co"], ["projects/digits/config.py"]),
        (["train", "projects/digits/config.py", "optimizer.weight"], ["optimizer.weight_decay="]),
        (["show", "projects/digits/config.py", "train_loop.max"], ["train_loop.max_epochs="]),
        (["train", "projects/digits/config.py", "optimizer.lr=1"], []),
    ],
)
def test_what_a_word_can_become(words, found):
    assert complete(words) == found


def test_a_config_that_does_not_load_is_no_error(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert main(["words", "--", "train", str(tmp_path / "broken.py"), "op"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_for_its_shell(shell, capsys, tmp_path):
    assert main([shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "lazyengine completion words --" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)


def test_bash_completes(tmp_path, capsys):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    main(["bash"])
    command = tmp_path / "lazyengine"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lazyengine "$@"\n')
    command.chmod(0o755)
    asking = "COMP_WORDS=(lazyengine tra); COMP_CWORD=1; _lazyengine 2>/dev/null; echo ${COMPREPLY[@]}"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [bash, "-c", capsys.readouterr().out + asking], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "train\n"

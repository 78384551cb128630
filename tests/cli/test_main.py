"""The ``lazyengine`` command finds the same code as the scripts in ``tools/``, and imports only what it runs."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lazyengine import interpreter
from lazyengine.cli import main as command

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_argv(monkeypatch):
    """Let the command rename the program without the other tests seeing it."""
    monkeypatch.setattr(sys, "argv", ["lazyengine"])


def test_the_entry_point_is_this_function():
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["lazyengine"].partition(":")
    assert getattr(importlib.import_module(module), name) is command.main


def test_help_lists_every_command_and_imports_no_torch():
    code = "import sys; from lazyengine.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"\n  {name} " in done.stdout for name in command.COMMANDS)


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_command_explains_itself_under_its_own_name(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lazyengine", name, "--help"])
    monkeypatch.setattr(interpreter, "keep", lambda: None)  # it is for a process of a command's own
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: lazyengine {name} ")
    assert "exit codes: 0 " in out


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("name", ["", *command.COMMANDS])
def test_the_page_of_a_command_fits_the_terminal(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.suppress(SystemExit):
        command.main([name, "--help"] if name else ["--help"])
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > columns]


def test_train_and_test_are_the_training_script(capsys):
    assert command.main(["train", "--config", "nowhere.py"]) == 2
    assert command.main(["test", "--config", "nowhere.py"]) == 2
    assert capsys.readouterr().err.count("Config file 'nowhere.py' does not exist") == 2


def test_the_version(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lazyengine {importlib.import_module('lazyengine').__version__}\n"


def test_a_misspelt_command_gets_its_near_match(capsys):
    assert command.main(["tain"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(p.name for p in (REPO / "tools").glob("*.py")))
def test_every_tool_is_a_command(script):
    """A script of `tools/` calls the main of a module that a command also calls."""
    source = (REPO / "tools" / script).read_text()
    modules = {module for module, _, _ in command.COMMANDS.values()}
    assert any(f"from lazyengine.cli.{module} import main" in source for module in modules)

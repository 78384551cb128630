"""What commands print, in terminals of several widths, piped, and without colours."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazyengine.cli.main import main
from tests.imports import imports_from

REPO = Path(__file__).resolve().parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TRAIN = "train configs/base.py --limit train=40 val=2 train_loop.max_epochs=1 --work-dir"
LINES = [
    "show configs/base.py",
    "train configs/base.py --dry-run",
    "show configs/base.py --keys",
    "show configs/base.py --hooks",
    "show configs/base.py --blame optimizer.lr=0.02",
    "show configs/base.py --diff configs/wide.py",
    "test configs/base.py --work-dir work_dirs/first",
    "compare work_dirs",
    "ps",
    "plot work_dirs/first work_dirs/second",
    "schedule configs/base.py",
    "summary configs/base.py",
    "plan configs/base.py --steps 1 --against configs/wide.py",
    "lr-find configs/base.py --steps 5",
    "query work_dirs 'select run, state, reason, path, command from runs'",
    "query work_dirs 'select * from runs'",
    "sweep configs/sweep.py --dry-run",
    "clean work_dirs --dry-run --older 0m",
    "checkpoint show work_dirs/first",
    "export work_dirs/first",
    "new another",
]


class Screen(io.StringIO):
    """A terminal, as far as a program can ask."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stood in a line at any time, without colours and the like."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", self.getvalue()))]


def run(line: str, screen: io.StringIO) -> str:
    """Run a command whose stdout is the screen, and return what it prints."""
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
    with contextlib.redirect_stdout(screen):
        code = main(words)
    assert code == (1 if "--diff" in line else 0), screen.getvalue()
    return screen.getvalue()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with two runs."""
    folder = tmp_path_factory.mktemp("screens")
    with contextlib.chdir(folder):
        run("new made --template plain", io.StringIO())
    with imports_from(folder), contextlib.chdir(folder / "made"):
        sys.path.insert(0, str(folder / "made"))
        for name in ("first", "second"):
            run(f"{TRAIN} work_dirs/{name}", io.StringIO())
        yield folder / "made"


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["lazyengine"])
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("line", LINES)
def test_each_line_is_within_the_width(line, columns, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", str(columns))
    if line.startswith("new"):
        monkeypatch.chdir(tmp_path)
    screen = Screen()
    assert len(run(line, screen)) > 20
    assert not [each for each in screen.lines() if len(each) > columns]


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_training_is_within_the_width_and_its_status_line_has_all(columns, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen()
    run(f"{TRAIN} work_dirs/wide_{columns} runner.hooks.progress_bar.refreshes_per_s=1e6", screen)
    assert "\x1b[" in screen.getvalue()
    assert not [each for each in screen.lines() if len(each) > columns]
    status = r"epoch 1/1 .*\d+/40 loss \d\.\d+  it/s \d+\.?\d*  eta 0:00:0\d  memory [\d,]+ MiB"
    assert [each for each in screen.lines() if re.fullmatch(status, each)]


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_run_is_one_line_of_ps(columns, monkeypatch, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(f"work_dirs/{name}", tmp_path / name, ignore=shutil.ignore_patterns("*.pth"))
    record = json.loads((tmp_path / "second" / "run.json").read_text())
    record["starts"][-1]["ended"] = {
        "how": "failed",
        "iter": 7,
        "reason": "IndexError: Target 2 is out of bounds. " * 2,
    }
    (tmp_path / "second" / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    head, first, second, *rest = (line for line in run("ps .", Screen()).splitlines() if line)
    assert head.split()[:3] == ["run", "state", "step"]
    assert re.search(r"first +finished +40 .*error 0\.\d+", first)
    assert re.search(r"second +failed", second)
    assert "IndexError: Target 2" in " ".join([second, *rest])


def test_piped_there_are_no_colours_and_lines_stay_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    printed = run(f"{TRAIN} work_dirs/piped", io.StringIO())
    assert "\x1b" not in printed
    assert re.search(r"^\d\d:\d\d:\d\d  Epoch\(train\) .*loss: .*lr: .*eta: .*time: ", printed, re.MULTILINE)
    table = run("show configs/base.py --keys optimizer", io.StringIO()).splitlines()
    assert table[0].split() == ["name", "type", "value", "default", "documentation"]


def test_no_color_is_respected_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run(f"{TRAIN} work_dirs/plain", Screen())


def test_a_pseudo_terminal_of_80_columns(project, tmp_path):
    """Once with the width that the system says, which no variable names."""
    pty = pytest.importorskip("pty")
    termios, fcntl, struct = (pytest.importorskip(name) for name in ("termios", "fcntl", "struct"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    env.pop("COLUMNS", None)
    command = [sys.executable, "-m", "lazyengine", *TRAIN.split(), str(tmp_path / "run")]
    output = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=project, env=env) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # Linux: the other side is closed
            while data := os.read(ours, 65536):
                output += data
    os.close(ours)
    assert process.returncode == 0, output.decode()
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", output.decode()))]
    assert any("accuracy" in line or "error" in line for line in lines)
    assert not [line for line in lines if len(line) > 80 and "/" not in line]  # a path is one word
